"""Importance-weighted bounds by number of draws."""

import numpy as np

from examples.accelerator_training import bounds
from nvae_tf.model import losses


def _weights(draws):
    return np.random.default_rng(0).normal(-80, 3, (draws, 5))


def test_all_draws_give_the_projects_estimate():
    weights = _weights(100)
    curve = bounds.curve(weights)
    np.testing.assert_allclose(
        curve[100], losses.nll_from_weights(weights), rtol=1e-12
    )


def test_one_draw_gives_the_mean_weight():
    weights = _weights(30)
    np.testing.assert_allclose(bounds.curve(weights)[1], -weights.mean(axis=0))


def test_bounds_fall_with_the_number_of_draws():
    curve = bounds.curve(_weights(1000))
    assert list(curve) == [1, 10, 100, 1000]
    means = [bound.mean() for bound in curve.values()]
    assert means == sorted(means, reverse=True)


def test_draws_that_make_no_block_are_left_out():
    weights = _weights(25)
    np.testing.assert_allclose(
        bounds.curve(weights)[10], bounds.curve(weights[:20])[10]
    )
