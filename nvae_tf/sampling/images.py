"""Grids of images, PNG files and animations."""

from __future__ import annotations

import io
import math
import os

import numpy as np
from PIL import Image

from nvae_tf.core.files import write_bytes

__all__ = [
    "decode_png",
    "encode_png",
    "enlarged",
    "grid",
    "to_uint8",
    "write_gif",
    "write_png",
]


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Brings values in [0, 1] to 0..255.

    Args:
      images: float, any shape; what is not a number becomes 0.

    Returns:
      uint8, same shape.
    """
    scaled = np.rint(np.nan_to_num(np.asarray(images, np.float32)) * 255.0)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def grid(
    images: np.ndarray, columns: int = 0, gap: int = 0, fill: int = 255
) -> np.ndarray:
    """Lays images out in rows.

    Args:
      images: uint8 `[N, H, W, C]`.
      columns: images per row; 0 makes the grid about square.
      gap: pixels between images.
      fill: value of the gaps and of places without an image.

    Returns:
      uint8 `[H', W', C]`.

    Raises:
      ValueError: if the images are not uint8 `[N, H, W, C]` with N > 0.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(
            "grid wants uint8 [N, H, W, C] with N > 0, not "
            f"{images.dtype} {list(images.shape)}"
        )
    count, height, width, channels = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, channels),
        fill,
        np.uint8,
    )
    for number, image in enumerate(images):
        top = number // columns * (height + gap)
        left = number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def enlarged(images: np.ndarray, minimum: int) -> np.ndarray:
    """Repeats pixels until images are at least `minimum` wide.

    Args:
      images: uint8 `[N, H, W, C]`.
      minimum: pixels.

    Returns:
      uint8 `[N, k H, k W, C]` with the smallest such k.
    """
    factor = -(-minimum // images.shape[2])
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def encode_png(image: np.ndarray) -> bytes:
    """The PNG file of an image.

    Args:
      image: uint8 `[H, W, C]`, C of 1 (gray), 2 (with alpha), 3 or 4.

    Raises:
      ValueError: if `image` is not such an array.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(
            f"A PNG wants uint8 [H, W, C], not {image.dtype} "
            f"{list(image.shape)}"
        )
    encoded = io.BytesIO()
    _picture(image).save(encoded, "PNG")
    return encoded.getvalue()


def decode_png(content: bytes) -> np.ndarray:
    """The image in a PNG file of `encode_png`, uint8 `[H, W, C]`."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes an image, whole or not at all.

    Args:
      path: the file; its folder is created if need be.
      image: see `encode_png`.

    Raises:
      DataError: if the file cannot be written.
      ValueError: if `image` is not such an array.
    """
    write_bytes(path, encode_png(image))


def write_gif(
    path: str | os.PathLike, frames: np.ndarray, frames_per_second: float
) -> None:
    """Writes an endless animation, whole or not at all.

    A GIF has 256 colours per frame and shows times in hundredths of a second.

    Args:
      path: the file; its folder is created if need be.
      frames: uint8 `[N, H, W, C]`, C of 1 to 4; transparency is lost.
      frames_per_second: at most 50, above which viewers slow down.

    Raises:
      DataError: if the file cannot be written.
    """
    mode = "L" if frames.shape[-1] < 3 else "RGB"
    first, *others = [_picture(frame).convert(mode) for frame in frames]
    encoded = io.BytesIO()
    first.save(
        encoded,
        "GIF",
        save_all=True,
        append_images=others,
        duration=round(1000 / frames_per_second),
        loop=0,
    )
    write_bytes(path, encoded.getvalue())


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
