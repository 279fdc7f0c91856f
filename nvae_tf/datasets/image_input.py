"""Images to look at, as the model sees them.

They come from a split of the run's data, or are the user's own: image files,
folders of them, or arrays.  Reading, fitting and quantising is that of
`nvae_tf.datasets.pipeline`.
"""

import contextlib
import dataclasses
import math
import pathlib
import typing
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from nvae_tf.config import Config
from nvae_tf.core.errors import DataError
from nvae_tf.datasets import pipeline
from nvae_tf.datasets.folder import FolderSource
from nvae_tf.datasets.geometry import FittedSource
from nvae_tf.datasets.image_files import find_images
from nvae_tf.datasets.sources import Selection, Source

__all__ = [
    "ImageBatch",
    "fit_own",
    "in_batches",
    "open_images",
    "read",
    "select",
    "stream",
]

_ARRAYS = {".npy": "array", ".npz": "array"}
_IDX_MARK = "-ubyte"


class ImageBatch(typing.NamedTuple):
    """A batch of constant size.

    Attributes:
      images: float32 `[B, Hp, Wp, C]` in [0, 1]; filled up with zeros.
      places: int64 `[B]`, where in the source; beyond its end for filling.
      numbers: int64 `[B]`, of the images, see `Source.numbers`: what noise
        is drawn by; that of the last image for filling.
      valid: bool `[B]`, which rows are images.
      labels: int32 `[B]`, 0 for filling; None where they are not known.
    """

    images: tf.Tensor
    places: np.ndarray
    numbers: np.ndarray
    valid: np.ndarray
    labels: np.ndarray | None = None


def fit_own(config: Config, resize: str = "crop") -> Config:
    """How to read a user's images for a run with this configuration.

    Args:
      config: of the run.
      resize: see `DataConfig`.

    Returns:
      The configuration with any size allowed, and colours turned gray where
      the model is gray.
    """
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, resize=resize, convert_colors=True
        ),
    )


def open_images(config: Config, paths: Sequence[str]) -> Source:
    """Opens a user's images, all of them.

    Args:
      config: what `fit_own` returned.
      paths: image files and folders in any mixture, in the order to take
        them; or one `.npy`, `.npz` or IDX file.

    Raises:
      DataError: if there are none, or they cannot be read.
    """
    found = [pathlib.Path(path).expanduser() for path in paths]
    for path in found:
        if not path.exists():
            raise DataError(f"--images names {path}, which does not exist.")
    arrays = [path for path in found if _array_kind(path)]
    if arrays:
        if len(found) > 1:
            raise DataError(
                f"--images names {arrays[0]} and other files: an array must "
                "be the only one."
            )
        return _open_array(config, arrays[0])
    files = find_images(paths)
    name = ", ".join(str(path) for path in found)
    source = FolderSource(name, files, config.data.max_pixels)
    return FittedSource(source, config)


def select(
    source: Source, indices: Sequence[int] = (), num: int | None = None
) -> Source:
    """Some images of a source.

    Args:
      source: the images.
      indices: numbers of those to take, in this order; empty for all.
      num: the first so many.

    Raises:
      DataError: if the source has none, or an index is beyond it.
    """
    if not len(source):
        raise DataError(f"{source.name} has no images.")
    for index in indices:
        if not 0 <= index < len(source):
            raise DataError(
                f"There is no image {index} in {source.name}, which has "
                f"{len(source)}, counted from 0: choose others with --indices."
            )
    chosen = list(indices) or range(len(source))
    chosen = chosen[: len(source) if num is None else num]
    return Selection(source.name, source, chosen)


def stream(
    source: Source, config: Config, batch_size: int, seed: int = 0
) -> Iterator[ImageBatch]:
    """All images in order, without mirroring.

    Args:
      source: the images.
      config: says how the model sees them.
      batch_size: B.
      seed: of binarisation.

    Yields:
      Batches that hold at least one image.

    Raises:
      DataError: if an image cannot be read.
    """
    batches = pipeline.batches(
        source, config, training=False, batch_size=batch_size, seed=seed
    )
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            places = number * batch_size + np.arange(batch_size)
            numbers = source.numbers(np.minimum(places, len(source) - 1))
            valid = batch.weights.numpy() > 0
            labels = None if batch.labels is None else batch.labels.numpy()
            if valid.any():
                yield ImageBatch(batch.images, places, numbers, valid, labels)


def in_batches(
    function: Callable, images: np.ndarray, batch_size: int
) -> np.ndarray:
    """Applies a function to many images in batches of constant size.

    Args:
      function: `[B, ...]` -> `[B, ...]`, row by row.
      images: `[N, ...]`.
      batch_size: B; a last, smaller batch is filled up.
    """
    results = []
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, start + batch_size)
        result = function(images[np.minimum(rows, len(images) - 1)])
        results.append(np.asarray(result)[: len(images) - start])
    return np.concatenate(results)


def read(source: Source, config: Config, seed: int = 0) -> ImageBatch:
    """All images at once.

    Returns:
      A batch of all that can be read: unreadable images are left out where
      `data.skip_corrupt` allows it.

    Raises:
      DataError: if none can be read.
    """
    images, places, numbers, labels = [], [], [], []
    for batch in stream(source, config, min(len(source), 64), seed):
        images.append(batch.images.numpy()[batch.valid])
        places.append(batch.places[batch.valid])
        numbers.append(batch.numbers[batch.valid])
        if batch.labels is not None:
            labels.append(batch.labels[batch.valid])
    if not images:
        raise DataError(f"No image of {source.name} can be read.")
    places = np.concatenate(places)
    return ImageBatch(
        np.concatenate(images),
        places,
        np.concatenate(numbers),
        np.ones(len(places), bool),
        np.concatenate(labels) if labels else None,
    )


def _array_kind(path: pathlib.Path) -> str | None:
    """`data.source` for a file of many images, None for other paths."""
    if path.is_dir():
        return None
    if _IDX_MARK in path.name:
        return "idx"
    return _ARRAYS.get(path.suffix.lower())


def _open_array(config: Config, path: pathlib.Path) -> Source:
    kind = _array_kind(path)
    data = dataclasses.replace(
        config.data,
        source=kind,
        path=str(path),
        bits=config.data.bits if config.data.source == kind else 0,
        labels=False,
        # Above what any image's hash can be: all of them are held out.
        validation_fraction=math.nextafter(1.0, 0.0),
    )
    # The images alone: a class is what their user says.
    model = dataclasses.replace(config.model, num_classes=0)
    config = dataclasses.replace(config, model=model, data=data)
    return pipeline.open_source(config, "test")
