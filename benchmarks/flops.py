"""Floating-point operations: of a model, and what the machine does of them."""

import contextlib
import math
import os
import time
from unittest import mock

import tensorflow as tf

from nvae_tf.cells import ResidualCell
from nvae_tf.layers import Conv2D, Dense
from nvae_tf.model import NVAE

__all__ = ["BACKWARD_FACTOR", "forward_flop", "matmul_rate", "side_by_side"]

# A training step over its forward pass: the gradients by the input and by the
# kernel cost as much each.
BACKWARD_FACTOR = 3

_MATMUL_SIZE = 2048


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


def matmul_rate(repeats: int = 10) -> float:
    """FLOP per second of float32 products of two 2048 x 2048 matrices.

    Where an operation has not all cores, so many products run side by side
    that they are in use.

    Args:
      repeats: the best of so many counts.
    """
    count = side_by_side()
    factors = [
        tf.random.stateless_uniform([_MATMUL_SIZE] * 2, [0, i])
        for i in range(count)
    ]
    products = tf.function(
        lambda: [tf.linalg.matmul(a, a) for a in factors], autograph=False
    )
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        for product in products():
            product.numpy()
        best = min(best, time.perf_counter() - began)
    return count * 2 * _MATMUL_SIZE**3 / best


def side_by_side() -> int:
    """How many operations it takes to use all cores."""
    cores = len(os.sched_getaffinity(0))
    threads = tf.config.threading.get_intra_op_parallelism_threads() or cores
    return max(1, cores // threads)
