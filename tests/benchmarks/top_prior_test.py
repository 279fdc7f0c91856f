"""The gain of a mixture prior, against what is known in closed form."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.top_prior import gains


def test_a_component_that_is_the_prior_gains_nothing():
    z = np.random.default_rng(0).normal(size=[20, 6])
    (found,) = gains(z, np.zeros([1, 6]), np.full([1, 6], 1.01), [1])
    assert found["gain"] == pytest.approx(0, abs=1e-9)
    assert found["error"] == pytest.approx(0, abs=1e-9)


def test_gains_are_those_of_the_written_out_mixture():
    random = np.random.default_rng(1)
    z = random.normal(size=[150, 4])
    mean, sigma = random.normal(size=[5, 4]), random.uniform(0.2, 1, [5, 4])
    for found in gains(z, mean, sigma, [2, 5]):
        m = found["components"]
        density = stats.norm.pdf(z[:, None], mean[:m], sigma[:m]).prod(-1)
        prior = stats.norm.logpdf(z, 0, 1.01).sum(-1)
        expected = np.log(density.mean(-1)) - prior
        assert found["gain"] == pytest.approx(expected.mean())
        assert found["error"] == pytest.approx(stats.sem(expected))
