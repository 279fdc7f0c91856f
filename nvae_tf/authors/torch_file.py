"""Reads and writes the files of `torch.save` without PyTorch.

Both formats that torch has had since version 0.4 are read: the zip archive and
the older stream. What is in them is a pickle, which can ask for anything to be
run; `nvae_tf.authors.torch_file_pickle` reads it without running any of that.
"""

import io
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nvae_tf.authors import torch_file_pickle
from nvae_tf.authors.torch_file_format import (
    RefusedError,
    check_plain,
    damaged,
    decode,
    item_size,
    result_dtype,
)
from nvae_tf.authors.torch_file_writer import write
from nvae_tf.core.errors import CheckpointError
from nvae_tf.core.reading import open_regular, shown

__all__ = ["read", "write"]

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001
_ORDERS = {b"little": "<", b"big": ">"}
# Of the opcodes that end with a line break; names are short.
_MAX_LINE = 1 << 16
# Of a zip's record: the sizes follow its content; its name is in UTF-8.
_FLAGS = 0x8 | 0x800


def read(path: str | os.PathLike[str]) -> object:
    """Reads a file that `torch.save` wrote.

    Tensors and parameters come back as read-only NumPy arrays (they share
    memory where the tensors did), bfloat16 as float32, `torch.Size` as tuple,
    everything else as it was. An OrderedDict keeps its `_metadata`.

    Args:
        path: the file, in the zip or the older stream format.

    Returns:
        The value that was saved.

    Raises:
        CheckpointError: the file is missing, foreign, truncated, damaged, or
            names a Python object that is none of tensors, OrderedDict,
            argparse.Namespace and plain containers. Nothing of it has run.
    """
    path = Path(path)
    try:
        return _read(path)
    except CheckpointError:
        raise
    except RefusedError as refusal:
        raise CheckpointError(f"{path} {refusal}") from refusal
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}); check the "
            "path and its permissions"
        ) from error
    # Damaged bytes make zipfile, pickletools and NumPy raise nearly anything.
    except Exception as error:
        what = shown(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{path} {damaged(what)}") from error


def _read(path: Path) -> object:
    advice = "name the file of torch.save itself"
    with open_regular(path, CheckpointError, advice) as file:
        stream = _Stream(file)
        start = stream.read(4)
        stream.seek(0)
        if start == b"PK\3\4":
            value = _read_zip(stream)
        elif start[:1] == b"\x80":
            value = _read_pickles(stream)
        else:
            raise _foreign("it is neither a zip archive nor a pickle")
    check_plain(value)
    return value


def _foreign(why: str) -> RefusedError:
    return RefusedError(
        f"is not a file that torch.save writes ({why}); name a checkpoint that "
        "torch.save wrote"
    )


class _Stream:
    """A file whose reads ask for no more memory than it has bytes left.

    What to read is a file's own word, and can be any number.
    """

    def __init__(self, file: BinaryIO):
        self.size = os.fstat(file.fileno()).st_size
        self.tell = file.tell
        self.seekable = file.seekable
        self._file = file

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset < 0:
            raise damaged("it refers to what lies before its start")
        return self._file.seek(offset, whence)

    def read(self, count: int = -1) -> bytes:
        left = max(self.size - self.tell(), 0)
        return self._file.read(left if count < 0 else min(count, left))

    def readline(self) -> bytes:
        return self._file.readline(_MAX_LINE)

    def exactly(self, count: int) -> bytes:
        data = self.read(count)
        if len(data) != count:
            raise damaged("it ends in the middle of a storage")
        return data


def _read_zip(stream: _Stream) -> object:
    """Reads an archive of data.pkl and one record for each storage."""
    with zipfile.ZipFile(stream) as archive:
        records = {info.filename: info for info in archive.infolist()}
        pickles = [
            name
            for name in records
            if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if len(pickles) != 1:
            raise _foreign("a zip archive without one FOLDER/data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        # torch stores as is. Then no record can unpack to more than the file
        # has, nor can all of them together.
        if any(
            info.compress_type != zipfile.ZIP_STORED
            or info.compress_size != info.file_size
            or info.flag_bits & ~_FLAGS
            for info in archive.infolist()
        ):
            raise _foreign("its records are compressed, encrypted or patched")
        sizes = [info.file_size for info in archive.infolist()]
        if sum(sizes) > stream.size:
            raise damaged("its records claim more bytes than the file has")
        # torch finds records whatever the case of their names.
        if len({name.lower() for name in records}) != len(sizes):
            raise damaged("two of its records have the same name")

        def content(name: str) -> bytes:
            if folder + name not in records:
                raise damaged(f"the record {shown(name)} is missing")
            return archive.read(records[folder + name])

        order = b"little"  # Of versions that do not write it down.
        if f"{folder}byteorder" in records:
            order = content("byteorder")
        if order not in _ORDERS:
            raise damaged("its byte order is neither little nor big")

        def load_storage(kind: str, key: str, count: int) -> np.ndarray:
            raw = content(f"data/{key}")
            if len(raw) // item_size(kind) != count:
                raise damaged(
                    f"storage {shown(key)} has {len(raw)} bytes, not {count} "
                    "elements"
                )
            return decode(raw, kind, count, _ORDERS[order])

        pickled = io.BytesIO(content("data.pkl"))
        return torch_file_pickle.load(pickled, load_storage)


def _read_pickles(stream: _Stream) -> object:
    """Reads the older format: pickles in a row and, after them, the storages.

    The pickles are a magic number, a version, what the machine was like, the
    value, and the keys of the storages in their order.
    """
    if torch_file_pickle.load(stream, _load_no_storage) != _STREAM_MAGIC:
        raise _foreign("a pickle, but without torch's magic number")
    if torch_file_pickle.load(stream, _load_no_storage) != _STREAM_VERSION:
        raise _foreign("its version of the older format is not known")
    # torch too ignores the machine, byte order included: whatever it was, the
    # storages in this format are little-endian.
    torch_file_pickle.load(stream, _load_no_storage)

    # The storages come last, so that tensors are views of memory that is yet to
    # be filled.
    storages: dict[str, tuple[str, np.ndarray]] = {}
    claimed = 0

    def reserve_storage(kind: str, key: str, count: int) -> np.ndarray:
        nonlocal claimed
        claimed += count * item_size(kind)
        if claimed > stream.size:
            raise damaged("its storages claim more bytes than the file has")
        values = np.empty(count, result_dtype(kind))
        storages[key] = kind, values
        return values

    value = torch_file_pickle.load(stream, reserve_storage)
    keys = torch_file_pickle.load(stream, _load_no_storage)
    if (
        type(keys) is not list
        or len(keys) != len(storages)
        or not all(type(key) is str for key in keys)
        or set(keys) != set(storages)
    ):
        raise damaged("its list of storages is not that of its tensors")
    for key in keys:
        kind, values = storages[key]
        count = int.from_bytes(stream.exactly(8), "little")
        if count != len(values):
            raise damaged(
                f"storage {shown(key)} has {count} elements, not {len(values)}"
            )
        raw = stream.exactly(count * item_size(kind))
        values[:] = decode(raw, kind, count, "<")
    return value


def _load_no_storage(kind: str, key: str, count: int) -> np.ndarray:
    raise damaged(f"a {kind} of {count} elements, {shown(key)}, out of place")
