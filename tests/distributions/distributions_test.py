"""Properties of the latent and pixel distributions, and reference values."""

import itertools
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from nvae_tf.distributions import likelihoods as distributions
from nvae_tf.distributions.likelihoods import (
    BernoulliPixels,
    DiscretizedLogisticMixture,
    PixelNormal,
    ResidualNormal,
)
from tests.support.arrays import assert_rounded_alike

pytestmark = pytest.mark.numerics

tfd = tfp.distributions

_HERE = pathlib.Path(__file__).parents[1] / "data" / "reference"
_GOLDEN_DIR = pathlib.Path(os.environ.get("NVAE_GOLDEN_DIR") or _HERE)
if not (_GOLDEN_DIR / "likelihoods.npz").exists():
    # A folder of other models need not have likelihoods of its own.
    _GOLDEN_DIR = _HERE
_SEED = (3, 14)


@pytest.fixture(scope="module")
def golden():
    with np.load(_GOLDEN_DIR / "likelihoods.npz") as file:
        return {key: file[key] for key in file.files}


def _nhwc(x):
    return np.moveaxis(x, 1, -1)


def _normals(seed=0, shape=(200,), scale=2.0):
    rng = np.random.default_rng(seed)
    mu_q, log_sigma_q, mu_p, log_sigma_p = rng.normal(0.0, scale, (4, *shape))
    return ResidualNormal(mu_q, log_sigma_q), ResidualNormal(mu_p, log_sigma_p)


def _mixture_params(
    num_channels, num_mixtures=4, shape=(2, 3), seed=0, log_scale=-2.0
):
    """Moderate parameters: log-scales around `log_scale`."""
    rng = np.random.default_rng(seed)
    count = DiscretizedLogisticMixture.num_parameters(num_channels, 1)
    blocks = rng.normal(0.0, 0.5, (*shape, count, num_mixtures))
    for index in _by_hand_layout(num_channels)[1]:
        blocks[..., index, :] += log_scale
    return blocks.reshape(*shape, -1).astype(np.float32)


def _by_hand_layout(num_channels):
    """Blocks of means, log-scales and coefficients, as documented."""
    return {
        1: ([1], [2], {}),
        2: ([1, 4], [2, 5], {(1, 0): 3}),
        3: ([1, 4, 7], [2, 5, 8], {(1, 0): 3, (2, 0): 6, (2, 1): 9}),
        4: (
            [1, 5, 9, 12],
            [2, 6, 10, 13],
            {
                (1, 0): 3,
                (2, 0): 7,
                (2, 1): 11,
                (3, 0): 14,
                (3, 1): 4,
                (3, 2): 8,
            },
        ),
    }[num_channels]


def _by_hand_blocks(params, num_channels):
    count = DiscretizedLogisticMixture.num_parameters(num_channels, 1)
    blocks = np.split(np.asarray(params, np.float64), count, axis=-1)
    means, log_scales, coefficients = _by_hand_layout(num_channels)
    return (
        blocks[0],
        [blocks[i] for i in means],
        [np.maximum(blocks[i], -7.0) for i in log_scales],
        {pair: np.tanh(blocks[i]) for pair, i in coefficients.items()},
    )


def _sigmoid(t):
    return np.exp(-np.logaddexp(0.0, -t))


def _by_hand_log_prob(params, x, num_channels, num_bits):
    """The mixture's definition in float64, one channel after the other."""
    logits, means, log_scales, coefficients = _by_hand_blocks(
        params, num_channels
    )
    x = 2.0 * np.asarray(x, np.float64) - 1.0
    total = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    for channel in range(num_channels):
        value = x[..., channel, None]
        mean = means[channel]
        for earlier in range(channel):
            mean = mean + coefficients[channel, earlier] * x[..., earlier, None]
        scale = np.exp(log_scales[channel])
        half_width = 1.0 / (2**num_bits - 1)
        centre = (value - mean) / scale
        upper = (value - mean + half_width) / scale
        lower = (value - mean - half_width) / scale
        # On the side where neither term rounds to one.
        mass = np.where(
            centre > 0,
            _sigmoid(-lower) - _sigmoid(-upper),
            _sigmoid(upper) - _sigmoid(lower),
        )
        density = centre - np.log(scale) - 2.0 * np.logaddexp(0.0, centre)
        total = total + np.select(
            [value < -0.999, value > 0.99, mass > 1e-5],
            [
                -np.logaddexp(0.0, -upper),
                -np.logaddexp(0.0, lower),
                np.log(np.maximum(mass, 1e-10)),
            ],
            density - np.log((2**num_bits - 1) / 2.0),
        )
    return np.logaddexp.reduce(total, axis=-1)


def _all_colours(num_channels, num_bits):
    """Every colour as images of one pixel, `[levels^C, 1, 1, C]`."""
    levels = np.arange(2**num_bits) / (2**num_bits - 1)
    colours = list(itertools.product(levels, repeat=num_channels))
    return np.reshape(colours, (-1, 1, 1, num_channels)).astype(np.float32)


def _image_distributions(dtype=np.float32):
    rng = np.random.default_rng(5)
    bernoulli, mixture, normal = (
        tf.cast(rng.normal(size=(2, 4, 5, depth)), dtype)
        for depth in (3, 20, 6)
    )
    return {
        "bernoulli": BernoulliPixels(bernoulli),
        "mixture": DiscretizedLogisticMixture(mixture),
        "normal": PixelNormal(normal),
    }


_KINDS = ("bernoulli", "mixture", "normal")


# --- reference values -------------------------------------------------------


def test_latent_normals_agree_with_the_reference(golden):
    raw = {k.split("/")[1]: v for k, v in golden.items() if "latent" in k}
    q = ResidualNormal(raw["q_mu"], raw["q_log_sigma"])
    p = ResidualNormal(raw["p_mu"], raw["p_log_sigma"])
    for ours, theirs in (
        (tfd.kl_divergence(q, p), raw["kl"]),
        (q.log_prob(raw["z"]), raw["log_q"]),
        (p.log_prob(raw["z"]), raw["log_p"]),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("num_bits", [8, 5])
def test_mixture_agrees_with_the_reference(golden, num_bits):
    mixture = DiscretizedLogisticMixture(
        _nhwc(golden[f"mixture{num_bits}/params"]), 3, num_bits
    )
    x = _nhwc(golden[f"mixture{num_bits}/x"])
    # The reference takes differences of CDFs in float32, so most of the
    # tolerance is its rounding: see the next test.
    np.testing.assert_allclose(
        mixture.log_prob_map(x),
        golden[f"mixture{num_bits}/log_prob"],
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        mixture.mean(), _nhwc(golden[f"mixture{num_bits}/mean"]), atol=1e-6
    )


@pytest.mark.parametrize("num_bits", [8, 5])
def test_mixture_agrees_with_float64_where_the_reference_was_run(
    golden, num_bits
):
    params = _nhwc(golden[f"mixture{num_bits}/params"])
    x = _nhwc(golden[f"mixture{num_bits}/x"])
    np.testing.assert_allclose(
        DiscretizedLogisticMixture(params, 3, num_bits).log_prob_map(x),
        _by_hand_log_prob(params, x, 3, num_bits),
        rtol=2e-6,
    )


def test_pixel_normal_agrees_with_the_reference(golden):
    normal = PixelNormal(_nhwc(golden["normal/params"]))
    x = _nhwc(golden["normal/x"])
    log_prob = _nhwc(golden["normal/log_prob"])
    np.testing.assert_allclose(
        normal.log_prob_per_dimension(x), log_prob, rtol=5e-6
    )
    np.testing.assert_allclose(
        normal.log_prob_map(x), log_prob.sum(-1), rtol=5e-6
    )


# --- latent Normal ----------------------------------------------------------


def test_soft_clamp_is_bounded_and_keeps_small_values():
    t = np.array([-1e4, -5.0, -1e-3, 0.0, 1e-3, 5.0, 1e4], np.float32)
    clamped = distributions.soft_clamp(tf.constant(t)).numpy()
    np.testing.assert_allclose(clamped, 5.0 * np.tanh(t / 5.0), rtol=1e-6)
    assert np.all(np.abs(clamped) <= 5.0)


def test_sigma_has_a_floor_and_the_standard_normal_has_1_01():
    low = ResidualNormal(0.0, -1e4)
    np.testing.assert_allclose(low.scale, np.exp(-5.0) + 0.01, rtol=1e-6)
    standard = ResidualNormal.standard([2, 4, 4, 3])
    assert standard.batch_shape == [2, 4, 4, 3]
    np.testing.assert_array_equal(standard.loc, 0.0)
    np.testing.assert_allclose(standard.scale, 1.01, rtol=1e-7)
    np.testing.assert_allclose(standard.from_noise(2.0), 2.02, rtol=1e-6)


def test_kl_is_zero_where_posterior_equals_prior():
    _, prior = _normals()
    posterior = prior.residual(0.0, 0.0)
    np.testing.assert_array_equal(posterior.kl_divergence(prior), 0.0)


def test_kl_is_positive_and_follows_the_closed_form():
    q, p = _normals()
    kl = tfd.kl_divergence(q, p).numpy()
    assert np.all(kl > 0.0)
    mu_q, mu_p, s_q, s_p = (
        np.asarray(t, np.float64) for t in (q.loc, p.loc, q.scale, p.scale)
    )
    expected = (
        0.5 * (((mu_q - mu_p) / s_p) ** 2 + (s_q / s_p) ** 2)
        - 0.5
        - np.log(s_q / s_p)
    )
    np.testing.assert_allclose(kl, expected, rtol=1e-6, atol=1e-6)
    plain = tfd.kl_divergence(
        tfd.Normal(q.loc, q.scale), tfd.Normal(p.loc, p.scale)
    )
    np.testing.assert_allclose(kl, plain, rtol=1e-5, atol=1e-6)


def test_kl_equals_its_monte_carlo_estimate():
    q, p = _normals(seed=1, shape=(5,), scale=0.5)
    z = q.sample(100_000, seed=_SEED)
    terms = (q.log_prob(z) - p.log_prob(z)).numpy()
    error = terms.std(0) / np.sqrt(len(terms))
    estimate = terms.mean(0, dtype=np.float64)
    assert np.all(np.abs(estimate - q.kl_divergence(p)) < 5.0 * error)


def test_log_prob_is_that_of_a_normal():
    q, _ = _normals()
    z = np.linspace(-5.0, 5.0, 200, dtype=np.float32)
    np.testing.assert_allclose(
        q.log_prob(z),
        tfd.Normal(q.loc, q.scale).log_prob(z),
        rtol=1e-5,
        atol=1e-5,
    )


def test_residual_adds_raw_values_before_the_clamp():
    prior = ResidualNormal([4.0, -9.0], [3.0, 0.5])
    posterior = prior.residual([4.0, 1.0], [3.0, -0.5])
    expected = ResidualNormal([8.0, -8.0], [6.0, 0.0])
    np.testing.assert_array_equal(posterior.loc, expected.loc)
    np.testing.assert_array_equal(posterior.scale, expected.scale)


def test_residual_does_not_inherit_the_temperature():
    prior = ResidualNormal(0.0, 0.0, temperature=0.5)
    assert prior.residual(0.0, 0.0).temperature is None


def test_temperature_zero_gives_the_mean():
    prior, _ = _normals()
    cold = ResidualNormal(prior.mu, prior.log_sigma, temperature=0.0)
    np.testing.assert_array_equal(cold.sample(seed=_SEED), prior.loc)
    np.testing.assert_array_equal(cold.from_noise(np.ones(200)), prior.loc)


def test_temperature_may_differ_by_example():
    eps = np.random.default_rng(0).normal(size=(2, 3, 3, 4))
    zeros = np.zeros((2, 3, 3, 4), np.float32)
    temperature = np.reshape([0.7, 1.3], (2, 1, 1, 1))
    both = ResidualNormal(zeros, zeros, temperature=temperature)
    assert both.batch_shape == [2, 3, 3, 4]
    np.testing.assert_allclose(
        both.from_noise(eps), 1.01 * temperature * eps, rtol=1e-6
    )


def test_latent_sampling_is_reproducible_and_equals_its_noise():
    q, _ = _normals()
    first = q.sample(seed=_SEED)
    np.testing.assert_array_equal(first, q.sample(seed=_SEED))
    assert np.any(first != q.sample(seed=(3, 15)))
    eps = (first - q.loc) / q.scale
    np.testing.assert_allclose(q.from_noise(eps), first, rtol=1e-5, atol=1e-5)


def _groups_kl(prior, posterior, eps, use_loop):
    """Summed KL and draws of groups stacked on the first axis."""

    def group(i, z, kl):
        p = ResidualNormal(prior[i, 0] + 0.1 * z, prior[i, 1])
        q = p.residual(posterior[i, 0], posterior[i, 1])
        return i + 1, q.from_noise(eps[i]), kl + tfd.kl_divergence(q, p)

    state = (tf.constant(0), tf.zeros(eps.shape[1:]), tf.zeros(eps.shape[1:]))
    if use_loop:
        return tf.while_loop(lambda i, *_: i < len(eps), group, state)[1:]
    for _ in range(len(eps)):
        state = group(*state)
    return state[1:]


def test_residual_normals_work_in_a_while_loop_with_gradient():
    rng = np.random.default_rng(0)
    prior, posterior = tf.constant(rng.normal(size=(2, 4, 2, 6)), tf.float32)
    eps = tf.constant(rng.normal(size=(4, 6)), tf.float32)

    @tf.function
    def value_and_gradient(use_loop):
        with tf.GradientTape() as tape:
            tape.watch((prior, posterior))
            z, kl = _groups_kl(prior, posterior, eps, use_loop)
            loss = tf.reduce_sum(kl + z)
        return loss, *tape.gradient(loss, (prior, posterior))

    looped, unrolled = value_and_gradient(True), value_and_gradient(False)
    for a, b in zip(looped, unrolled, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_group_takes_few_graph_nodes():
    @tf.function
    def group(p_mu, p_log_sigma, q_mu, q_log_sigma, eps):
        p = ResidualNormal(p_mu, p_log_sigma)
        q = p.residual(q_mu, q_log_sigma)
        z = q.from_noise(eps)
        return q.kl_divergence(p), q.log_prob(z), p.log_prob(z)

    spec = tf.TensorSpec([None, 4, 4, 3])
    graph = group.get_concrete_function(*5 * [spec]).graph
    types = [op.type for op in graph.get_operations() if op.type != "Const"]
    # 52, of them 8 at the function's edges and 18 for two parameterisations.
    # Deep models have dozens of groups, so every node here counts.
    assert len(types) <= 55
    # The KL that TFP has for Normals would do, but for an operation that does
    # not convert to ONNX.
    assert "Expm1" not in types


def test_residual_normal_crosses_function_boundaries():
    @tf.function
    def prior(mu):
        return ResidualNormal(mu, mu, temperature=0.7)

    mu = tf.constant([0.5, 9.0])
    expected = ResidualNormal(mu, mu, temperature=0.7)
    np.testing.assert_allclose(prior(mu).scale, expected.scale, rtol=1e-6)


# --- mixture: probabilities -------------------------------------------------


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("num_bits", [8, 5, 1])
def test_mixture_follows_its_definition(num_channels, num_bits):
    rng = np.random.default_rng(num_channels)
    # Wide enough to reach the clamp at -7, the fallback and both tails.
    params = 4.0 * rng.normal(
        size=(
            2,
            6,
            6,
            DiscretizedLogisticMixture.num_parameters(num_channels, 3),
        )
    )
    params = params.astype(np.float32)
    levels = rng.integers(0, 2**num_bits, (2, 6, 6, num_channels))
    x = (levels / (2**num_bits - 1)).astype(np.float32)
    mixture = DiscretizedLogisticMixture(params, num_channels, num_bits)
    np.testing.assert_allclose(
        mixture.log_prob_map(x),
        _by_hand_log_prob(params, x, num_channels, num_bits),
        rtol=5e-6,
        atol=5e-6,
    )


@pytest.mark.parametrize("log_scale", [-7.0, -9.0])
def test_log_scales_below_minus_7_count_as_minus_7(log_scale):
    params = np.reshape([0.0, 0.1, log_scale], (1, 1, 3)).astype(np.float32)
    # s = exp(-7); the bin of the level nearest to the mean, then one far away
    # whose mass is under 1e-5 and is priced by its density.
    scale = np.exp(-7.0)
    for level, expected in (
        (140, None),
        (200, -(400.0 / 255 - 1.1) / scale + 7.0 + np.log(2.0 / 255)),
    ):
        value = 2.0 * level / 255 - 1.0
        if expected is None:
            expected = np.log(
                _sigmoid((value + 1 / 255 - 0.1) / scale)
                - _sigmoid((value - 1 / 255 - 0.1) / scale)
            )
        x = np.full((1, 1, 1), level / 255, np.float32)
        mixture = DiscretizedLogisticMixture(params, num_channels=1)
        np.testing.assert_allclose(
            mixture.log_prob(x), expected, rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize(
    ("num_channels", "num_bits"),
    [(1, 1), (1, 5), (1, 7), (2, 3), (3, 1), (3, 2), (4, 1)],
)
def test_mixture_pmf_sums_to_one_over_all_pixel_values(num_channels, num_bits):
    params = _mixture_params(num_channels)
    x = _all_colours(num_channels, num_bits)
    mixture = DiscretizedLogisticMixture(params[:1, :1], num_channels, num_bits)
    np.testing.assert_allclose(
        np.sum(mixture.prob(x), dtype=np.float64), 1.0, atol=2e-6
    )


def test_8_bit_pmf_counts_the_top_level_twice():
    # 254 and 255 both lie above 0.99 and take the right tail from their lower
    # edge: P(254) is the mass of both, and levels 0..254 sum to one.
    mixture = DiscretizedLogisticMixture(
        _mixture_params(1)[:1, :1] + 0.5, num_channels=1, num_bits=8
    )
    pmf = np.asarray(mixture.prob(_all_colours(1, 8)), np.float64)
    assert pmf[255] > 1e-3
    np.testing.assert_allclose(pmf[:255].sum(), 1.0, atol=2e-6)
    np.testing.assert_allclose(pmf.sum(), 1.0 + pmf[255], atol=2e-6)


@pytest.mark.parametrize("num_bits", [8, 5, 1])
def test_summing_over_the_last_channel_leaves_the_earlier_ones(num_bits):
    # Of three channels' blocks the first six are those of two channels.
    params = _mixture_params(3, num_mixtures=4)  # [2, 3, 40]
    levels = np.arange(2**num_bits) / (2**num_bits - 1)
    x = np.zeros((len(levels), 2, 3, 3), np.float32)
    x[..., :2] = np.random.default_rng(1).choice(levels, (2, 3, 2))
    x[..., 2] = levels[:, None, None]
    pmf = np.exp(
        DiscretizedLogisticMixture(params, 3, num_bits).log_prob_map(x),
        dtype=np.float64,
    )
    earlier = DiscretizedLogisticMixture(params[..., :24], 2, num_bits)
    counted_once = pmf[:255] if num_bits == 8 else pmf
    np.testing.assert_allclose(
        counted_once.sum(0),
        np.exp(earlier.log_prob_map(x[0, ..., :2])),
        rtol=2e-5,
    )


def test_event_log_prob_sums_the_map_and_broadcasts_over_samples():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (7, 2, 4, 5, 3)).astype(np.float32)
    for distribution in _image_distributions().values():
        log_prob_map = distribution.log_prob_map(x)
        assert log_prob_map.shape == (7, 2, 4, 5)
        np.testing.assert_allclose(
            distribution.log_prob(x),
            np.sum(log_prob_map, (-2, -1)),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            distribution.log_prob(x)[3], distribution.log_prob(x[3]), rtol=1e-5
        )


# --- mixture: images --------------------------------------------------------


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
def test_mixture_mean_walks_the_channels_in_order(num_channels):
    params = 2.0 * _mixture_params(num_channels, shape=(2, 4, 4))
    logits, means, _, coefficients = _by_hand_blocks(params, num_channels)
    weights = np.exp(
        logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    )
    values = []
    for channel in range(num_channels):
        value = np.sum(weights * means[channel], -1)
        for earlier in range(channel):
            slope = np.sum(weights * coefficients[channel, earlier], -1)
            value = value + slope * values[earlier]
        values.append(np.clip(value, -1.0, 1.0))
    np.testing.assert_allclose(
        DiscretizedLogisticMixture(params, num_channels).mean(),
        (np.stack(values, -1) + 1.0) / 2.0,
        atol=1e-6,
    )


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_mixture_draws_follow_from_their_uniforms(num_channels, temperature):
    params = 2.0 * _mixture_params(num_channels, shape=(2, 4, 4))
    mixture = DiscretizedLogisticMixture(params, num_channels)
    rng = np.random.default_rng(2)
    u_component = rng.uniform(1e-5, 1.0 - 1e-5, (2, 4, 4, 4))
    u_value = rng.uniform(1e-5, 1.0 - 1e-5, (2, 4, 4, num_channels))
    logits, means, log_scales, coefficients = _by_hand_blocks(
        params, num_channels
    )
    expected = np.zeros((2, 4, 4, num_channels))
    for pixel in np.ndindex(2, 4, 4):
        scores = logits[pixel]
        if temperature:
            scores = scores / temperature - np.log(-np.log(u_component[pixel]))
        k = np.argmax(scores)
        values = []
        for channel in range(num_channels):
            u = u_value[pixel][channel]
            value = means[channel][pixel][k]
            value += (
                temperature
                * np.exp(log_scales[channel][pixel][k])
                * (np.log(u) - np.log(1.0 - u))
            )
            for earlier in range(channel):
                value += (
                    coefficients[channel, earlier][pixel][k] * values[earlier]
                )
            values.append(np.clip(value, -1.0, 1.0))
        expected[pixel] = (np.array(values) + 1.0) / 2.0
    np.testing.assert_allclose(
        mixture.sample_from_uniforms(u_component, u_value, temperature),
        expected,
        atol=1e-5,
    )


def test_one_component_at_temperature_zero_is_the_mean_image():
    params = _mixture_params(3, num_mixtures=1, shape=(2, 4, 4))
    mixture = DiscretizedLogisticMixture(params)
    rng = np.random.default_rng(0)
    cold = mixture.sample_from_uniforms(
        rng.uniform(size=(2, 4, 4, 1)), rng.uniform(size=(2, 4, 4, 3)), 0.0
    )
    np.testing.assert_allclose(cold, mixture.mean(), atol=1e-6)


def test_pixel_temperature_may_differ_by_example():
    params = np.tile(_mixture_params(3, shape=(1, 4, 4)), (2, 1, 1, 1))
    rng = np.random.default_rng(0)
    u_component = rng.uniform(size=(2, 4, 4, 4))
    u_value = rng.uniform(size=(2, 4, 4, 3))
    mixture = DiscretizedLogisticMixture(params)
    both = mixture.sample_from_uniforms(
        u_component, u_value, np.reshape([0.3, 0.9], (2, 1, 1, 1))
    )
    for row, temperature in enumerate([0.3, 0.9]):
        alone = mixture.sample_from_uniforms(u_component, u_value, temperature)
        np.testing.assert_array_equal(both[row], alone[row])


def test_uniforms_of_zero_and_one_still_give_images():
    mixture = DiscretizedLogisticMixture(_mixture_params(3, shape=(4, 4)))
    for u in (0.0, 1.0):
        for temperature in (0.0, 1.0):
            image = mixture.sample_from_uniforms(
                np.full((4, 4, 4), u), np.full((4, 4, 3), u), temperature
            )
            assert np.all((image >= 0.0) & (image <= 1.0))


def _chi_squared(counts, probabilities):
    expected = counts.sum() * probabilities
    return np.sum((counts - expected) ** 2 / expected)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_sample_frequencies_follow_the_pmf(num_channels):
    num_bits = 3
    params = _mixture_params(num_channels)[:1, :1]
    mixture = DiscretizedLogisticMixture(params, num_channels, num_bits)
    x = mixture.sample(20_000, seed=_SEED)[:, 0, 0, 0]
    # The first channel alone is a mixture over one channel.
    first = DiscretizedLogisticMixture(params[..., :12], 1, num_bits)
    counts = np.bincount(np.rint(x * 7).astype(int), minlength=8)
    pmf = first.prob(_all_colours(1, num_bits)).numpy()
    # 29.9 is exceeded once in 10,000 times at 7 degrees of freedom.
    assert _chi_squared(counts, pmf) < 29.9


def test_temperature_divides_the_mixture_logits():
    # Two components far apart: dark with logit 1, light with logit 0.
    params = np.reshape([1.0, 0.0, -0.5, 0.5, -6.0, -6.0], (1, 1, 6))
    mixture = DiscretizedLogisticMixture(params, num_channels=1)
    rng = np.random.default_rng(0)
    uniforms = rng.uniform(size=(2, 20_000, 1, 1, 1))
    dark = mixture.sample_from_uniforms(
        rng.uniform(size=(20_000, 1, 1, 2)), uniforms[0], temperature=0.5
    )
    share = np.mean(np.squeeze(dark) < 0.5)
    expected = _sigmoid(1.0 / 0.5)
    error = np.sqrt(expected * (1.0 - expected) / 20_000)
    assert abs(share - expected) < 4.0 * error


# --- all pixel distributions ------------------------------------------------


@pytest.mark.parametrize("kind", _KINDS)
def test_image_distributions_have_image_events(kind):
    distribution = _image_distributions()[kind]
    assert distribution.batch_shape == [2]
    assert distribution.event_shape == [4, 5, 3]
    np.testing.assert_array_equal(distribution.batch_shape_tensor(), [2])
    np.testing.assert_array_equal(distribution.event_shape_tensor(), [4, 5, 3])
    assert distribution.dtype == tf.float32
    assert distribution.mean().shape == (2, 4, 5, 3)
    assert distribution.sample(seed=_SEED).shape == (2, 4, 5, 3)
    assert distribution.sample((6, 1), seed=_SEED).shape == (6, 1, 2, 4, 5, 3)
    assert distribution.log_prob(distribution.mean()).shape == (2,)


@pytest.mark.parametrize("kind", _KINDS)
def test_copies_and_slices_keep_their_parameters(kind):
    distribution = _image_distributions()[kind]
    np.testing.assert_array_equal(
        distribution.copy(name="copy").mean(), distribution.mean()
    )
    # A sum over a mixture, whose vectors begin elsewhere in a slice.
    assert_rounded_alike(distribution[1].mean(), distribution.mean()[1], 16)


def test_copies_and_slices_of_latents_keep_their_parameters():
    prior, _ = _normals()
    cold = prior.copy(temperature=0.5)
    np.testing.assert_allclose(cold.scale, 0.5 * prior.scale, rtol=1e-6)
    np.testing.assert_allclose(cold[3:5].scale, cold.scale[3:5], rtol=1e-6)


@pytest.mark.parametrize("kind", _KINDS)
def test_images_are_in_the_unit_interval_and_reproducible(kind):
    distribution = _image_distributions()[kind]
    first = distribution.sample(3, seed=_SEED)
    np.testing.assert_array_equal(first, distribution.sample(3, seed=_SEED))
    assert np.any(first != distribution.sample(3, seed=(3, 15)))
    for image in (first, distribution.mean()):
        assert image.dtype == tf.float32
        assert np.all((image >= 0.0) & (image <= 1.0))


@pytest.mark.parametrize("kind", _KINDS)
def test_shapes_may_be_unknown_when_traced(kind):
    num_parameters = {"bernoulli": 3, "mixture": 20, "normal": 6}[kind]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, num_parameters]),
            tf.TensorSpec([None, None, None, 3]),
        ]
    )
    def run(params, x):
        traced = distributions.pixel_distribution(kind, params, 3)
        assert traced.event_shape.as_list() == [None, None, 3]
        return traced.log_prob(x), traced.mean(), traced.sample(seed=_SEED)

    eager = _image_distributions()[kind]
    params = eager.logits if kind == "bernoulli" else eager.params
    x = tf.round(eager.mean())
    log_prob, mean, sample = run(params, x)
    np.testing.assert_allclose(log_prob, eager.log_prob(x), rtol=1e-5)
    np.testing.assert_allclose(mean, eager.mean(), atol=1e-6)
    np.testing.assert_allclose(sample, eager.sample(seed=_SEED), atol=1e-6)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_parameters_are_computed_in_float32(kind, dtype):
    half = _image_distributions(dtype)[kind]
    params = half.logits if kind == "bernoulli" else half.params
    assert params.dtype == tf.float32
    full = distributions.pixel_distribution(kind, params, 3)
    x = tf.cast(tf.round(full.mean()), dtype)
    np.testing.assert_array_equal(
        half.log_prob(x), full.log_prob(tf.cast(x, tf.float32))
    )
    np.testing.assert_array_equal(half.mean(), full.mean())


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_latents_are_computed_in_float32(dtype):
    mu, log_sigma, delta, z = tf.unstack(
        tf.cast(np.random.default_rng(0).normal(size=(4, 50)), dtype)
    )
    half = ResidualNormal(mu, log_sigma)
    full = ResidualNormal(*(tf.cast(t, tf.float32) for t in (mu, log_sigma)))
    assert half.dtype == tf.float32
    np.testing.assert_array_equal(half.log_prob(z), full.log_prob(z))
    np.testing.assert_array_equal(half.from_noise(z), full.from_noise(z))
    np.testing.assert_array_equal(
        half.residual(delta, delta).kl_divergence(half),
        full.residual(*2 * [tf.cast(delta, tf.float32)]).kl_divergence(full),
    )


def test_arithmetic_stays_in_float32_under_a_half_precision_image():
    normal = _image_distributions()["normal"]
    assert normal.log_prob(tf.zeros([2, 4, 5, 3], tf.float16)).dtype == (
        tf.float32
    )


@pytest.mark.parametrize("num_bits", [8, 5, 1])
@pytest.mark.parametrize("log_scale", [-20.0, -7.0, 0.0, 20.0, 100.0])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_mixture_gradients_are_finite_at_extremes(num_bits, log_scale, mean):
    params = np.zeros((10, 2, 2), np.float32)  # [blocks, M, pixels]
    params[0] = [[1e4], [-1e4]]
    params[1::3] = [[mean], [-mean]]
    params[2::3] = log_scale
    params[3::3] = [[50.0], [-50.0]]
    params = tf.constant(params.reshape(20, 2).T[None])  # [1, 2, 20]
    for x in (0.0, 1.0, 2 ** (num_bits - 1) / (2**num_bits - 1)):
        with tf.GradientTape() as tape:
            tape.watch(params)
            mixture = DiscretizedLogisticMixture(params, 3, num_bits)
            log_prob = mixture.log_prob(tf.fill([1, 2, 3], np.float32(x)))
        assert np.isfinite(log_prob)
        assert np.all(np.isfinite(tape.gradient(log_prob, params)))


@pytest.mark.parametrize("raw", [-1e4, 0.0, 1e4])
def test_normal_and_bernoulli_gradients_are_finite_at_extremes(raw):
    for kind, depth in (("normal", 6), ("bernoulli", 3)):
        params = tf.fill([1, 2, depth], np.float32(raw))
        for x in (0.0, 1.0):
            with tf.GradientTape() as tape:
                tape.watch(params)
                distribution = distributions.pixel_distribution(kind, params, 3)
                log_prob = distribution.log_prob(tf.fill([1, 2, 3], x))
            assert np.isfinite(log_prob)
            assert np.all(np.isfinite(tape.gradient(log_prob, params)))


def test_mixture_gradient_agrees_with_differences():
    # In float64 by hand, at levels that use the tails and inner bins.
    params = _mixture_params(3, num_mixtures=2, shape=(1, 4), seed=3)
    x = np.array([0, 31, 12, 17], np.float32)[None, :, None] / 31
    x = np.repeat(x, 3, axis=-1)
    variable = tf.Variable(params)
    with tf.GradientTape() as tape:
        log_prob = DiscretizedLogisticMixture(variable, 3, 5).log_prob(x)
    gradient = tape.gradient(log_prob, variable).numpy()
    step = 1e-6
    for index in range(params.shape[-1]):
        shift = step * np.eye(params.shape[-1])[index]
        up, down = (
            _by_hand_log_prob(params + s * shift, x, 3, 5) for s in (1.0, -1.0)
        )
        np.testing.assert_allclose(
            gradient[..., index], (up - down) / (2 * step), rtol=1e-4, atol=1e-4
        )


def test_pixel_normal_draws_are_clamped_and_cold_ones_are_the_mean():
    normal = _image_distributions()["normal"]
    eps = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    mu, log_sigma = np.split(normal.params.numpy(), 2, axis=-1)
    latent = ResidualNormal(mu, log_sigma)
    expected = np.clip(latent.loc + 0.7 * latent.scale * eps, -1.0, 1.0)
    np.testing.assert_allclose(
        normal.sample_from_noise(eps, temperature=0.7),
        0.5 * expected + 0.5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(
        normal.sample_from_noise(eps, temperature=0.0), normal.mean()
    )


def test_bernoulli_pixels_are_independent_bernoullis():
    logits = 20.0 * np.random.default_rng(0).normal(size=(2, 4, 5, 1))
    logits = logits.astype(np.float32)
    ours = BernoulliPixels(logits)
    theirs = tfd.Independent(tfd.Bernoulli(logits=logits), 3)
    assert isinstance(ours.distribution, tfd.Bernoulli)
    x = theirs.sample(9, seed=_SEED)
    np.testing.assert_allclose(
        ours.log_prob(tf.cast(x, tf.float32)), theirs.log_prob(x), rtol=1e-6
    )
    # An exponential, a sum and a division.
    assert_rounded_alike(ours.mean(), _sigmoid(logits), 3)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_likelihood_is_made_by_name_and_knows_its_size(kind):
    depth = distributions.num_pixel_parameters(kind, 3, num_mixtures=7)
    assert depth == {"bernoulli": 3, "mixture": 70, "normal": 6}[kind]
    made = distributions.pixel_distribution(
        kind, tf.zeros([2, 4, 4, depth]), 3, num_bits=5
    )
    assert type(made) is type(_image_distributions()[kind])
    assert getattr(made, "num_bits", 5) == 5
    assert made.event_shape == [4, 4, 3]


@pytest.mark.parametrize("num_bits", range(1, 9))
def test_quantised_images_are_exact_levels(num_bits):
    levels = np.arange(256)
    for x in (
        levels.astype(np.float32) / np.float32(255),
        levels.astype(np.float32) * np.float32(1 / 255),
    ):
        np.testing.assert_allclose(
            distributions.quantize(x, num_bits),
            (levels >> (8 - num_bits)) / (2**num_bits - 1),
            rtol=1e-7,
        )


# --- errors -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: DiscretizedLogisticMixture(p[..., :99]), "multiple of 10"),
        (lambda p: DiscretizedLogisticMixture(p, 1), "multiple of 3"),
        (lambda p: DiscretizedLogisticMixture(p, 0), "num_channels must be"),
        (lambda p: DiscretizedLogisticMixture(p, 3, 9), "num_bits must be"),
        (lambda p: DiscretizedLogisticMixture(p, 3, 0), "num_bits must be"),
        (lambda p: DiscretizedLogisticMixture(p[..., :0]), "got 0"),
        (lambda p: DiscretizedLogisticMixture(p[0, 0]), r"\[..., H, W, P\]"),
        (lambda p: PixelNormal(p[..., :12]), "needs 6 parameters"),
        (lambda p: PixelNormal(p[..., :5]), "multiple of 6"),
        (
            lambda p: distributions.pixel_distribution("bernoulli", p, 3),
            "as many parameters",
        ),
        (
            lambda p: distributions.pixel_distribution("laplace", p, 3),
            "likelihood must be .* got 'laplace'",
        ),
        (
            lambda p: distributions.num_pixel_parameters("laplace", 3),
            "likelihood must be",
        ),
        (
            lambda p: DiscretizedLogisticMixture.num_parameters(3, 0),
            "num_mixtures must be",
        ),
        (lambda p: distributions.quantize(p, 9), "num_bits must be"),
    ],
)
def test_impossible_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(tf.zeros([2, 4, 4, 100]))


@pytest.mark.parametrize("kind", _KINDS)
def test_images_that_do_not_fit_are_refused(kind):
    distribution = _image_distributions()[kind]
    # Both would broadcast.
    for shape in ([2, 4, 5, 1], [2, 1, 1, 3]):
        with pytest.raises(ValueError, match="Images of shape"):
            distribution.log_prob(tf.zeros(shape))
    with pytest.raises(TypeError, match="got uint8"):
        distribution.log_prob_map(tf.zeros([2, 4, 5, 3], tf.uint8))


# --- export -----------------------------------------------------------------


@pytest.mark.parametrize("kind", _KINDS)
def test_images_and_scores_convert_to_onnx(kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    convert = pytest.importorskip("tf2onnx.convert")
    live = _image_distributions()[kind]
    params = live.logits if kind == "bernoulli" else live.params
    rng = np.random.default_rng(0)
    inputs = {"params": params.numpy(), "x": np.round(live.mean().numpy())}
    if kind == "mixture":
        inputs["u_component"] = rng.uniform(size=(2, 4, 5, 2))
    if kind != "bernoulli":
        inputs["noise"] = rng.uniform(size=(2, 4, 5, 3))
        inputs["temperature"] = np.reshape([0.5, 1.0], (2, 1, 1, 1))
    inputs = {k: v.astype(np.float32) for k, v in inputs.items()}

    def run(params, x, *noise):
        traced = distributions.pixel_distribution(kind, params, 3)
        draw = {
            "bernoulli": "mean",
            "mixture": "sample_from_uniforms",
            "normal": "sample_from_noise",
        }[kind]
        return traced.log_prob(x), traced.mean(), getattr(traced, draw)(*noise)

    signature = [
        tf.TensorSpec([None, *value.shape[1:]], name=name)
        for name, value in inputs.items()
    ]
    model, _ = convert.from_function(
        tf.function(run, input_signature=signature), signature, opset=17
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for ours, theirs in zip(
        run(*inputs.values()), session.run(None, inputs), strict=True
    ):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
