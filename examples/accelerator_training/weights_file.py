"""Weights in few bytes: the averaged ones, and what the last differ by.

Needs NumPy alone.  Averages keep 15 bits of their mantissa, to 2e-5 of their
value; the differences are in half precision.
"""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np

__all__ = ["narrow", "packed", "unpacked", "widened"]


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 `[N]` -> uint8 `[3, N]`: the upper bytes, rounded."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits.astype(np.uint64) + 0x80
    planes = [(rounded >> shift) & 0xFF for shift in (24, 16, 8)]
    return np.stack(planes).astype(np.uint8)


def widened(planes: np.ndarray) -> np.ndarray:
    """uint8 `[3, N]` -> float32 `[N]`."""
    high, middle, low = planes.astype(np.uint32)
    return ((high << 24) | (middle << 16) | (low << 8)).view(np.float32)


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as one file, each compressed on its own."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def unpacked(path) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is no such file.
    """
    try:
        # Opened here, since NumPy leaves a damaged archive open.
        with (
            open(path, "rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            return {name: archive[name] for name in archive.files}
    except (zlib.error, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"it is damaged ({error})") from error
