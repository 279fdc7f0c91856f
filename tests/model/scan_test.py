"""A chain of steps is the same as a loop, unrolled, and eagerly."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model.scan import compiled, scan

pytestmark = pytest.mark.numerics

_COUNT = 4


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _step(carry, slices):
    carry = tf.tanh(tf.linalg.matmul(carry, slices["w"]) + slices["more"]["b"])
    return carry, {"carry": carry, "deep": [tf.reduce_sum(carry, axis=-1)]}


def _inputs(count=_COUNT):
    return {
        "w": tf.constant(_normal(count, 3, 3)),
        "more": {"b": tf.constant(_normal(count, 3, seed=1))},
    }


def _run(carry, inputs, count=_COUNT, unroll=False):
    """Results, and gradients of something that sees all of them."""
    with tf.GradientTape() as tape:
        tape.watch([carry, inputs])
        last, outputs = scan(_step, carry, inputs, count, unroll=unroll)
        loss = tf.reduce_sum(last**2) + tf.reduce_sum(
            outputs["carry"] * tf.range(float(count))[:, None, None]
        )
        loss += tf.reduce_sum(outputs["deep"][0] ** 3)
    return last, outputs, tape.gradient(loss, [carry, inputs])


def _expected(carry, inputs):
    carries = []
    w, b = inputs["w"].numpy(), inputs["more"]["b"].numpy()
    for i in range(len(w)):
        carry = np.tanh(carry @ w[i] + b[i])
        carries.append(carry)
    return np.stack(carries)


@pytest.mark.parametrize("count", [1, _COUNT])
def test_steps_run_in_order_on_their_slices(count):
    carry = _normal(2, 3, seed=2)
    carries = _expected(carry, _inputs(count))
    for run in (_run, tf.function(_run, autograph=False)):
        last, outputs, _ = run(tf.constant(carry), _inputs(count), count)
        np.testing.assert_allclose(last, carries[-1], rtol=1e-5)
        np.testing.assert_allclose(outputs["carry"], carries, rtol=1e-5)
        np.testing.assert_allclose(
            outputs["deep"][0], carries.sum(-1), rtol=1e-4, atol=1e-6
        )


def test_loop_unrolled_and_eager_agree_with_their_gradients():
    carry = tf.constant(_normal(2, 3, seed=2))
    compiled = tf.function(_run, autograph=False)
    eager = tf.nest.flatten(_run(carry, _inputs()))
    for unroll in (False, True):
        results = compiled(carry, _inputs(), unroll=unroll)
        tf.nest.assert_same_structure(results, _run(carry, _inputs()))
        for actual, expected in zip(
            tf.nest.flatten(results), eager, strict=True
        ):
            assert np.abs(expected).max() > 0
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_compiler_knows_how_often_loops_run():
    carry, inputs = tf.constant(_normal(2, 3, seed=2)), _inputs()
    plain = tf.function(_run, autograph=False)
    told = compiled(_run)
    program = told.experimental_get_compiler_ir(carry, inputs)(
        stage="optimized_hlo"
    )
    assert program.count(" while(") == 2
    assert program.count("known_trip_count") == 2
    for actual, expected in zip(
        tf.nest.flatten(told(carry, inputs)),
        tf.nest.flatten(plain(carry, inputs)),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def _operations(count, unroll=False):
    @tf.function(autograph=False)
    def run(carry, inputs):
        return scan(_step, carry, inputs, count, unroll=unroll)

    graph = run.get_concrete_function(tf.zeros([2, 3]), _inputs(count)).graph
    names = [op.type for op in graph.get_operations()]
    for function in graph.as_graph_def().library.function:
        names += [node.op for node in function.node_def]
    return names


def test_loop_does_not_grow_with_the_number_of_steps():
    assert len(_operations(3)) == len(_operations(30))
    assert _operations(30).count("Tanh") == 1


def test_unrolled_graph_has_a_copy_for_every_step():
    names = _operations(5, unroll=True)
    assert names.count("Tanh") == 5
    assert not any("While" in name for name in names)


def test_one_step_needs_no_loop():
    assert not any("While" in name for name in _operations(1))


def test_body_is_traced_without_leaving_anything_behind():
    """The trace that finds the outputs' structure is thrown away."""
    calls = []

    def step(carry, slices):
        calls.append(1)
        return carry + slices, carry

    @tf.function(autograph=False)
    def run(carry, inputs):
        return scan(step, carry, inputs, _COUNT)

    last, outputs = run(tf.constant(0.0), tf.range(float(_COUNT)))
    assert float(last) == 6
    np.testing.assert_array_equal(outputs, [0, 0, 1, 3])
    assert len(calls) == 2
