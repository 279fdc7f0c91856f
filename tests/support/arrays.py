"""Arrays that tests of numerical operations begin with and end with."""

import numpy as np


def normal(*shape, scale=1.0, seed=None):
    """Float32 normal noise; by default another for every rank."""
    rng = np.random.default_rng(len(shape) if seed is None else seed)
    return rng.normal(0.0, scale, shape).astype(np.float32)


def rounding(dtype: str, steps: int) -> float:
    """The relative error that so many roundings in a row may add up to.

    CPUs choose by what they can do how a product is blocked, what is fused and
    in which order is added; each choice rounds elsewhere.  Half precision
    rounds to its own digits even where a kernel adds in float32.

    Args:
      dtype: of the values, or of a policy of mixed precision.
      steps: roundings from the input to the result, one behind the other.
    """
    eps = {
        "float32": 2.0**-23,
        "mixed_float16": 2.0**-10,
        "mixed_bfloat16": 2.0**-7,
    }[dtype]
    return steps * eps


def assert_close(actual, expected, tolerance=1e-5):
    """Of the same shape, and close absolutely or relatively."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance
    )
