"""Running a chain of equal steps over stacked tensors.

The groups of one scale are the same computation with different weights.  Kept
stacked along a leading axis they run as *one* loop body, whatever their
number: the graph, and with it the time to build and optimise it, does not grow
with the depth of the model.
"""

import tensorflow as tf

from nvae_tf.distribute import replicas

__all__ = ["compiled", "scan"]

_LOOPS = ("While", "StatelessWhile")


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


def compiled(function):
    """One XLA program of a function whose loops are all of `scan`.

    TensorFlow's gradient of a loop runs as often as the loop has counted at run
    time.  A GPU waits for the host in every round of a loop whose number of
    rounds XLA does not know, so it is told here: loops of `scan` run as often
    as they may at most.

    Args:
      function: of tensors; it may take gradients.

    Returns:
      A `tf.function`.
    """

    def run(*args, **kwargs):
        result = function(*args, **kwargs)
        _tell_rounds(tf.compat.v1.get_default_graph())
        return result

    return tf.function(run, autograph=False, jit_compile=True)


def _tell_rounds(graph) -> None:
    """Puts constants in the place of what loops have counted.

    The loops of gradients carry (counter, most rounds, rounds of the loop whose
    gradient they are, ...).
    """
    for op in graph.get_operations():
        if op.type not in _LOOPS:
            continue
        most, counted = op.inputs[1:3]
        if counted.op.type in _LOOPS and counted.value_index == 0:
            rounds = tf.constant(int(tf.get_static_value(most)))
            # TensorFlow's own gradient changes its loops so; there is no other
            # way to change an operation that there is.
            op._update_input(2, rounds)


def _run_unrolled(step, carry, inputs, count: int):
    flat = [tf.unstack(x, count) for x in tf.nest.flatten(inputs)]
    results = []
    for i in range(count):
        slices = tf.nest.pack_sequence_as(inputs, [x[i] for x in flat])
        carry, outputs = step(carry, slices)
        results.append(outputs)
    return carry, tf.nest.map_structure(lambda *x: tf.stack(x), *results)


def _run_loop(step, carry, inputs, count: int):
    # What is read once is popped off a list, and what is written is pushed:
    # their gradients push and pop in turn.  The gradient of indexing would be
    # a whole list of zeros for every step.
    flat = [tf.convert_to_tensor(x) for x in tf.nest.flatten(inputs)]
    sources = [
        tf.raw_ops.TensorListFromTensor(
            tensor=tf.reverse(x, [0]), element_shape=_shape(x.shape[1:])
        )
        for x in flat
    ]

    def pop(sources):
        popped = [
            tf.raw_ops.TensorListPopBack(
                input_handle=source,
                element_shape=_shape(x.shape[1:]),
                element_dtype=x.dtype,
            )
            for source, x in zip(sources, flat, strict=True)
        ]
        slices = tf.nest.pack_sequence_as(inputs, [p.tensor for p in popped])
        return [p.output_handle for p in popped], slices

    # The loop's outputs need their structure beforehand: the body is traced
    # once aside, in a graph that is thrown away.
    structure = (
        tf.function(lambda: step(carry, pop(sources)[1])[1], autograph=False)
        .get_concrete_function()
        .structured_outputs
    )
    template = tf.nest.flatten(structure)
    results = [
        tf.raw_ops.EmptyTensorList(
            element_shape=_shape(x.shape),
            max_num_elements=count,
            element_dtype=x.dtype,
        )
        for x in template
    ]

    def body(i, carry, sources, results):
        sources, slices = pop(sources)
        with replicas.in_round(replicas.Round(i, count)):
            carry, outputs = step(carry, slices)
        results = [
            tf.raw_ops.TensorListPushBack(input_handle=result, tensor=x)
            for result, x in zip(results, tf.nest.flatten(outputs), strict=True)
        ]
        return i + 1, carry, sources, results

    _, carry, _, results = tf.while_loop(
        lambda i, *_: i < count,
        body,
        (tf.constant(0), carry, sources, results),
        maximum_iterations=count,
        parallel_iterations=replicas.parallel_rounds(),
    )
    stacked = [
        tf.raw_ops.TensorListStack(
            input_handle=result,
            element_shape=_shape(x.shape),
            element_dtype=x.dtype,
            num_elements=count,
        )
        for result, x in zip(results, template, strict=True)
    ]
    return carry, tf.nest.pack_sequence_as(structure, stacked)


def _shape(shape):
    """A static shape as a list operation wants it, -1 where unknown."""
    return tf.constant([-1 if d is None else d for d in shape], tf.int32)
