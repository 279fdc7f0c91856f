"""Floating-point operations of a model."""

import contextlib
import math
from unittest import mock

import tensorflow as tf

from nvae_tf.model.cells import ResidualCell
from nvae_tf.model.layers import Conv2D, Dense
from nvae_tf.model.nvae import NVAE

__all__ = ["BACKWARD_FACTOR", "forward_flop"]

# A training step over its forward pass: the gradients by the input and by the
# kernel cost as much each.
BACKWARD_FACTOR = 3


def forward_flop(model: NVAE) -> int:
    """FLOP of one image's pass through encoder, decoder and image head.

    Convolutions and dense layers only, two per multiplication and addition;
    neither normalising weights nor the power iteration counts.  What counts is
    the model as the paper describes it: the skip of a cell that doubles the
    resolution is convolved before it is enlarged, which gives the same for a
    quarter of the work, but counts in full.

    Args:
      model: runs once, on an image of zeros.
    """
    factors = {id(layer): 4 for layer in _convolved_early(model)}
    counted = []

    def counting(call):
        def call_and_count(layer, x, params=None, *args, **kwargs):
            y, updates = call(layer, x, params, *args, **kwargs)
            # [kh, kw, c_in / groups, c_out] or [c_in, c_out].
            *reduced, _ = params["kernel"].shape
            flop = 2 * math.prod(y.shape[1:]) * math.prod(reduced)
            counted.append(flop * factors.get(id(layer), 1))
            return y, updates

        return call_and_count

    with contextlib.ExitStack() as stack:
        for layer in (Conv2D, Dense):
            stack.enter_context(
                mock.patch.object(layer, "call", counting(layer.call))
            )
        size = model.config.padded_size
        # Outside of a graph every group runs on its own, loops included.
        model(
            tf.zeros([1, size, size, model.config.image_channels]),
            seed=tf.constant([0, 0]),
            with_densities=False,
        )
    return sum(counted)


def _convolved_early(layer):
    """Yields the convolutions in the skips of the cells that enlarge."""
    if isinstance(layer, ResidualCell) and layer.resample == "up":
        yield layer.parts["skip"].parts["conv"]
    for part in layer.parts.values():
        yield from _convolved_early(part)
