"""Colour channels and sizes: from an image of any kind to the model's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from nvae_tf.config import Config, ModelConfig
from nvae_tf.core.errors import ConfigError, DataError
from nvae_tf.datasets.sources import Source

__all__ = [
    "CELEBA_SHAPE",
    "FittedSource",
    "match_channels",
    "match_size",
    "resize",
]

# Aligned CelebA images are 218 rows by 178 columns; the paper keeps rows
# 40..188 and columns 15..163 (its section 4, through earlier work).
CELEBA_SHAPE = (218, 178)
_CELEBA_ROWS = slice(40, 188)
_CELEBA_COLUMNS = slice(15, 163)
# Pixels that an image may be enlarged to: far more than any model takes.
_MOST_PIXELS = 2**23
# ITU-R 601-2 luma, the weights of most image libraries.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def match_channels(
    image: np.ndarray,
    channels: int,
    *,
    alpha: str = "drop",
    convert_colors: bool = False,
    bits: int = 8,
    where: str = "the image",
) -> np.ndarray:
    """Brings an image to the model's number of channels.

    Nothing is lost without being asked for: gray becomes RGB, with its alpha
    if there is any, equal channels become gray, a missing fourth channel
    becomes opaque.

    Args:
      image: uint8 or uint16 `[H, W]` or `[H, W, C]`; C of 2 is gray with
        alpha, of 4 RGB with alpha.
      channels: wanted number of channels.
      alpha: "white" or "black" puts a transparent image on that ground,
        "drop" takes the colours below as they are, "keep" keeps alpha.
      convert_colors: whether colours may turn into gray.
      bits: bits per channel; opaque is the greatest value.
      where: what to call the image in messages.

    Returns:
      `[H, W, channels]`, same dtype.

    Raises:
      DataError: if the channels do not fit.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3:
        raise DataError(
            f"{where} has {image.ndim} dimensions; images are [height, "
            "width] or [height, width, channels]."
        )
    found = image.shape[-1]
    if found == channels:
        return image
    if found in (2, 4) and alpha != "keep":
        image = _without_alpha(image, alpha, 2**bits - 1)
    if image.shape[-1] == 3 and channels == 1:
        if (image == image[..., :1]).all():
            image = image[..., :1]
        elif convert_colors:
            gray = image.astype(np.float32) @ _LUMA
            image = np.rint(gray).astype(image.dtype)[..., None]
        else:
            raise DataError(
                f"{where} is in colour, but model.image_channels is 1: set "
                "data.convert_colors=True to turn it gray, or "
                "model.image_channels=3."
            )
    if image.shape[-1] == 1 and channels in (3, 4):
        image = np.repeat(image, 3, -1)
    if image.shape[-1] == 2 and channels == 4 and alpha == "keep":
        image = image[..., [0, 0, 0, 1]]
    if image.shape[-1] == 3 and channels == 4 and alpha == "keep":
        opaque = np.full_like(image[..., :1], 2**bits - 1)
        image = np.concatenate([image, opaque], -1)
    if image.shape[-1] != channels:
        raise DataError(
            f"{where} has {found} channels, but model.image_channels is "
            f"{channels} and data.alpha is {alpha!r}; change one of them."
        )
    return image


def _without_alpha(image: np.ndarray, alpha: str, opaque: int) -> np.ndarray:
    """`[H, W, C + 1]` -> `[H, W, C]`, the transparent parts as `alpha` says."""
    colors = image[..., :-1]
    if alpha == "drop":
        return colors
    ground = {"white": opaque, "black": 0}[alpha]
    weight = image[..., -1:].astype(np.float32) / opaque
    mixed = weight * colors + (1 - weight) * ground
    return np.rint(mixed).astype(image.dtype)


def match_size(
    image: np.ndarray, size: int, policy: str, *, where: str = "the image"
) -> np.ndarray:
    """Brings an image to the model's size.

    Args:
      image: uint8 or uint16 `[H, W, C]`.
      size: wanted height and width.
      policy: `data.resize`, see `DataConfig`.
      where: what to call the image in messages.

    Returns:
      `[size, size, C]`; with "random_crop" only the shorter side is `size`,
      the crop itself is left to whoever draws it.

    Raises:
      DataError: if the policy does not fit the image.
    """
    height, width = image.shape[:2]
    if policy == "none":
        if (height, width) != (size, size):
            raise DataError(
                f"{where} is {width}x{height} pixels, but model.image_size "
                f"is {size}: set data.resize to crop, resize or random_crop, "
                "or change model.image_size."
            )
        return image
    if policy == "celeba":
        if (height, width) != CELEBA_SHAPE:
            raise DataError(
                f"{where} is {width}x{height} pixels, but data.resize "
                "'celeba' is for the aligned 178x218 images of CelebA: use "
                "data.resize=crop."
            )
        return resize(image[_CELEBA_ROWS, _CELEBA_COLUMNS], size, size)
    if policy == "resize":
        return resize(image, size, size)
    shorter = min(height, width)
    scaled = [_scaled(side, size, shorter) for side in (height, width)]
    if scaled[0] * scaled[1] > max(_MOST_PIXELS, height * width):
        raise DataError(
            f"{where} is {width}x{height} pixels, which data.resize "
            f"{policy!r} would scale to {scaled[1]}x{scaled[0]}: crop it, or "
            "set data.resize=resize."
        )
    image = resize(image, *scaled)
    if policy == "random_crop":
        return image
    top = (image.shape[0] - size) // 2
    left = (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resampling, antialiased where it shrinks.

    Args:
      image: uint8 or uint16 `[H, W, C]`.
      height: of the result.
      width: of the result.

    Returns:
      `[height, width, C]`, same dtype; `image` itself if nothing changes.
    """
    if image.shape[:2] == (height, width):
        return image
    bilinear = Image.Resampling.BILINEAR
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(picture.resize((width, height), bilinear))
    # Other kinds go channel by channel: alpha must not weigh the colours,
    # and Pillow has no 16-bit colour.
    planes = []
    top = np.iinfo(image.dtype).max
    for channel in np.moveaxis(image, -1, 0):
        picture = Image.fromarray(channel.astype(np.float32))
        plane = np.asarray(picture.resize((width, height), bilinear))
        planes.append(np.clip(np.rint(plane), 0, top).astype(image.dtype))
    return np.stack(planes, -1)


class FittedSource(Source):
    """The images of a source, brought to the model's channels and size."""

    def __init__(self, source: Source, config: Config):
        """Wraps `source`.

        Raises:
          ConfigError: if `data.alpha` and the model's channels disagree.
        """
        super().__init__(source.name, source.bits, source.num_classes)
        self._source = source
        self._data = config.data
        self._model: ModelConfig = config.model
        if self._data.alpha == "keep" and self._model.image_channels in (1, 3):
            raise ConfigError(
                "data.alpha is 'keep', but model.image_channels is "
                f"{self._model.image_channels}: set it to 4, or "
                "data.alpha=drop."
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`, `[H, W, image_channels]`."""
        return self._fit(self._source[index], index)

    def read(self, indices: Sequence[int]) -> Sequence[np.ndarray]:
        """Images `indices`, each `[H, W, image_channels]`."""
        images = self._source.read(indices)
        size, channels = self._model.image_size, self._model.image_channels
        if (
            isinstance(images, np.ndarray)
            and images.shape[1:] == (size, size, channels)
            and self._data.resize != "celeba"
        ):
            return images
        return [
            self._fit(image, int(index))
            for image, index in zip(images, indices, strict=True)
        ]

    def read_labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `Source`."""
        return self._source.read_labels(indices)

    def describe(self, index: int) -> str:
        """Where image `index` comes from."""
        return self._source.describe(index)

    def _fit(self, image: np.ndarray, index: int) -> np.ndarray:
        where = self._source.describe(index)
        image = match_channels(
            image,
            self._model.image_channels,
            alpha=self._data.alpha,
            convert_colors=self._data.convert_colors,
            bits=self.bits,
            where=where,
        )
        return match_size(
            image, self._model.image_size, self._data.resize, where=where
        )


def _scaled(side: int, size: int, shorter: int) -> int:
    """`side * size / shorter`, rounded down as torchvision's Resize does."""
    return side * size // shorter
