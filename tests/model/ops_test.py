"""The numerical operations against their definitions in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model import ops
from tests.support import numpy_reference
from tests.support.arrays import assert_close, normal

pytestmark = pytest.mark.numerics

_CONVOLUTIONS = [
    # size, strides, dilation, groups
    (1, 1, 1, 1),
    (3, 1, 1, 1),
    (3, 2, 1, 1),
    (5, 1, 1, 1),
    (5, 2, 1, 1),
    (3, 1, 2, 1),
    (3, 2, 2, 1),
    (3, 1, 1, 2),
    (5, 2, 1, 4),
]


@pytest.mark.parametrize("image", [(6, 6), (7, 5), (4, 7), (1, 1)])
@pytest.mark.parametrize(
    ("size", "strides", "dilation", "groups"), _CONVOLUTIONS
)
def test_convolution_pads_symmetrically(size, strides, dilation, groups, image):
    x = normal(2, *image, 4)
    kernel = normal(size, size, 4 // groups, 8)
    arguments = {"strides": strides, "dilation": dilation, "groups": groups}
    actual = ops.convolve(tf.constant(x), tf.constant(kernel), **arguments)
    assert_close(actual, numpy_reference.convolve(x, kernel, **arguments))


@pytest.mark.parametrize("image", [(6, 6), (7, 5)])
@pytest.mark.parametrize(
    ("size", "strides", "dilation", "groups"), _CONVOLUTIONS
)
def test_gradient_of_a_convolution_is_its_adjoint(
    size, strides, dilation, groups, image
):
    arguments = {"strides": strides, "dilation": dilation, "groups": groups}
    _assert_adjoint(
        lambda x, kernel: ops.convolve(x, kernel, **arguments),
        lambda x, kernel: numpy_reference.convolve(x, kernel, **arguments),
        (2, *image, 4),
        (size, size, 4 // groups, 8),
    )


def _assert_adjoint(run, define, image, shape):
    """The gradient against how much the result moves in some direction."""
    x, step = normal(*image, seed=1), normal(*image, seed=2)
    kernel, turn = normal(*shape, seed=3), normal(*shape, seed=4)
    variables = tf.constant(x), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(variables)
        y = run(*variables)
        upstream = normal(*y.shape, seed=5)
        loss = tf.reduce_sum(y * upstream)
    d_x, d_kernel = tape.gradient(loss, variables)
    for gradient, direction, change in (
        (d_x, step, define(step, kernel)),
        (d_kernel, turn, define(x, turn)),
    ):
        assert gradient.shape == direction.shape
        np.testing.assert_allclose(
            np.sum(gradient * direction),
            np.sum(change * upstream),
            rtol=1e-4,
            atol=1e-3,
        )


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 11])
@pytest.mark.parametrize("image", [(6, 6), (7, 5)])
def test_depthwise_convolution_sees_one_channel_each(size, strides, image):
    x, kernel = normal(2, *image, 6), normal(size, size, 1, 6)
    actual = ops.depthwise_convolve(
        tf.constant(x), tf.constant(kernel), strides=strides
    )
    assert_close(
        actual, numpy_reference.convolve(x, kernel, strides, groups=6), 2e-5
    )


@pytest.mark.parametrize("for_cpu", [True, False])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 11])
@pytest.mark.parametrize("image", [(6, 6), (7, 5), (1, 2)])
def test_gradient_of_a_depthwise_convolution_is_its_adjoint(
    size, strides, image, for_cpu
):
    def run(x, kernel):
        return ops.depthwise_convolve(
            x, kernel, strides=strides, for_cpu=for_cpu
        )

    def define(x, kernel):
        return numpy_reference.convolve(x, kernel, strides, groups=6)

    _assert_adjoint(run, define, (2, *image, 6), (size, size, 1, 6))


@pytest.mark.parametrize(
    ("batch", "cached", "count"), [(6, 1, 1), (6, 150, 2), (5, 150, 5)]
)
def test_depthwise_gradient_is_the_same_in_pieces(
    batch, cached, count, monkeypatch
):
    """Of one example each, of some, and where none divides the batch."""
    x, kernel = normal(batch, 6, 4, 3), normal(3, 3, 1, 3, seed=1)
    upstream = normal(batch, 6, 4, 3, seed=2)

    def gradient(x):
        kernel_ = tf.constant(kernel)
        with tf.GradientTape() as tape:
            tape.watch(kernel_)
            y = ops.depthwise_convolve(x, kernel_, for_cpu=True)
        return tape.gradient(y, kernel_, upstream[: y.shape[0]])

    whole = gradient(tf.constant(x))
    monkeypatch.setattr(ops, "_CACHED_ELEMENTS", cached)
    assert ops._examples_at_a_time(batch, 6 * 4 * 3) == count
    assert_close(gradient(tf.constant(x)), whole, 2e-5)
    # Nor need the batch be known before.
    unknown = tf.TensorSpec([None, 6, 4, 3])
    assert_close(tf.function(gradient, [unknown])(x), whole, 2e-5)


def test_depthwise_gradient_has_few_pieces(monkeypatch):
    monkeypatch.setattr(ops, "_CACHED_ELEMENTS", 1)
    assert ops._examples_at_a_time(64, 1000) == 64 // ops._MOST_PIECES
    assert ops._examples_at_a_time(7, 1000) == 1
    assert ops._examples_at_a_time(67, 1000) == 67


@pytest.mark.parametrize("for_cpu", [True, False])
def test_bias_is_added_with_its_gradient(for_cpu):
    x, bias = tf.constant(normal(2, 3, 4, 5)), tf.constant(normal(5, seed=1))
    upstream = normal(2, 3, 4, 5, seed=2)
    with tf.GradientTape() as tape:
        tape.watch([x, bias])
        y = ops.add_bias(x, bias, for_cpu=for_cpu)
    assert_close(y, x + bias, 0)
    d_x, d_bias = tape.gradient(y, [x, bias], upstream)
    assert_close(d_x, upstream, 0)
    assert_close(d_bias, upstream.sum((0, 1, 2)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradient_to_a_bias_sums_many_numbers_in_half_precision(dtype):
    x, bias = tf.zeros([8, 64, 64, 2], dtype), tf.zeros([2], dtype)
    with tf.GradientTape() as tape:
        tape.watch(bias)
        y = ops.add_bias(x, bias, for_cpu=True)
    d_bias = tape.gradient(y, bias, tf.fill(y.shape, tf.cast(0.02, dtype)))
    assert d_bias.dtype == dtype
    np.testing.assert_allclose(tf.cast(d_bias, tf.float32), 655.36, rtol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pointwise_gradients_are_those_of_a_convolution(dtype):
    """Also in half precision, and of a batch that is not known before."""
    x = tf.cast(normal(3, 5, 4, 6), dtype)
    kernel = tf.cast(normal(1, 1, 6, 7, seed=1), dtype)

    def gradients(x, for_cpu=True):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = ops.convolve(x, kernel, for_cpu=for_cpu)
        return tape.gradient(y, [x, kernel], tf.ones_like(y))

    unknown = tf.TensorSpec([None, 5, 4, 6], dtype)
    actual = tf.function(gradients, [unknown])(x)
    for a, b in zip(actual, gradients(x, for_cpu=False), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(
            tf.cast(a, tf.float32),
            tf.cast(b, tf.float32),
            rtol=1e-5 if dtype == "float32" else 0.02,
            atol=1e-5 if dtype == "float32" else 0.1,
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradient_of_bilinear_upsampling_is_its_adjoint(dtype):
    x, step = normal(2, 3, 4, 2), normal(2, 3, 4, 2, seed=1)
    x = tf.cast(x, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.upsample_bilinear(x)
    assert y.dtype == x.dtype
    upstream = normal(*y.shape, seed=2)
    gradient = tape.gradient(y, x, tf.cast(upstream, dtype))
    assert gradient.dtype == x.dtype
    np.testing.assert_allclose(
        np.sum(tf.cast(gradient, tf.float32) * step),
        np.sum(numpy_reference.upsample_bilinear(step) * upstream),
        rtol=1e-5 if dtype == "float32" else 0.02,
        atol=1e-4 if dtype == "float32" else 0.1,
    )


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (1, 2), (1, 1)])
def test_bilinear_upsampling_aligns_corners(shape):
    x = normal(2, *shape, 3)
    actual = ops.upsample_bilinear(tf.constant(x))
    assert_close(actual, numpy_reference.upsample_bilinear(x))
    assert_close(actual[:, 0, 0], x[:, 0, 0])
    assert_close(actual[:, -1, -1], x[:, -1, -1])


def test_nearest_upsampling_repeats_every_pixel():
    x = normal(2, 3, 4, 2)
    assert_close(
        ops.upsample_nearest(tf.constant(x)),
        numpy_reference.upsample_nearest(x),
        0,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradient_of_nearest_upsampling_sums_the_copies(dtype):
    x = tf.cast(normal(2, 3, 4, 2), dtype)
    upstream = tf.cast(normal(2, 6, 8, 2, seed=1), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.upsample_nearest(x)
    gradient = tape.gradient(y, x, upstream)
    assert gradient.dtype == dtype
    expected = np.asarray(tf.cast(upstream, tf.float64))
    expected = expected.reshape(2, 3, 2, 4, 2, 2).sum((2, 4))
    tolerance = 1e-5 if dtype == "float32" else 0.03
    assert_close(tf.cast(gradient, tf.float64), expected, tolerance)


def test_downsampling_phases_come_in_the_order_of_the_shifts():
    x = normal(2, 4, 6, 3)
    phases = ops.downsample_phases(tf.constant(x))
    shifts = [(0, 0), (1, 1), (0, 1), (1, 0)]
    for phase, (row, column) in zip(phases, shifts, strict=True):
        assert_close(phase, x[:, row:, column:][:, ::2, ::2], 0)


@pytest.mark.parametrize("stack", [(), (3,)])
def test_weight_norm_follows_its_definition_with_gradient(stack):
    v = normal(*stack, 3, 3, 2, 4)
    gain = normal(*stack, 4)
    upstream = normal(*v.shape, seed=9)

    def definition(v, gain):
        axes = [len(stack), len(stack) + 1, len(stack) + 2]
        norm = tf.sqrt(tf.reduce_sum(v * v, axes, keepdims=True))
        gain = tf.reshape(gain, [*stack, 1, 1, 1, 4])
        return tf.exp(gain) * v / (norm + 1e-5)

    results = []
    for function, dtype in (
        (ops.weight_norm, tf.float32),
        (definition, tf.float64),
    ):
        inputs = tf.constant(v, dtype), tf.constant(gain, dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            kernel = function(*inputs)
            loss = tf.reduce_sum(kernel * tf.cast(upstream, dtype))
        results.append((kernel, *tape.gradient(loss, inputs)))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected)
    expected = [
        numpy_reference.weight_norm(*pair)
        for pair in zip(
            v.reshape(-1, 3, 3, 2, 4), gain.reshape(-1, 4), strict=True
        )
    ]
    assert_close(results[0][0], np.reshape(expected, v.shape))


def test_weight_norm_of_a_zero_kernel_has_a_finite_gradient():
    v = normal(3, 3, 2, 4)
    v[..., 1] = 0
    v, gain = tf.constant(v), tf.zeros([4])
    with tf.GradientTape() as tape:
        tape.watch([v, gain])
        kernel = ops.weight_norm(v, gain)
        loss = tf.reduce_sum(kernel)
    d_v, d_gain = tape.gradient(loss, [v, gain])
    assert_close(kernel[..., 1], np.zeros([3, 3, 2]), 0)
    # v / (||v|| + 1e-5) has slope 1e5 at 0.
    assert_close(d_v[..., 1], np.full([3, 3, 2], 1e5))
    assert np.isfinite(d_v).all()
    assert np.isfinite(d_gain).all()


@pytest.mark.parametrize("name", ["swish", "elu", "linear"])
def test_activations_have_their_own_derivative(name):
    function, gradient = ops.ACTIVATIONS[name]
    t = tf.constant(np.linspace(-20, 20, 101, dtype=np.float32))
    upstream = tf.constant(normal(101))
    with tf.GradientTape() as tape:
        tape.watch(t)
        y = function(t)
    assert_close(y, numpy_reference.ACTIVATIONS[name](t.numpy().astype(float)))
    assert_close(gradient(t, upstream), tape.gradient(y, t, upstream), 1e-5)
