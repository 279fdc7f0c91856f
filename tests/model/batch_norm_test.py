"""Batch normalisation against its definition."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model import batch_norm
from tests.support import numpy_reference
from tests.support.arrays import assert_close, normal

pytestmark = pytest.mark.numerics


def _float64_batch_norm(x, gamma, beta, activation):
    mean = tf.reduce_mean(x, [0, 1, 2])
    variance = tf.reduce_mean(tf.square(x - mean), [0, 1, 2])
    y = (x - mean) / tf.sqrt(variance + 1e-5) * gamma + beta
    function = {
        "linear": tf.identity,
        "swish": lambda t: t / (1 + tf.exp(-t)),
        "elu": lambda t: tf.where(t > 0, t, tf.exp(tf.minimum(t, 0.0)) - 1),
    }[activation]
    return function(y)


@pytest.mark.parametrize("activation", ["linear", "swish", "elu"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 1, 1, 3)])
@pytest.mark.parametrize("scale", [2.0, 0.01])
def test_batch_norm_follows_its_definition_with_gradient(
    activation, shape, scale
):
    # At the smaller scale, epsilon is a tenth of the variance.
    x = scale * (normal(*shape) + 0.5)
    gamma, beta = normal(shape[-1], seed=7), normal(shape[-1], seed=8)
    upstream = normal(*shape, seed=9)
    results = []
    for dtype in (tf.float32, tf.float64):
        inputs = [tf.constant(t, dtype) for t in (x, gamma, beta)]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            if dtype == tf.float32:
                y = batch_norm.normalize(*inputs, activation)[0]
            else:
                y = _float64_batch_norm(*inputs, activation)
            loss = tf.reduce_sum(y * tf.cast(upstream, dtype))
        results.append((y, *tape.gradient(loss, inputs)))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, 2e-4)
    assert_close(
        results[0][0],
        numpy_reference.batch_norm(x, gamma, beta, activation),
        1e-4,
    )


def test_batch_norm_tells_the_mean_and_the_unbiased_variance():
    x = normal(2, 3, 2, 4) * 3 + 5
    _, (mean, variance) = batch_norm.normalize(
        tf.constant(x), tf.ones(4), tf.zeros(4), "linear"
    )
    assert_close(mean, x.mean((0, 1, 2)))
    assert_close(variance, x.var((0, 1, 2), ddof=1), 1e-4)


def test_moments_carry_no_gradient():
    x = tf.constant(normal(2, 3, 2, 4))
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, (mean, variance) = batch_norm.normalize(
            x, tf.ones(4), tf.zeros(4), "swish"
        )
        loss = tf.reduce_sum(mean + variance)
    assert tape.gradient(loss, x) is None


def test_batch_norm_of_a_single_value_gives_beta():
    x = tf.constant([[[[3.0, -2.0]]]])
    y, (mean, variance) = batch_norm.normalize(
        x, tf.constant([2.0, 1.0]), tf.constant([0.5, -1.0]), "linear"
    )
    assert_close(y, [[[[0.5, -1.0]]]])
    assert_close(mean, [3.0, -2.0])
    assert_close(variance, [0.0, 0.0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_moments_are_computed_in_float32(dtype):
    # Squares of these overflow float16.
    x = tf.cast(300 + 100 * normal(8, 8, 8, 3), dtype)
    y, (mean, variance) = batch_norm.normalize(
        x, tf.ones(3), tf.zeros(3), "swish"
    )
    exact = np.asarray(tf.cast(x, tf.float64))
    assert y.dtype == dtype
    assert mean.dtype == variance.dtype == tf.float32
    assert_close(mean, exact.mean((0, 1, 2)), 1e-4)
    assert_close(variance, exact.var((0, 1, 2), ddof=1), 1e-3)
    expected = numpy_reference.batch_norm(exact, 1.0, 0.0, "swish")
    assert_close(tf.cast(y, tf.float64), expected, 0.05)
