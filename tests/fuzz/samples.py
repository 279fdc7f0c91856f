"""Small real files of every format that is read, made on the spot."""

from __future__ import annotations

import functools
import io
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

__all__ = [
    "arrays",
    "chunk",
    "idx",
    "images",
    "onnx_model",
    "protobuf",
    "torch_files",
]

_DATA = pathlib.Path(__file__).parents[1] / "data"


@functools.cache
def images() -> tuple[bytes, ...]:
    """PNG, JPEG, WebP and BMP files of several kinds."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    color = Image.fromarray(pixels[..., :3])
    alpha = Image.fromarray(pixels)
    gray = Image.fromarray(pixels[..., 0])
    wide = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    palette = color.quantize(8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    cases = [
        (picture, kind, options)
        for picture, kind, options in (
            (color, "PNG", {"exif": exif}),
            (alpha, "PNG", {}),
            (gray, "PNG", {"bits": 4}),
            (wide, "PNG", {}),
            (palette, "PNG", {"transparency": 1}),
            (color, "PNG", {"save_all": True, "append_images": [color]}),
            (color, "JPEG", {"exif": exif, "icc_profile": b"profile" * 9}),
            (gray, "JPEG", {"progressive": True}),
            (color.convert("CMYK"), "JPEG", {}),
            (color, "MPO", {"save_all": True, "append_images": [color]}),
            (color, "WEBP", {}),
            (alpha, "WEBP", {"lossless": True}),
            (alpha, "WEBP", {"save_all": True, "append_images": [alpha]}),
            (color, "BMP", {}),
            (palette, "BMP", {}),
            (gray.convert("1"), "BMP", {}),
        )
    ]
    files = []
    for picture, kind, options in cases:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        files.append(file.getvalue())
    return tuple(files)


@functools.cache
def arrays() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """`.npy` and `.npz` files of images."""
    values = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    single, packed = [], []
    for array in (
        values,
        values[..., 0],
        values[..., 0] > 127,
        values.astype(np.uint16) * 257,
        np.asfortranarray(values),
        values.astype(np.float32),
        values.astype(">u2"),
    ):
        file = io.BytesIO()
        np.save(file, array)
        single.append(file.getvalue())
    for save, members in (
        (np.savez, {"arr_0": values}),
        (np.savez, {"x_train": values, "x_test": values[:2], "y": [1, 2]}),
        (np.savez_compressed, {"train": values[..., 0], "val": values[:2, 0]}),
    ):
        file = io.BytesIO()
        save(file, **members)
        packed.append(file.getvalue())
    return tuple(single), tuple(packed)


def idx(shape: tuple[int, ...] = (5, 4, 4)) -> bytes:
    """An IDX file."""
    count = int(np.prod(shape))
    content = bytes(i % 256 for i in range(count))
    head = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return head + content


@functools.cache
def torch_files() -> tuple[bytes, ...]:
    """Files of `torch.save`: zip archives and a stream."""
    folder = _DATA / "torch_file"
    names = ("zip.pt", "zip_protocol4.pt", "stream.pt")
    return tuple((folder / name).read_bytes() for name in names)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file, whose checksum is right."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def protobuf(*fields: tuple[int, int | bytes]) -> bytes:
    """A message of `(field, value)`: numbers are varints, bytes as they are."""

    def varint(number: int) -> bytes:
        out = bytearray()
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        return bytes([*out, number])

    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in fields
    )


def onnx_model(
    tensor: tuple[tuple[int, int | bytes], ...] = (),
    *,
    properties: dict[str, str] | None = None,
    nodes: tuple[bytes, ...] = (),
    graph: tuple[tuple[int, int | bytes], ...] = (),
    values: bool = True,
) -> bytes:
    """A sampler that shows its noise, as small as can be.

    Args:
      tensor: further fields of its one constant.
      properties: of the model, in place of some.
      nodes: further ones.
      graph: further fields of the graph.
      values: whether the constant's are in the file.
    """

    def value(name: bytes, kind: int, *shape: int | bytes) -> bytes:
        dims = [
            (1, protobuf((1, n) if isinstance(n, int) else (2, n)))
            for n in shape
        ]
        of_tensor = protobuf((1, kind), (2, protobuf(*dims)))
        return protobuf((1, name), (2, protobuf((1, of_tensor))))

    content = ((9, struct.pack("<f", 99.0)),) if values else ()
    scale = protobuf((1, 1), (2, 1), (8, b"scale"), *content, *tensor)
    to_bytes = protobuf((1, b"to"), (3, 2), (20, 2))
    to_one = protobuf((1, b"keepdims"), (3, 0), (20, 2))
    mean = ((1, b"temperature"), (2, b"t"), (4, b"ReduceMean"))
    body = [
        protobuf((1, b"u_0"), (1, b"scale"), (2, b"x"), (4, b"Mul")),
        protobuf(*mean, (5, to_one)),
        protobuf((1, b"x"), (1, b"t"), (2, b"y"), (4, b"Mul")),
        protobuf((1, b"y"), (2, b"images"), (4, b"Cast"), (5, to_bytes)),
        *nodes,
    ]
    whole = protobuf(
        *[(1, node) for node in body],
        (2, b"g"),
        (5, scale),
        (11, value(b"u_0", 1, b"batch", 2, 2, 1)),
        (11, value(b"temperature", 1, b"batch", 1)),
        (12, value(b"images", 2, b"batch", 2, 2, 1)),
        *graph,
    )
    noise = {"name": "u_0", "kind": "uniform", "stream": 0}
    known = {
        "nvae_graph": "sample",
        "nvae_noise": json.dumps([{**noise, "shape": [2, 2, 1]}]),
        "nvae_num_groups": "1",
        "nvae_fixed_batch": "0",
    }
    return protobuf(
        (1, 8),
        (7, whole),
        (8, protobuf((2, 17))),
        *[
            (14, protobuf((1, k.encode()), (2, v.encode())))
            for k, v in {**known, **(properties or {})}.items()
        ],
    )
