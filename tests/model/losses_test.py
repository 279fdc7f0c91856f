"""Loss terms against values worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model import losses
from nvae_tf.model.nvae import NVAE
from tests.support import model_cases

_KL = np.float32([[4.0, -1.0, 0.5], [2.0, -2.0, 0.1]])
_ALPHAS = [1.0, 2.0, 2.0]


def _gamma():
    size = (np.array([3.0, 1.5, 0.3]) + 0.01) / _ALPHAS
    return size / size.mean()


@pytest.mark.parametrize(
    ("scales", "groups", "adaptive", "expected"),
    [
        (1, 3, False, [1, 1, 1]),
        (2, 2, False, [1, 1, 4, 4]),
        # 1/1, 4/2, 16/4 from coarse to fine.
        (3, 4, True, [1, 2, 2, 4, 4, 4, 4]),
        # 1/2, 4/5: over the smallest.
        (2, 5, True, [1, 1] + [1.6] * 5),
    ],
)
def test_alphas_are_four_to_the_scale_over_its_groups(
    scales, groups, adaptive, expected
):
    config = model_cases.small(
        image_size=16,
        num_latent_scales=scales,
        num_groups_per_scale=groups,
        adaptive_groups=adaptive,
    )
    assert losses.balance_alphas(config) == pytest.approx(expected)


def test_balance_coefficients_follow_the_size_of_the_kl():
    actual = losses.balance_coefficients(losses.kl_sizes(_KL), _ALPHAS)
    np.testing.assert_allclose(actual, _gamma(), rtol=1e-6)
    assert np.mean(actual) == pytest.approx(1)


def test_sign_of_the_kl_does_not_balance_anything():
    """|KL| per example: with flows a KL may be negative."""
    flipped = _KL * [[1, -1, 1], [-1, 1, -1]]
    np.testing.assert_allclose(
        losses.balance_coefficients(
            losses.kl_sizes(np.float32(flipped)), _ALPHAS
        ),
        _gamma(),
        rtol=1e-6,
    )


@pytest.mark.parametrize("beta", [1e-4, 0.4, 0.999])
def test_kl_is_balanced_while_beta_grows(beta):
    balanced, gamma = losses.balanced_kl(_KL, _ALPHAS, tf.constant(beta))
    np.testing.assert_allclose(gamma, _gamma(), rtol=1e-6)
    np.testing.assert_allclose(balanced, beta * _KL @ _gamma(), rtol=1e-5)


@pytest.mark.parametrize("beta", [1.0, tf.constant(1.0)])
def test_kl_is_the_plain_sum_when_beta_is_1(beta):
    balanced, gamma = losses.balanced_kl(_KL, _ALPHAS, beta)
    np.testing.assert_array_equal(gamma, np.ones(3))
    np.testing.assert_allclose(balanced, _KL.sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_no_gradient_flows_through_the_coefficients(beta):
    kl = tf.constant(_KL)
    with tf.GradientTape() as tape:
        tape.watch(kl)
        balanced, _ = losses.balanced_kl(kl, _ALPHAS, beta)
    gamma = _gamma() if beta < 1 else np.ones(3)
    np.testing.assert_allclose(
        tape.gradient(balanced, kl), [beta * gamma] * 2, rtol=1e-5
    )


def test_groups_without_kl_are_balanced_alike():
    gamma = losses.balance_coefficients(tf.zeros([3]), [1.0, 1.0, 4.0])
    np.testing.assert_allclose(gamma, np.array([4, 4, 1]) / 3, rtol=1e-6)


def test_bits_per_dimension_are_of_the_unpadded_image():
    config = model_cases.small(image_size=28, padding=2)
    bits = losses.bits_per_dim(28 * 28 * math.log(2) * 3.5, config)
    assert bits == pytest.approx(3.5)
    colour = model_cases.CONFIGS["mixture"]
    assert losses.bits_per_dim(math.log(2), colour) == pytest.approx(1 / 192)


def test_importance_weight_is_the_joint_over_the_posterior():
    weight = losses.log_importance_weight(
        reconstruction=np.array([100.0]),
        log_p=np.array([-30.0]),
        log_q=np.array([-10.0]),
    )
    assert weight == [-120.0]


def test_importance_weighted_estimate_is_a_log_of_means():
    weights = np.float32([[-1.0, -3000.0], [-2.0, -3001.0], [-4.0, -2999.0]])
    exact = weights.astype(np.float64)
    expected = -np.logaddexp.reduce(exact, axis=0) + np.log(3)
    np.testing.assert_allclose(
        losses.nll_from_weights(weights), expected, rtol=1e-6
    )


def test_one_importance_sample_is_the_negative_bound():
    weights = tf.constant([[-5.0, 7.0]])
    np.testing.assert_allclose(losses.nll_from_weights(weights), [5, -7])


def test_estimate_does_not_get_worse_with_more_samples_of_one_weight():
    weights = tf.fill([50, 2], -123.0)
    np.testing.assert_allclose(losses.nll_from_weights(weights), [123, 123])


@pytest.mark.parametrize("name", ["padded", "mixture", "normal"])
def test_reconstruction_is_one_positive_number_of_nats_per_example(name):
    config = model_cases.CONFIGS[name]
    model = NVAE(config)
    x = model_cases.images(config, batch=3)
    out = model(x, eps=model_cases.noise(config, batch=3))
    likelihood = model.likelihood(out.logits)
    nll = losses.reconstruction_nll(likelihood, x)
    assert nll.shape == (3,)
    np.testing.assert_allclose(nll, -likelihood.log_prob(x))


def test_border_of_padded_images_does_not_count():
    config = model_cases.CONFIGS["padded"]
    model = NVAE(config)
    x = model_cases.images(config)
    logits = model(x, eps=model_cases.noise(config)).logits.numpy()
    inner = (slice(None), slice(2, -2), slice(2, -2))
    by_hand = np.logaddexp(0, logits[inner]) - x[inner] * logits[inner]
    expected = by_hand.sum((1, 2, 3))
    for changed in (x, np.pad(x[inner], [(0, 0), (2, 2), (2, 2), (0, 0)])):
        nll = losses.reconstruction_nll(model.likelihood(logits), changed)
        np.testing.assert_allclose(nll, expected, rtol=1e-5)
