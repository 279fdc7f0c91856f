"""Layers: initial values, normalisation, and what a pass leaves alone."""

import math

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model.layers import BatchNorm, Conv2D, Dense, SqueezeExcite
from nvae_tf.model.pure_layer import Mode
from tests.support import numpy_reference
from tests.support.model_cases import randomize

pytestmark = pytest.mark.numerics


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _built(layer, channels, *, seed=None):
    layer.build((None, None, None, channels))
    layer.initialize(0)
    if seed is not None:
        randomize(layer, seed)
    return layer


def _norms(kernel):
    return np.sqrt((np.asarray(kernel, np.float64) ** 2).sum((-4, -3, -2)))


# --- convolution -------------------------------------------------------------


def test_convolution_uses_the_normalised_kernel_and_the_bias():
    layer = _built(Conv2D(5, 3, strides=2), 4, seed=1)
    x = _normal(2, 6, 6, 4)
    y, updates = layer(x)
    kernel = numpy_reference.weight_norm(np.asarray(layer.v), layer.g)
    expected = numpy_reference.convolve(x, kernel, strides=2)
    expected += np.asarray(layer.bias)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert updates == {}


def test_convolution_without_normalisation_uses_the_kernel_itself():
    layer = Conv2D(5, 3, use_bias=False, weight_norm=False)
    _built(layer, 4, seed=1)
    assert [v.name for v in layer.variables] == ["v"]
    x = _normal(2, 6, 6, 4)
    expected = numpy_reference.convolve(x, np.asarray(layer.v))
    np.testing.assert_allclose(layer(x)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 4])
def test_initial_kernel_and_bias_are_uniform_in_the_fan_in(groups):
    layer = _built(Conv2D(400, 3, groups=groups), 16)
    limit = 1 / math.sqrt(9 * 16 / groups)
    for variable in (layer.v, layer.bias):
        values = np.abs(np.asarray(variable)).ravel()
        assert 0.95 * limit < values.max() <= limit
        np.testing.assert_allclose(values.mean(), limit / 2, rtol=0.1)
        assert abs(np.sign(variable).mean()) < 0.15


def test_initial_gain_is_the_norm_plus_a_hundredth():
    layer = _built(Conv2D(6, 3), 4)
    np.testing.assert_allclose(
        np.exp(layer.g), _norms(layer.v) + 1e-2, rtol=1e-5
    )


def test_initial_gain_takes_a_factor():
    layer = _built(Conv2D(6, 1, mask="causal", gain=0.1), 12)
    params = layer.read_params()
    masked = np.asarray(layer.v) * (np.asarray(params["kernel"]) != 0)
    np.testing.assert_allclose(
        np.exp(layer.g), 0.1 * (_norms(masked) + 1e-2), rtol=1e-5
    )


def test_initial_gain_knows_the_mask():
    layer = _built(Conv2D(6, 3, mask="strictly_causal", stack=2), 6)
    open_taps = np.zeros([3, 3, 6, 6])
    open_taps[0] = open_taps[1, 0] = 1
    open_taps[1, 1] = np.triu(np.ones([6, 6]), 1)
    norms = _norms(np.asarray(layer.v) * open_taps)
    np.testing.assert_allclose(np.exp(layer.g), norms + 1e-2, rtol=1e-5)


def test_masked_entries_count_for_nothing():
    layer = _built(Conv2D(4, 3, mask="causal"), 4, seed=1)
    x = _normal(1, 4, 4, 4)
    before = layer(x)[0]
    v = layer.v.numpy()
    v[2, 2] += 7
    v[1, 1, 3, 0] -= 7
    layer.v.assign(v)
    np.testing.assert_array_equal(layer(x)[0], before)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x)[0] ** 2)
    gradient = tape.gradient(loss, layer.v.value).numpy()
    assert not gradient[2].any()
    assert gradient[0].all()


def test_initial_values_follow_from_the_seed_alone():
    first, second, third = (_built(Conv2D(4, 3), 4) for _ in range(3))
    third.initialize(1)
    for name in ("v", "g", "bias"):
        a, b, c = (
            getattr(layer, name).numpy() for layer in (first, second, third)
        )
        np.testing.assert_array_equal(a, b)
        assert (a != c).all()


def test_parts_and_members_of_a_stack_start_differently():
    layer = _built(SqueezeExcite(stack=2), 4)
    squeeze, excite = (p.kernel.numpy() for p in layer.parts.values())
    assert (squeeze != excite).all()
    assert (squeeze[0] != squeeze[1]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gate_of_large_images_is_that_of_float32(dtype):
    # 256 x 256 is more than float16's largest number.
    layer = _built(SqueezeExcite(), 4, seed=8)
    x = tf.constant(1 + _normal(1, 256, 256, 4))

    def gate_and_gradient(x, scale):
        with tf.GradientTape() as tape:
            tape.watch(x)
            gate, _ = layer(x)
            # As losses are, so that no gradient falls below float16's least.
            loss = scale * tf.reduce_sum(tf.cast(gate, tf.float32))
        return gate, tf.cast(tape.gradient(loss, x), tf.float32) / scale

    exact, exact_gradient = gate_and_gradient(x, 1.0)
    gate, gradient = gate_and_gradient(tf.cast(x, dtype), 2.0**12)
    np.testing.assert_allclose(tf.cast(gate, tf.float32), exact, atol=0.02)
    error = tf.norm(gradient - exact_gradient) / tf.norm(exact_gradient)
    assert error < 0.05


def test_stack_computes_as_its_members():
    layer = Conv2D(5, 3, groups=1, stack=3)
    _built(layer, 4, seed=2)
    single = _built(Conv2D(5, 3), 4)
    x = _normal(2, 5, 5, 4)
    params = layer.read_params()
    for i in range(3):
        for name in ("v", "g", "bias"):
            getattr(single, name).assign(getattr(layer, name)[i])
        member = {name: value[i] for name, value in params.items()}
        np.testing.assert_allclose(
            layer(x, member)[0], single(x)[0], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("stack", [None, 2])
def test_data_dependent_start_gives_mean_0_and_a_fifth_of_unit_deviation(stack):
    layer = Conv2D(6, 3, strides=2, data_dependent=True, stack=stack)
    _built(layer, 4, seed=3)
    x = 3 + 2 * _normal(4, 8, 8, 4)
    index = () if stack is None else 1

    def member(mode):
        params = layer.read_params(mode)
        return {name: value[index] for name, value in params.items()}

    y, updates = layer(x, member(Mode.INITIALIZATION), mode=Mode.INITIALIZATION)
    # From the definition: convolve with v / (||v|| + 1e-5) and no bias.
    v = layer.v.numpy()[index]
    raw = numpy_reference.convolve(
        x, numpy_reference.weight_norm(v, np.zeros(6)), strides=2
    )
    deviation = 5 * raw.std((0, 1, 2), ddof=1) + 1e-5
    np.testing.assert_allclose(updates["g"], -np.log(deviation), rtol=1e-4)
    np.testing.assert_allclose(
        updates["bias"], -raw.mean((0, 1, 2)) / deviation, rtol=1e-3, atol=1e-5
    )
    # The pass that chose the values already uses them.
    y = np.asarray(y, np.float64)
    np.testing.assert_allclose(y.mean((0, 1, 2)), np.zeros(6), atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2), ddof=1), 0.2, rtol=1e-4)
    stored = updates
    if stack:
        stored = {k: tf.stack([u, u]) for k, u in updates.items()}
    layer.apply_updates(stored)
    after, _ = layer(x, member(Mode.TRAINING), mode=Mode.TRAINING)
    np.testing.assert_allclose(after, y, rtol=1e-3, atol=1e-5)


def test_only_data_dependent_layers_choose_anything():
    layer = _built(Conv2D(6, 3), 4, seed=3)
    x = _normal(2, 4, 4, 4)
    y, updates = layer(x, mode=Mode.INITIALIZATION)
    np.testing.assert_array_equal(y, layer(x)[0])
    assert updates == {}


# --- batch normalisation -----------------------------------------------------


def test_batch_norm_starts_as_the_identity():
    layer = _built(BatchNorm(), 3)
    for name, value in (("gamma", 1), ("beta", 0), ("mean", 0)):
        np.testing.assert_array_equal(getattr(layer, name), np.full(3, value))
    np.testing.assert_array_equal(layer.variance, np.ones(3))
    x = _normal(2, 4, 4, 3)
    np.testing.assert_allclose(layer(x)[0], x, rtol=1e-4)


@pytest.mark.parametrize("activation", ["linear", "swish", "elu"])
def test_batch_norm_uses_moving_averages_in_inference(activation):
    layer = _built(BatchNorm(activation), 3, seed=4)
    x = 2 * _normal(2, 4, 4, 3)
    y, updates = layer(x, mode=Mode.INFERENCE)
    statistics = (layer.gamma, layer.beta, layer.mean, layer.variance)
    expected = numpy_reference.moving_batch_norm(
        x, *map(np.asarray, statistics), activation
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert updates == {}


@pytest.mark.parametrize("activation", ["linear", "swish", "elu"])
def test_batch_norm_uses_the_batch_in_training(activation):
    layer = _built(BatchNorm(activation), 3, seed=4)
    x = 2 * _normal(2, 4, 4, 3) + 1
    y, _ = layer(x, mode=Mode.TRAINING)
    expected = numpy_reference.batch_norm(
        x, np.asarray(layer.gamma), np.asarray(layer.beta), activation
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_moving_averages_go_a_twentieth_of_the_way():
    layer = _built(BatchNorm("swish"), 3, seed=4)
    x = 2 * _normal(2, 4, 4, 3) + 1
    mean, variance = layer.mean.numpy(), layer.variance.numpy()
    _, updates = layer(x, mode=Mode.TRAINING)
    np.testing.assert_array_equal(layer.mean, mean)
    layer.apply_updates(updates)
    axes = (0, 1, 2)
    np.testing.assert_allclose(
        layer.mean, 0.95 * mean + 0.05 * x.mean(axes), rtol=1e-4
    )
    np.testing.assert_allclose(
        layer.variance,
        0.95 * variance + 0.05 * x.var(axes, ddof=1),
        rtol=1e-4,
    )


# --- dense, squeeze-and-excitation -------------------------------------------


def test_dense_is_affine():
    layer = _built(Dense(5), 3, seed=5)
    x = _normal(4, 3)
    expected = x @ np.asarray(layer.kernel) + np.asarray(layer.bias)
    np.testing.assert_allclose(layer(x)[0], expected, rtol=1e-5, atol=1e-6)


def test_dense_starts_uniform_in_its_fan_in():
    layer = _built(Dense(300), 25)
    for variable in (layer.kernel, layer.bias):
        assert 0.19 < np.abs(variable).max() <= 0.2


@pytest.mark.parametrize(
    ("channels", "hidden"), [(8, 4), (64, 4), (80, 5), (130, 8)]
)
def test_gate_squeezes_to_a_sixteenth_but_at_least_four(channels, hidden):
    layer = _built(SqueezeExcite(), channels, seed=6)
    squeeze, excite = layer.parts["squeeze"], layer.parts["excite"]
    assert squeeze.units == hidden
    x = _normal(2, 3, 3, channels)
    expected = numpy_reference.squeeze_excite(
        x.astype(np.float64),
        *(np.asarray(v) for v in (squeeze.kernel, squeeze.bias)),
        *(np.asarray(v) for v in (excite.kernel, excite.bias)),
    )
    gate, _ = layer(x)
    assert gate.shape == (2, 1, 1, channels)
    np.testing.assert_allclose(gate, expected, rtol=1e-4)
