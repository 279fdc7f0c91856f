"""Writes the zip format of `torch.save` without PyTorch.

`nvae_tf.authors.torch_file` is the module to import: it holds the reader and
passes `write` on.
"""

import argparse
import collections
import math
import os
import struct
import zipfile
from pathlib import Path

import numpy as np

from nvae_tf.authors.torch_file_format import MAX_DEPTH, STORAGES, is_key
from nvae_tf.core.errors import CheckpointError
from nvae_tf.core.files import replacing

__all__ = ["write"]

_FOLDER = "archive"
_ALIGNMENT = 64  # torch aligns records, so that they can be memory-mapped.
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
_NAMESPACE = b"cargparse\nNamespace\n)\x81"
_REBUILD_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def write(path: str | os.PathLike[str], value: object) -> None:
    """Writes a value so that `torch.load` reads it.

    NumPy arrays become contiguous CPU tensors, one storage each, and the file
    loads with `weights_only=True` unless an `argparse.Namespace` is in it. The
    file appears under its name only when it is complete.

    Args:
        path: the file to write; one that exists is replaced.
        value: dict, OrderedDict (with the `_metadata` of a state_dict, where it
            has one), list, tuple, str, int, float, bool, None,
            argparse.Namespace and NumPy arrays, nested as you like.

    Raises:
        CheckpointError: something in the value is none of these, contains
            itself, or the file cannot be written.
    """
    path = Path(path)
    pickled = _Pickler()
    try:
        pickled.emit(value, "value", 0)
    except _UnsupportedError as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    with replacing(path, CheckpointError) as draft:
        with zipfile.ZipFile(draft, "w") as archive:
            _add(archive, "data.pkl", b"\x80\x02" + pickled.code + b".")
            _add(archive, "byteorder", b"little")
            for number, array in enumerate(pickled.arrays):
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                _add(archive, f"data/{number}", little.tobytes())
            _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Appends an uncompressed record whose content starts aligned."""
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}")
    # An extra field of id "FB", which torch pads with too, sits between the
    # name and the content: 30 bytes of header and 4 of its own.
    used = archive.fp.tell() + 30 + len(info.filename) + 4
    padding = -used % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    archive.writestr(info, content)
    info.extra = b""  # The directory at the end needs no copy of it.


class _UnsupportedError(Exception):
    """A value that the file cannot hold, and the way out."""


class _Pickler:
    """Emits protocol 2 opcodes, among them the names of torch's functions.

    The standard pickler would have to import torch to name them.
    """

    def __init__(self):
        self.code = bytearray()
        self.arrays: list[np.ndarray] = []

    def emit(self, value: object, where: str, depth: int) -> None:
        """Emits one value. `where` says in errors which one it is."""
        if depth > MAX_DEPTH:
            raise _UnsupportedError(
                f"a container nests more than {MAX_DEPTH} deep or contains "
                "itself; flatten it"
            )
        kind = type(value)
        if value is None:
            self.code += b"N"
        elif kind is bool:
            self.code += b"\x88" if value else b"\x89"
        elif kind is int:
            self._emit_int(value, where)
        elif kind is float:
            self.code += b"G" + struct.pack(">d", value)
        elif kind is str:
            text = value.encode("utf-8", "surrogatepass")
            self.code += b"X" + struct.pack("<I", len(text)) + text
        elif kind in (list, tuple):
            self.code += b"](" if kind is list else b"("
            for index, item in enumerate(value):
                self.emit(item, f"{where}[{index}]", depth + 1)
            self.code += b"e" if kind is list else b"t"
        elif kind is dict:
            self.code += b"}"
            self._emit_items(value, where, depth)
        elif kind is collections.OrderedDict:
            self.code += _ORDERED_DICT
            self._emit_items(value, where, depth)
            # torch keeps the versions of a state_dict's modules in it.
            if hasattr(value, "_metadata"):
                state = {"_metadata": value._metadata}
                self.emit(state, f"{where}.__dict__", depth + 1)
                self.code += b"b"
        elif kind is argparse.Namespace:
            self.code += _NAMESPACE
            self.emit(vars(value), f"vars({where})", depth + 1)
            self.code += b"b"
        elif kind is np.ndarray:
            self._emit_tensor(value, where)
        else:
            raise _UnsupportedError(
                f"{where} is of type {kind.__module__}.{kind.__qualname__}; "
                "convert it to a plain number, string, list, dictionary or "
                "NumPy array"
            )

    def _emit_int(self, value: int, where: str) -> None:
        if -(2**31) <= value < 2**31:
            self.code += b"J" + struct.pack("<i", value)
            return
        length = value.bit_length() // 8 + 1
        if length > 255:
            raise _UnsupportedError(
                f"{where} is an integer of {length} bytes; use one of at most "
                "255"
            )
        digits = value.to_bytes(length, "little", signed=True)
        self.code += b"\x8a" + bytes([length]) + digits

    def _emit_items(self, items: dict, where: str, depth: int) -> None:
        self.code += b"("
        for key, item in items.items():
            if not is_key(key):
                raise _UnsupportedError(
                    f"{where} has a key of type {type(key).__name__}; use "
                    "strings or numbers"
                )
            self.emit(key, where, depth + 1)
            self.emit(item, f"{where}[{key!r}]", depth + 1)
        self.code += b"u"

    def _emit_tensor(self, array: np.ndarray, where: str) -> None:
        storage = STORAGES.get(array.dtype.newbyteorder("="))
        if storage is None:
            raise _UnsupportedError(
                f"{where} is an array of dtype {array.dtype}, which torch has "
                "not; convert it to float32 or int64"
            )
        key = str(len(self.arrays))
        self.arrays.append(array)
        # Its arguments: a reference to the storage, the offset, the size, the
        # strides, whether it wants a gradient, and its hooks.
        self.code += _REBUILD_TENSOR + b"(("
        self.emit("storage", where, 0)
        self.code += f"ctorch\n{storage}\n".encode()
        for part in (key, "cpu", array.size):
            self.emit(part, where, 0)
        self.code += b"tQ"
        # A size of 0 counts as 1 in the strides, as torch has it.
        strides = tuple(
            math.prod(max(size, 1) for size in array.shape[axis + 1 :])
            for axis in range(array.ndim)
        )
        for part in (0, array.shape, strides, False):
            self.emit(part, where, 0)
        self.code += _ORDERED_DICT + b"tR"
