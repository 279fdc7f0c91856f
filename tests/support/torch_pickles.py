"""Opcodes and files as `torch.save` writes them, and as it would never."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

__all__ = [
    "FLOATS",
    "HOOKS",
    "NAMESPACE",
    "TENSOR",
    "integer",
    "integers",
    "storage",
    "tensor",
    "text",
    "write_stream",
    "write_zip",
]

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = b"ctorch\nFloatStorage\n"
HOOKS = b"ccollections\nOrderedDict\n)R"
NAMESPACE = b"cargparse\nNamespace\n"


def text(value: str) -> bytes:
    """Pushes a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """Pushes an integer of up to 255 bytes."""
    digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(digits)]) + digits


def integers(*values: int) -> bytes:
    """Pushes a tuple of integers."""
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(*, key: str = "0", count: int = 4, kind: bytes = FLOATS) -> bytes:
    """Pushes a storage."""
    return (
        b"(" + text("storage") + kind + text(key) + text("cpu") + integer(count)
    ) + b"tQ"


def tensor(
    content: bytes, *, offset: int = 0, size: tuple, stride: tuple
) -> bytes:
    """Pushes a tensor; `content` pushes its storage."""
    view = integer(offset) + integers(*size) + integers(*stride)
    return TENSOR + b"(" + content + view + b"\x89" + HOOKS + b"tR"


def write_zip(path: Path, code: bytes, **records: bytes) -> Path:
    """Writes a zip file whose pickle is the given opcodes."""
    contents = {"data.pkl": b"\x80\x02" + code + b".", "data/0": bytes(16)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (contents | records).items():
            archive.writestr(f"sample/{name}", content)
    return path


def write_stream(path: Path, code: bytes, rest: bytes = b"") -> Path:
    """Writes a file of the older format; `rest` follows the value."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    pickles = [pickle.dumps(value, 2) for value in head]
    pickles.append(b"\x80\x02" + code + b".")
    path.write_bytes(b"".join(pickles) + rest)
    return path
