"""What an ONNX file is, found out before any library opens it.

A file may come from anyone, and may name other files to have its weights read
from.  This module needs Python alone, and becomes part of the program that lies
beside every export.
"""

import mmap
import os
import stat

__all__ = ["read_metadata", "whole"]

# Of ONNX's protocol buffers: the fields that lead to tensors, and to what.
_PARTS = {
    "model": {7: "graph", 14: "entry", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((22, 23), "sparse"),
    },
    "tensor": {13: "entry"},
}
_DATA_LOCATION = 14  # Of a tensor: 1 if its values are in another file.
_MOST_DEPTH = 32
_MOST_TEXT = 2**24
_MOST_NAME = 255


def read_metadata(path):
    """Looks through an ONNX file, before anything else opens it.

    A file may come from anyone. One that would have weights read from anywhere
    but a file of their own beside it is refused: others could be any file of
    whoever opens it, or its memory.

    Args:
      path: of an ONNX file.

    Returns:
      The model's properties: a dict of strings.

    Raises:
      ValueError: if it is none, or refused.
    """
    path = os.fspath(path)
    try:
        if not os.path.isfile(path):
            raise ValueError("it does not exist, or is no file")
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _look_through(data, os.path.dirname(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not an ONNX file that can be used: {error}"
        ) from error


def _look_through(data, folder):
    """Checks all tensors; returns the model's properties."""
    properties, known = {}, {}
    pending = [("model", 0, len(data), 0)]
    while pending:
        kind, start, end, depth = pending.pop()
        if kind == "sparse" or depth > _MOST_DEPTH:
            raise ValueError("it holds sparse tensors, or nests too deep")
        entries, is_elsewhere = [], False
        for field, value, stop in _fields(data, start, end):
            part = _PARTS[kind].get(field)
            if stop is None:
                is_place = kind == "tensor" and field == _DATA_LOCATION
                is_elsewhere |= is_place and value != 0
            elif part == "entry":
                entries.append(_entry(data, value, stop))
            elif part:
                pending.append((part, value, stop, depth + 1))
        if kind == "model":
            properties = dict(entries)
        elif is_elsewhere or entries:
            _check_elsewhere(entries, folder, known)
    return properties


def _check_elsewhere(entries, folder, known):
    """Refuses weights that are not in a file of their own in the folder.

    Args:
      entries: `(key, value)`, where and what the weights are.
      folder: of the model.
      known: sizes of files by their names; those that pass are added.
    """
    sizes = {"offset": 0, "length": 0}
    places = [value for key, value in entries if key == "location"]
    for key, value in entries:
        if key in sizes:
            sizes[key] = whole(value)
        elif key not in ("location", "checksum"):
            places.clear()
    if len(places) != 1:
        raise ValueError("it does not tell plainly where its weights are")
    (place,) = places
    if place not in known:
        name = ascii(place[:80])
        # Nor a mark that stands for an address in memory: it has slashes.
        is_name = os.path.basename(place) == place and "\\" not in place
        if not is_name or len(place) > _MOST_NAME:
            raise ValueError(f"its weights are not beside it but in {name}")
        status = os.lstat(os.path.join(folder, place))
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise ValueError(
                f"{name} beside it is no file of its own but a link or a "
                "folder; put a copy in its place"
            )
        known[place] = status.st_size
    if sum(sizes.values()) > known[place]:
        raise ValueError("its weights' file is cut off")


def _entry(data, start, end):
    """A key and its value."""
    found = {1: "", 2: ""}
    for field, value, stop in _fields(data, start, end):
        if field in found and stop is not None:
            if stop - value > _MOST_TEXT:
                raise ValueError("a text in it is very long")
            found[field] = data[value:stop].decode()
    return found[1], found[2]


def _fields(data, start, end):
    """Yields `(field, start, stop)`, or `(field, number, None)`."""
    while start < end:
        tag, start = _varint(data, start, end)
        # Of a longer one, some readers would see the lower half.
        field, wire = tag >> 3, tag & 7 if 8 <= tag < 2**32 else -1
        if wire == 0:
            value, start = _varint(data, start, end)
            yield field, value, None
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, start = _varint(data, start, end)
        if size is None or size > end - start:
            raise ValueError("it is cut off, damaged or something else")
        if wire == 2:
            yield field, start, start + size
        start += size


def _varint(data, start, end):
    """A number, and where it ends."""
    value = 0
    for i in range(min(10, end - start)):
        byte = data[start + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, start + i + 1
    raise ValueError("it is cut off, damaged or something else")


def whole(text):
    """A whole number in decimals, as properties have it.

    Raises:
      ValueError: if the text is something else.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ValueError(f"{text[:20]!r} is no number")
    return int(text)
