"""Adamax against its definition in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model import flat
from nvae_tf.training.optimizer import Adamax

_SHAPES = [(2, 3), (), (4,), (2, 2, 1)]


def _values(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [
        np.float32(scale * rng.normal(size=shape)) * np.ones(shape, np.float32)
        for shape in _SHAPES
    ]


def _by_hand(parameters, gradients, rate, decay, steps):
    parameters = [p.astype(np.float64) for p in parameters]
    m = [np.zeros_like(p) for p in parameters]
    u = [np.zeros_like(p) for p in parameters]
    for t in range(1, steps + 1):
        for i, p in enumerate(parameters):
            g = gradients[t - 1][i] + decay * p
            m[i] = 0.9 * m[i] + 0.1 * g
            u[i] = np.maximum(0.999 * u[i], np.abs(g) + 1e-3)
            parameters[i] = p - rate / (1 - 0.9**t) * m[i] / u[i]
    return parameters


@pytest.mark.parametrize("decay", [0.0, 3e-4, 0.5])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_steps_follow_the_definition(decay, scale):
    start = _values(0)
    # The second gradients are small: u then remembers the first.
    sizes = [1.0, 0.01, 0.5, 2.0, 0.1]
    gradients = [_values(t + 1, scale * size) for t, size in enumerate(sizes)]
    variables = [tf.Variable(p) for p in start]
    optimizer = Adamax(variables, decay)
    step = tf.function(optimizer.apply, autograph=False)
    for t, gradient in enumerate(gradients, 1):
        step(
            optimizer.pack(gradient),
            tf.constant(0.01),
            tf.constant(t, tf.float32),
        )
        expected = _by_hand(start, gradients, 0.01, decay, t)
        for actual, value in zip(variables, expected, strict=True):
            np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-6)


def test_default_decay_is_that_of_the_paper():
    assert Adamax([tf.Variable(1.0)]).weight_decay == 3e-4


def test_first_step_has_the_size_of_the_learning_rate():
    variable = tf.Variable([1.0, -1.0, 0.0])
    optimizer = Adamax([variable], 0.0)
    optimizer.apply([tf.constant([5.0, -80.0, 0.0])], 0.1, 1.0)
    # |g| / (|g| + 1e-3)
    np.testing.assert_allclose(
        variable, [1 - 0.1 * 5 / 5.001, -1 + 0.1 * 80 / 80.001, 0.0], rtol=1e-6
    )


def test_decay_goes_through_the_moments():
    """Coupled: without a gradient it moves a parameter like one."""
    variable = tf.Variable([2.0])
    Adamax([variable], 0.5).apply([tf.zeros([1])], 0.1, 1.0)
    np.testing.assert_allclose(variable, [2 - 0.1 / 1.001], rtol=1e-6)


def test_state_is_one_vector_per_moment():
    variables = [tf.Variable(p) for p in _values(0)]
    optimizer = Adamax(variables)
    assert [v.shape for v in optimizer.variables] == [(15,), (15,)]
    assert not any(v.trainable for v in optimizer.variables)
    assert optimizer.parameters == variables


def test_graph_hardly_grows_with_the_number_of_variables():
    def operations(count):
        variables = [tf.Variable(tf.zeros([3])) for _ in range(count)]
        optimizer = Adamax(variables)
        graph = (
            tf.function(optimizer.apply, autograph=False)
            .get_concrete_function(
                [tf.zeros([3 * count])], 0.1, tf.constant(1.0)
            )
            .graph
        )
        return len(graph.get_operations())

    # A read, a reshape each way and an assignment, with their constants.
    assert (operations(30) - operations(10)) / 20 < 12


def test_steps_in_parts_are_those_of_the_whole(monkeypatch):
    gradients = _values(1)
    results = []
    for size in (2**22, 3):
        monkeypatch.setattr(flat, "_PART_SIZE", size)
        variables = [tf.Variable(p) for p in _values(0)]
        optimizer = Adamax(variables)
        step = tf.function(optimizer.apply, autograph=False)
        for t in (1.0, 2.0):
            step(
                optimizer.pack(gradients),
                tf.constant(0.01),
                tf.constant(t),
            )
        results.append([*variables, *optimizer.variables])
        assert len(flat.parts([v.shape for v in variables])) == (
            1 if size > 3 else 4
        )
    for whole, parts in zip(*results, strict=True):
        np.testing.assert_array_equal(whole, parts)
