"""Grids of images with words: a caption below each, a label before a row."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nvae_tf.config import ModelConfig
from nvae_tf.model import losses
from nvae_tf.sampling.images import enlarged, grid

__all__ = ["captioned_grid", "describe_bound", "labelled_grid"]

_FONT_SIZE = 12
_MARGIN = 3
# Narrower pictures could not hold a caption.
_MINIMUM_WIDTH = 64


def captioned_grid(
    images: np.ndarray,
    captions: Sequence[str],
    columns: int = 0,
    group: int = 1,
) -> np.ndarray:
    """A grid with a line of text below every image.

    Args:
      images: uint8 `[N, H, W, C]`; small ones are enlarged.
      captions: one per image, or per group of images.
      columns: images per row; 0 makes the grid about square.
      group: so many images in a row share a caption.

    Returns:
      uint8 `[H', W', C]`.
    """
    images = enlarged(np.asarray(images), -(-_MINIMUM_WIDTH // group))
    number, height, width, channels = images.shape
    # [N / group, H, group * W, C]
    tiles = images.reshape(number // group, group, height, width, channels)
    tiles = np.concatenate([tiles[:, i] for i in range(group)], axis=2)
    tiles = _widened(tiles, max(_length(caption) for caption in captions))
    texts = np.stack(
        [
            _text(caption, tiles.shape[2], channels, centred=True)
            for caption in captions
        ]
    )
    return grid(
        np.concatenate([tiles, texts], axis=1), columns, gap=2 * _MARGIN
    )


def labelled_grid(rows: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """A grid with a label before every row.

    Args:
      rows: uint8 `[R, N, H, W, C]`; small images are enlarged.
      labels: R texts.

    Returns:
      uint8 `[H', W', C]`.
    """
    rows = np.asarray(rows)
    count, columns, *shape = rows.shape
    flat = enlarged(rows.reshape(count * columns, *shape), 32)
    height, channels = flat.shape[1], flat.shape[-1]
    sheet = grid(flat, columns, gap=2)
    width = max(_length(label) for label in labels)
    side = np.full((len(sheet), width + 2 * _MARGIN, channels), 255, np.uint8)
    for number, label in enumerate(labels):
        text = _text(label, side.shape[1], channels)
        top = number * (height + 2) + max(0, (height - len(text)) // 2)
        text = text[: len(side) - top]
        side[top : top + len(text)] = text
    return np.concatenate([side, sheet], axis=1)


def describe_bound(nats: float, config: ModelConfig) -> str:
    """A bound as a caption: in the unit that papers use for such images."""
    if config.likelihood == "bernoulli":
        return f"{nats:.1f} nats"
    return f"{losses.bits_per_dim(nats, config):.2f} bits/dim"


def _length(text: str) -> int:
    """Of a line of text, in pixels."""
    return math.ceil(ImageFont.load_default(_FONT_SIZE).getlength(text))


def _widened(tiles: np.ndarray, width: int) -> np.ndarray:
    """Puts tiles `[N, H, W, C]` in the middle of white, if they are narrow."""
    missing = max(0, width - tiles.shape[2])
    sides = [missing // 2, missing - missing // 2]
    margins = [[0, 0], [0, 0], sides, [0, 0]]
    return np.pad(tiles, margins, constant_values=255)


def _text(
    text: str, width: int, channels: int, centred: bool = False
) -> np.ndarray:
    """A line of black text on white, uint8 `[h, width, channels]`."""
    font = ImageFont.load_default(_FONT_SIZE)
    # One height for all, whatever their letters.
    height = int(font.getbbox("Ag|")[3]) + _MARGIN
    picture = Image.new("L", (width, height), 255)
    left = (width - font.getlength(text)) / 2 if centred else _MARGIN
    ImageDraw.Draw(picture).text((max(0, left), 0), text, fill=0, font=font)
    gray = np.asarray(picture)[..., None]
    result = np.repeat(gray, channels, axis=-1)
    if channels in (2, 4):
        result[..., -1] = 255
    return result
