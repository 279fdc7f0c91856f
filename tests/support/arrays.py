"""Arrays that tests of numerical operations begin with and end with.

Processors and libraries add in different orders, fuse a multiplication with
an addition, or keep more digits in between: two right ways to compute a value
come apart by rounding.  `rounding` says how far they may; a tolerance that one
processor meets by chance is no property.
"""

import math

import ml_dtypes
import numpy as np

# Rounded operations one after the other on the way through a layer: the sum of
# a convolution, in as many parts as its library likes, the moments and the
# four operations of a normalisation, an activation and the sum with the skip.
LAYER = 32


def normal(*shape, scale=1.0, seed=None):
    """Float32 normal noise; by default another for every rank."""
    rng = np.random.default_rng(len(shape) if seed is None else seed)
    return rng.normal(0.0, scale, shape).astype(np.float32)


def rounding(count, dtype="float32"):
    """How far two computations of a value may come apart by rounding.

    Each of the `count` operations on the longest way to the value rounds up or
    down by at most half of the dtype's epsilon, in both computations.  These
    errors are a random walk: they come to the square root of `count`, times
    epsilon, and four times as much is practically never exceeded.

    Args:
      count: of rounded operations one after the other; `LAYER` for a layer.
      dtype: in which they are rounded; of a policy, what it computes in.

    Returns:
      A distance relative to the largest number on the way.
    """
    epsilon = float(ml_dtypes.finfo(dtype.removeprefix("mixed_")).eps)
    return 4 * math.sqrt(count) * epsilon


def assert_close(actual, expected, tolerance=1e-5):
    """Of the same shape, and close absolutely or relatively."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance
    )


def assert_rounded_alike(
    actual, expected, count, dtype="float32", *, size=None, err_msg=""
):
    """Of the same shape, and apart by no more than `rounding`.

    Args:
      actual: an array.
      expected: an array.
      count: see `rounding`.
      dtype: see `rounding`.
      size: of the numbers that the values are made of; by default the largest
        value's. Values smaller than their terms have the error of these.
      err_msg: what to say before the numbers.
    """
    actual, expected = (
        np.asarray(a).astype(np.float64) for a in (actual, expected)
    )
    assert actual.shape == expected.shape, err_msg
    if size is None:
        size = np.max(np.abs(expected), initial=0.0)
    tolerance = rounding(count, dtype)
    np.testing.assert_allclose(
        actual,
        expected,
        rtol=tolerance,
        atol=tolerance * float(size),
        err_msg=err_msg,
    )


def relative_error(actual, expected):
    """Length of the difference, in lengths of `expected`."""
    actual, expected = (np.asarray(a, np.float64) for a in (actual, expected))
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)
