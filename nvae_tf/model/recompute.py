"""Computing again in the backward pass what would take memory to keep.

- "none": every operation keeps what its gradient reads.
- "bn_swish": a convolution behind batch normalisation does not keep its
  input; it is normalised and activated again (paper section 3.1.2).
- "cell": a residual cell or flow cell keeps its input alone.

Layers are pure, so a second computation is the first one over again: noise is
drawn outside of cells, and updates are taken from the first.
"""

import tensorflow as tf

from nvae_tf.distribute import replicas
from nvae_tf.model import batch_norm
from nvae_tf.model.layers import BatchNorm, Conv2D

__all__ = ["normalize_and_convolve", "recomputed"]


def normalize_and_convolve(
    norm: BatchNorm, conv: Conv2D, x, norm_params, conv_params, between=None
):
    """A training pass through both layers that keeps `x` alone.

    Args:
      norm: the first layer.
      conv: the second one.
      x: `[B, H, W, C]`.
      norm_params: what `norm.read_params` returned.
      conv_params: what `conv.read_params` returned.
      between: None, or a linear function of the normalised values.

    Returns:
      `(y, updates)`, the updates of `norm`.
    """

    def convolve(y, kernel):
        return conv.convolve(y if between is None else between(y), kernel)

    y, moments = batch_norm.normalize_then(
        convolve,
        x,
        norm_params["gamma"],
        norm_params["beta"],
        norm.activation,
        conv_params["kernel"],
        norm.known_moments(norm_params),
    )
    return conv.add_bias(y, conv_params), moments._asdict()


def recomputed(function, x, params: dict):
    """`function(x, params)`, which keeps its arguments and nothing else.

    Args:
      function: `(x, params) -> (y, updates)`, one tensor and a nested
        dictionary of tensors, which carry no gradient.
      x: a floating tensor.
      params: nested dictionary of tensors.

    Returns:
      What the function returns.
    """
    structure = []
    which = replicas.current_round()

    @tf.custom_gradient
    def run(x, *weights):
        y, updates = function(x, tf.nest.pack_sequence_as(params, weights))
        structure.append(updates)

        def grad(upstream, *_):
            zero = tf.cast(batch_norm.zero_after(upstream), x.dtype)
            # Copies made ahead of the tape: in a loop the backward pass takes
            # the originals off lists, which it would differentiate, too.
            inputs = [x + zero, *map(tf.identity, weights)]
            again = tf.nest.pack_sequence_as(params, inputs[1:])
            if replicas.count() > 1:
                # The replicas need not tell each other their moments again.
                # Copies, which are of the graph of a loop's backward pass.
                moments = tf.nest.map_structure(tf.identity, updates)
                again = _merged(again, moments)
            with replicas.in_round(which), tf.GradientTape() as tape:
                tape.watch(inputs)
                y = function(inputs[0], again)[0]
            return tape.gradient(
                y,
                inputs,
                upstream,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )

        return (y, *tf.nest.flatten(updates)), grad

    y, *updates = run(x, *tf.nest.flatten(params))
    return y, tf.nest.pack_sequence_as(structure[0], updates)


def _merged(params: dict, updates: dict) -> dict:
    """Parameters together with the updates, in the nests of both."""
    merged = dict(params)
    for name, update in updates.items():
        is_nest = isinstance(update, dict)
        merged[name] = _merged(params[name], update) if is_nest else update
    return merged
