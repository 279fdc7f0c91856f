"""Images that a program has in memory, in place of files."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nvae_tf.config import ModelConfig
from nvae_tf.core.errors import DataError
from nvae_tf.datasets.sources import ArraySource

__all__ = ["source_of"]


def source_of(images: npt.ArrayLike, model: ModelConfig) -> ArraySource:
    """Images as a source, 8 bits per channel.

    Nothing is resized, cropped or turned gray.

    Args:
      images: uint8 `[N, H, W, C]`, floats in [0, 1], which are rounded to the
        nearest of 256 levels, or bool; without C where the model has one
        channel.
      model: the architecture that they are meant for.

    Raises:
      DataError: if they have another type, size or number of channels.
    """
    try:
        values = np.asarray(images)
    except ValueError as error:
        raise DataError(
            f"The images are no array ({error}): they must all have one size."
        ) from error
    values = _with_channels(values, model)
    if values.dtype == np.uint8:
        return ArraySource("the given images", values)
    if values.dtype == bool:
        return ArraySource("the given images", values * np.uint8(255))
    if not np.issubdtype(values.dtype, np.floating):
        raise DataError(
            f"The images are {values.dtype}; give uint8 from 0 to 255, or "
            "floats from 0 to 1."
        )
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"The images are floats from {low:.12g} to {high:.12g}; they must "
            "lie in [0, 1]: scale them, or give uint8 from 0 to 255."
        )
    levels = np.rint(values.astype(np.float32) * 255.0)
    return ArraySource("the given images", levels.astype(np.uint8))


def _with_channels(values: np.ndarray, model: ModelConfig) -> np.ndarray:
    """`[N, H, W, C]`, of the model's size."""
    size, channels = model.image_size, model.image_channels
    shape = values.shape
    if channels == 1 and shape[1:] == (size, size):
        values = values[..., None]
    if values.shape[1:] == (size, size, channels):
        if not len(values):
            raise DataError("There are no images to take: N is 0.")
        return values
    text = f"this model takes [N, {size}, {size}, {channels}]"
    if channels == 1:
        text += f" or [N, {size}, {size}]"
    if shape in ((size, size, channels), (size, size)):
        text += "; give a single image as images[None]"
    raise DataError(f"The images have shape {list(shape)}; {text}.")
