"""NumPy's files: those of others by their headers first, ours written whole.

`numpy.load` unpacks an array of an `.npz` file before anybody knows how large
it is, and raises nearly anything for damaged headers.  Here a file is refused
in one sentence, and nothing is read into memory before its size is known.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nvae_tf.core.errors import DataError, UserError
from nvae_tf.core.files import replacing
from nvae_tf.core.reading import open_regular, shown

__all__ = ["Header", "NpzFile", "map_npy", "read_npz", "write_npz"]

_SAVE_AGAIN = "save it again with NumPy"
# Of a header: NumPy's own limit, which it looks at too late.
_MOST_HEADER = 10_000
_MOST_ARRAYS = 4096
_CHUNK = 2**20
_HEADERS = {
    1: (2, np.lib.format.read_array_header_1_0),
    2: (4, np.lib.format.read_array_header_2_0),
    # The same but for UTF-8 in the names of fields.
    3: (4, np.lib.format.read_array_header_2_0),
}


class Header(NamedTuple):
    """What a file says of an array.

    Attributes:
      shape: of the array.
      dtype: of its values; no Python objects.
      is_fortran: whether the first axis changes fastest.
      offset: of the values in the file, in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    offset: int

    @property
    def num_bytes(self) -> int:
        """Of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An `.npz` file, whoever made it, open for reading.

    Args:
      path: the file.
      error: what is raised.
      advice: the way out, for the message.

    Attributes:
      headers: of the arrays, by name.

    Raises:
      UserError: `error`, if it is no such file or damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        error: type[UserError] = DataError,
        advice: str = _SAVE_AGAIN,
    ):
        self._explained = lambda: _explained(path, error, advice)
        self.headers: dict[str, Header] = {}
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_regular(path, error, advice))
            with self._explained():
                self._archive = stack.enter_context(zipfile.ZipFile(file))
                self._members = _members(self._archive)
                for name in self._members:
                    self.headers[name] = self._read_header(name)
            self._open = stack.pop_all()

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(self, *_) -> None:
        self._open.close()

    def _read_header(self, name: str) -> Header:
        info = self._members[name]
        with self._archive.open(info) as member:
            header = _read_header(member)
        if header.offset + header.num_bytes > info.file_size:
            raise ValueError(f"the array {shown(name)} is cut off")
        return header

    def read(self, name: str, most: int) -> np.ndarray:
        """Reads one array.

        Args:
          name: a key of `headers`.
          most: bytes that it may have.

        Raises:
          UserError: if it has more, or is damaged.
        """
        with self._explained():
            return self._read(name, most)

    def _read(self, name: str, most: int) -> np.ndarray:
        header = self.headers[name]
        if header.num_bytes > most:
            raise ValueError(
                f"the array {shown(name)} unpacks to {header.num_bytes:,} "
                f"bytes, more than the {most:,} allowed"
            )
        values = np.empty(header.num_bytes, np.uint8)
        with self._archive.open(self._members[name]) as member:
            member.read(header.offset)
            filled = 0
            while filled < len(values):
                chunk = member.read(min(_CHUNK, len(values) - filled))
                if not chunk:
                    raise ValueError(f"the array {shown(name)} is cut off")
                end = filled + len(chunk)
                values[filled:end] = np.frombuffer(chunk, np.uint8)
                filled = end
            member.read(1)  # At the end the checksum is looked at.
        order = "F" if header.is_fortran else "C"
        return np.ndarray(header.shape, header.dtype, values.data, order=order)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays' files, by the arrays' names."""
    infos = archive.infolist()
    members = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(members) != len(infos) or len(infos) > _MOST_ARRAYS:
        raise ValueError("it has two arrays of one name, or very many")
    return members


def read_npz(
    path: str | os.PathLike,
    most: int,
    error: type[UserError] = DataError,
    advice: str = _SAVE_AGAIN,
) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file, whoever made it.

    Args:
      path: the file.
      most: bytes that they may have together.
      error: what is raised.
      advice: the way out, for the message.

    Raises:
      UserError: `error`, if it is no such file, damaged or too large.
    """
    arrays = {}
    with NpzFile(path, error, advice) as file:
        for name, header in file.headers.items():
            arrays[name] = file.read(name, most)
            most -= header.num_bytes
    return arrays


def write_npz(path, /, **arrays) -> None:
    """Writes an `.npz` file, whole or not at all.

    Args:
      path: of the file, whatever its name ends with.
      **arrays: by name.

    Raises:
      DataError: if it cannot be written.
    """
    # Opened here: to a name without the ending NumPy would add it.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def map_npy(
    path: str | os.PathLike,
    error: type[UserError] = DataError,
    advice: str = _SAVE_AGAIN,
) -> np.ndarray:
    """Maps an `.npy` file into memory, read-only, whoever made it.

    Args:
      path: the file.
      error: what is raised.
      advice: the way out, for the message.

    Raises:
      UserError: `error`, if it is no such file or damaged.
    """
    with (
        open_regular(path, error, advice) as file,
        _explained(path, error, advice),
    ):
        header = _read_header(file)
        size = os.fstat(file.fileno()).st_size
        if header.offset + header.num_bytes > size:
            raise ValueError("it is cut off")
        return np.memmap(
            file,
            header.dtype,
            "r",
            header.offset,
            header.shape,
            "F" if header.is_fortran else "C",
        )


@contextlib.contextmanager
def _explained(path, error: type[UserError], advice: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    # zipfile, zlib and NumPy raise nearly anything for damaged bytes.
    except Exception as problem:
        reason = shown(str(problem) or type(problem).__name__, 160)
        raise error(
            f"{path} cannot be read as a NumPy file ({reason}); {advice}."
        ) from problem


def _read_header(file: BinaryIO | Any) -> Header:
    """Reads a header, from a file that stands at its start."""
    start = file.read(8)
    if start[:6] != np.lib.format.MAGIC_PREFIX or len(start) < 8:
        raise ValueError("it holds something else than arrays")
    if start[6] not in _HEADERS:
        raise ValueError("its version of the format is not known")
    width, parse = _HEADERS[start[6]]
    length = file.read(width)
    size = int.from_bytes(length, "little")
    if size > _MOST_HEADER:
        raise ValueError("its header is too long")
    text = file.read(size)
    shape, is_fortran, dtype = parse(io.BytesIO(length + text))
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if any(type(n) is not int or n < 0 for n in shape) or len(shape) > 32:
        raise ValueError("its shape is impossible")
    return Header(shape, dtype, is_fortran, 8 + width + size)
