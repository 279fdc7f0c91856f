"""Values of a program's inputs, from short descriptions of them.

So weights need not travel: the same name in the same case has the same values
wherever and in whatever precision it is measured.  NumPy alone.
"""

import zlib
from typing import Any

import numpy as np

__all__ = ["describe", "make"]


def describe(value: np.ndarray) -> list:
    """How to make values like these: a kind, and its parameters."""
    value = np.asarray(value, np.float64)
    low, high = value.min(), value.max()
    if low == high:
        return ["constant", float(low)]
    return ["normal", float(value.mean()), float(value.std())]


def make(case: str, described: dict[str, Any]) -> np.ndarray:
    """The values of an input.

    Args:
      case: they differ between cases.
      described: "name", "shape", "dtype" and "values": "constant" with the
        number, "normal" with mean and deviation, "unit_rows" (rows of norm
        1), "levels" with how many there are in [0, 1], or "seed".
    """
    kind, *parameters = described["values"]
    shape, dtype = described["shape"], np.dtype(described["dtype"])
    if kind == "constant":
        return np.full(shape, *parameters, dtype)
    if kind == "seed":
        return np.zeros(shape, dtype)
    key = zlib.crc32(f"{case}/{described['name']}".encode())
    generator = np.random.default_rng(key)
    if kind == "levels":
        top = parameters[0] - 1
        value = np.round(generator.random(shape, np.float32) * top) / top
    else:
        value = generator.standard_normal(shape, np.float32)
        if kind == "normal":
            mean, deviation = parameters
            value = value * np.float32(deviation) + np.float32(mean)
        elif kind == "unit_rows":
            value /= np.linalg.norm(value, axis=-1, keepdims=True)
        else:
            raise ValueError(f"{kind!r} is no kind of values.")
    return value.astype(dtype)
