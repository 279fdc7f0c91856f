"""Arrays that tests of numerical operations begin with and end with."""

import numpy as np


def normal(*shape, scale=1.0, seed=None):
    """Float32 normal noise; by default another for every rank."""
    rng = np.random.default_rng(len(shape) if seed is None else seed)
    return rng.normal(0.0, scale, shape).astype(np.float32)


def assert_close(actual, expected, tolerance=1e-5):
    """Of the same shape, and close absolutely or relatively."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance
    )
