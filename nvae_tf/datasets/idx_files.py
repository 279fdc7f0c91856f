"""MNIST's format: IDX files of images and of labels, gzipped or not."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import struct
import zlib

import numpy as np

from nvae_tf.core.errors import DataError
from nvae_tf.core.reading import open_regular, shown

__all__ = ["read_idx", "read_idx_labels"]

_AGAIN = "download it again"
_UBYTE = 0x08
# Dimensions of a file of images, and of one of labels.
_IMAGE_RANKS, _LABEL_RANKS = (3, 4), (1,)


def read_idx(path: pathlib.Path, max_unpacked_mb: int) -> np.ndarray:
    """Reads an IDX file of images of unsigned bytes, gzipped or not.

    Args:
      path: the file.
      max_unpacked_mb: MiB that a gzipped file may unpack to by its header.

    Returns:
      uint8 `[N, H, W]` or `[N, H, W, C]`.

    Raises:
      DataError: if it is damaged, too large or holds something else.
    """
    return _unpack_idx(path, max_unpacked_mb, _IMAGE_RANKS)


def read_idx_labels(path: pathlib.Path, max_unpacked_mb: int) -> np.ndarray:
    """Reads an IDX file of labels, uint8 `[N]`; see `read_idx`."""
    return _unpack_idx(path, max_unpacked_mb, _LABEL_RANKS)


def _unpack_idx(
    path: pathlib.Path, max_unpacked_mb: int, ranks: tuple[int, ...]
) -> np.ndarray:
    """Reads an IDX file of so many dimensions, gzipped or not."""
    with open_regular(path, DataError, _AGAIN) as file:
        try:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                size = os.fstat(file.fileno()).st_size
                return _read_idx(path, file, ranks, size, "the file has")
            most = max_unpacked_mb * 2**20
            with gzip.open(file) as unpacked:
                return _read_idx(
                    path,
                    unpacked,
                    ranks,
                    most,
                    f"data.max_unpacked_mb={max_unpacked_mb} allows",
                )
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{path} cannot be read ({shown(str(error))}); {_AGAIN}."
            ) from error


def _read_idx(
    path: pathlib.Path, file, ranks: tuple[int, ...], most: int, why: str
) -> np.ndarray:
    """Reads the values; no more than `most` bytes, of which `why` tells."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise DataError(f"{path} is not an IDX file; {_AGAIN}.")
    kind, rank = start[2], start[3]
    if kind != _UBYTE:
        raise DataError(
            f"{path} holds values of IDX type {kind:#04x}; only unsigned "
            "bytes (0x08) are images or labels."
        )
    if rank not in ranks:
        raise DataError(
            f"{path} states {rank} dimensions; "
            + (
                "labels are [N]."
                if ranks == _LABEL_RANKS
                else "images are [N, height, width] or [N, height, width, "
                "channels]."
            )
        )
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise DataError(f"{path} is cut off in its header; {_AGAIN}.")
    shape = struct.unpack(f">{rank}I", header)
    count = math.prod(shape)
    if count > most:
        raise DataError(
            f"{path} states {count:,} values of shape {shape}, more than the "
            f"{most:,} bytes that {why}; if it is cut off or damaged, {_AGAIN}."
        )
    # One more, to see whether it ends there.
    values = file.read(count + 1)
    if len(values) != count:
        raise DataError(
            f"{path} states {count:,} values of shape {shape}, but holds "
            f"{'more' if len(values) > count else f'{len(values):,}'}: it is "
            f"cut off or damaged; {_AGAIN}."
        )
    return np.frombuffer(values, np.uint8).reshape(shape)
