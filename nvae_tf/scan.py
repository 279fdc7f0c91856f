"""Running a chain of equal steps over stacked tensors.

The groups of one scale are the same computation with different weights.  Kept
stacked along a leading axis they run as *one* loop body, whatever their
number: the graph, and with it the time to build and optimise it, does not grow
with the depth of the model.
"""

import tensorflow as tf

__all__ = ["scan"]


def scan(step, carry, inputs, count: int, *, unroll: bool = False):
    """Applies `step` to the slices of `inputs`, one after the other.

    Args:
      step: `(carry, slices) -> (carry, outputs)`; the carry is a tensor that
        keeps shape and dtype, `slices` and `outputs` are nests of tensors.
      carry: the first carry.
      inputs: nest of tensors `[count, ...]`.
      count: number of steps, at least 1.
      unroll: run as `count` copies in the graph instead of a loop.

    Returns:
      `(carry, outputs)`, the outputs stacked to `[count, ...]`.
    """
    if count == 1 or unroll or tf.executing_eagerly():
        return _run_unrolled(step, carry, inputs, count)
    return _run_loop(step, carry, inputs, count)


def _run_unrolled(step, carry, inputs, count: int):
    flat = [tf.unstack(x, count) for x in tf.nest.flatten(inputs)]
    results = []
    for i in range(count):
        slices = tf.nest.pack_sequence_as(inputs, [x[i] for x in flat])
        carry, outputs = step(carry, slices)
        results.append(outputs)
    return carry, tf.nest.map_structure(lambda *x: tf.stack(x), *results)


def _run_loop(step, carry, inputs, count: int):
    sources = [
        tf.TensorArray(
            x.dtype, count, element_shape=x.shape[1:], clear_after_read=False
        ).unstack(x)
        for x in tf.nest.flatten(inputs)
    ]

    def slices_at(i):
        return tf.nest.pack_sequence_as(inputs, [x.read(i) for x in sources])

    # The loop's outputs need their structure beforehand: the body is traced
    # once aside, in a graph that is thrown away.
    template = tf.nest.flatten(
        tf.function(lambda: step(carry, slices_at(0))[1], autograph=False)
        .get_concrete_function()
        .structured_outputs
    )
    structure = []
    results = [
        tf.TensorArray(x.dtype, count, element_shape=x.shape) for x in template
    ]

    def body(i, carry, results):
        carry, outputs = step(carry, slices_at(i))
        structure[:] = [outputs]
        results = [
            array.write(i, x)
            for array, x in zip(results, tf.nest.flatten(outputs), strict=True)
        ]
        return i + 1, carry, results

    _, carry, results = tf.while_loop(
        lambda i, *_: i < count,
        body,
        (tf.constant(0), carry, results),
        maximum_iterations=count,
    )
    stacked = [array.stack() for array in results]
    return carry, tf.nest.pack_sequence_as(structure[0], stacked)
