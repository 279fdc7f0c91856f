"""Images for training and evaluation: sources, order, batches.

A source gives stored images by number (`open_source`); `batches` gives what
the model sees.  The order of an epoch follows from (seed, epoch) alone, and
every random draw from (seed, epoch, image), so any position can be resumed
without reading what came before it, and an image looks the same however many
workers share the work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from nvae_tf.config import Config
from nvae_tf.core.errors import DataError
from nvae_tf.core.threads import map_ahead
from nvae_tf.datasets.arrays import open_array, open_idx, open_mnist_5k
from nvae_tf.datasets.folder import open_folder
from nvae_tf.datasets.geometry import FittedSource
from nvae_tf.datasets.order import CROPS, PIXELS, epoch_order, random_words
from nvae_tf.datasets.preprocess import make_preprocess
from nvae_tf.datasets.records import open_records
from nvae_tf.datasets.sources import CorruptImageError, Source, require_split
from nvae_tf.datasets.tfds_source import open_tfds

__all__ = [
    "EvaluationBatch",
    "Position",
    "Source",
    "TrainingBatch",
    "batches",
    "epoch_order",
    "num_batches",
    "open_source",
]

_LOG = logging.getLogger(__name__)
# Unreadable images in a row before the whole source counts as unreadable.
_MAX_CORRUPT_IN_A_ROW = 1000


class Position(NamedTuple):
    """A place in the data: the next batch to deliver.

    Attributes:
      epoch: passes finished.
      step: batches delivered in this epoch.
    """

    epoch: int = 0
    step: int = 0


_START = Position()


class TrainingBatch(NamedTuple):
    """What training reads.

    Attributes:
      images: float32 `[B, Hp, Wp, C]` in [0, 1].
      position: the position after this batch.
    """

    images: tf.Tensor
    position: Position


class EvaluationBatch(NamedTuple):
    """What evaluation reads.

    Attributes:
      images: float32 `[B, Hp, Wp, C]` in [0, 1].
      weights: float32 `[B]`: 1 for an image, 0 for filling.
    """

    images: tf.Tensor
    weights: tf.Tensor


def open_source(config: Config, split: str) -> Source:
    """Opens the images that `config.data` names.

    Args:
      config: its `data` names the source, its `model` the geometry.
      split: "train", "validation" or "test".  Where a source holds out one
        set only, "validation" and "test" are that set.

    Returns:
      A source of `[image_size, image_size, image_channels]` images; with
      `data.resize` "random_crop" they may be larger, `batches` crops them.

    Raises:
      DataError: if the images cannot be had.
      ConfigError: if the settings contradict each other.
    """
    require_split(split)
    data = config.data
    if data.source == "tfrecord":
        # Prepared images fit already.
        return open_records(config, split)
    openers: dict[str, Callable[[], Source]] = {
        "mnist_5k": lambda: open_mnist_5k(split),
        "tfds": lambda: open_tfds(data, split),
        "image_folder": lambda: open_folder(data, split),
        "array": lambda: open_array(data, split),
        "idx": lambda: open_idx(data, split),
    }
    return FittedSource(openers[data.source](), config)


def num_batches(
    source: Source, *, training: bool, batch_size: int, num_shards: int = 1
) -> int:
    """Batches per epoch, the same on every shard.

    Args:
      source: the images.
      training: an incomplete last batch is dropped in training and filled up
        in evaluation.
      batch_size: images per shard and batch.
      num_shards: workers that share the epoch.

    Raises:
      DataError: if there are no images, or in training too few for a batch.
    """
    if not len(source):
        raise DataError(f"{source.name} has no images.")
    global_size = batch_size * num_shards
    if not training:
        return -(-len(source) // global_size)
    if len(source) < global_size:
        shards = f" on each of {num_shards} workers" if num_shards > 1 else ""
        raise DataError(
            f"{source.name} has {len(source)} images, too few for one batch "
            f"of {batch_size}{shards}; lower train.batch_size."
        )
    return len(source) // global_size


def batches(
    source: Source,
    config: Config,
    *,
    training: bool,
    batch_size: int,
    seed: int,
    position: Position = _START,
    shard_index: int = 0,
    num_shards: int = 1,
    batches_per_step: int = 1,
) -> Generator[TrainingBatch | EvaluationBatch, None, None]:
    """Batches exactly as the model sees them.

    Images are read and transformed ahead of their use by
    `data.num_workers` threads (0: when asked for).  `close()` on the iterator
    stops them; so does dropping it.

    In training, epoch follows epoch without end; each takes every image once
    in the order `epoch_order(len(source), seed, epoch)`, but for the last
    incomplete batch, which is dropped.  In evaluation there is one pass in
    the source's order; the last batch is filled with zero images of weight 0,
    so that every batch, on every shard, has the same shape.

    Shard `k` of `n` takes the `k`-th slice of every global batch of
    `batch_size * n` images; `n` shards together see what one shard with
    `n` times the batch size sees.

    With `data.skip_corrupt`, an unreadable image is replaced in training by
    the next readable one of the source, and weighs 0 in evaluation.

    Args:
      source: from `open_source`.
      config: `data` and `model` say what is done to the images.
      training: as above.
      batch_size: images per shard and batch, `B`.
      seed: of the order, binarisation, mirroring and crops.
      position: where to go on; in evaluation, its epoch selects the draws of
        binarisation and its step the first batch.
      shard_index: this worker's number, from 0.
      num_shards: number of workers.
      batches_per_step: in training, leave out the last batches of an epoch
        that are too few for a step of so many.

    Returns:
      An iterator of `TrainingBatch` or of `EvaluationBatch`.

    Raises:
      DataError: if there are too few images for a batch or none at all, or
        the position lies beyond the epoch; later, from the iterator, if an
        image cannot be read.
    """
    if not 0 <= shard_index < num_shards:
        raise ValueError(f"shard {shard_index} of {num_shards}")
    count = num_batches(
        source, training=training, batch_size=batch_size, num_shards=num_shards
    )
    if training:
        count -= count % batches_per_step
    position = Position(int(position[0]), int(position[1]))
    if position.step > count:
        raise DataError(
            f"Cannot go on at batch {position.step} of {source.name}: an "
            f"epoch has {count}. Were the batch size or the images changed?"
        )
    reader = _Reader(
        source,
        config,
        training,
        batch_size,
        seed,
        count,
        shard_index,
        num_shards,
    )
    places = _places(position, count, endless=training)
    return map_ahead(reader, places, config.data.num_workers)


def _places(
    start: Position, count: int, *, endless: bool
) -> Iterator[Position]:
    """The positions from `start` on, for `count` batches per epoch."""
    epoch, step = start
    while True:
        for at in range(step, count):
            yield Position(epoch, at)
        if not endless:
            return
        epoch, step = epoch + 1, 0


class _Reader:
    """Reads and transforms the batch at a position, from any thread."""

    def __init__(
        self,
        source,
        config,
        training,
        batch_size,
        seed,
        count,
        shard_index,
        shards,
    ):
        self._source = source
        self._config = config
        self._training = training
        self._batch_size = batch_size
        self._global_size = batch_size * shards
        self._first = batch_size * shard_index
        self._count = count
        self._seed = seed
        self._order = (-1, np.arange(len(source)))
        self._preprocess = make_preprocess(
            config, source.bits, training=training
        )

    def __call__(self, position: Position) -> TrainingBatch | EvaluationBatch:
        indices = self._indices(position)
        images, good = self._read(indices, position.epoch)
        keys = np.zeros((self._batch_size, 2), np.int64)
        # Training draws differ from those of an evaluation of the same epoch.
        word = random_words(
            self._seed, PIXELS, int(self._training), position.epoch
        )
        keys[:, 0] = word.view(np.int64)[0]
        keys[: len(indices), 1] = indices
        with tf.device("CPU"):
            values = self._preprocess(tf.constant(images), tf.constant(keys))
            if not self._training:
                return EvaluationBatch(values, tf.constant(good, tf.float32))
        epoch, step = position
        if step + 1 == self._count:
            return TrainingBatch(values, Position(epoch + 1, 0))
        return TrainingBatch(values, Position(epoch, step + 1))

    def _indices(self, position: Position) -> np.ndarray:
        epoch, order = self._order
        if self._training and epoch != position.epoch:
            # Several threads may do this at once: replacing one reference is
            # atomic, and computing the same order twice does no harm.
            order = epoch_order(len(self._source), self._seed, position.epoch)
            self._order = (position.epoch, order)
        start = position.step * self._global_size + self._first
        return order[start : start + self._batch_size]

    def _read(
        self, indices: np.ndarray, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images `[B, H, W, C]`, filled with zeros, and which are good."""
        model = self._config.model
        size = model.image_size
        dtype = np.uint8 if self._source.bits <= 8 else np.uint16
        images = np.zeros(
            (self._batch_size, size, size, model.image_channels), dtype
        )
        good = np.zeros(self._batch_size, bool)
        if not len(indices):
            return images, good
        for row, image in enumerate(self._load(indices)):
            if image is None:
                continue
            index = int(indices[row])
            if self._config.data.resize == "random_crop":
                image = self._crop(image, index, epoch)
            self._check(image, images.shape[1:], index)
            images[row] = image
            good[row] = True
        return images, good

    def _load(self, indices: np.ndarray):
        """The images, with None where one is to be left out."""
        try:
            if self._config.data.skip_corrupt:
                return [self._load_or_skip(int(index)) for index in indices]
            return self._source.read(indices)
        except OSError as error:
            raise DataError(
                f"{self._source.name} cannot be read: {error}."
            ) from error

    def _load_or_skip(self, index: int) -> np.ndarray | None:
        source = self._source
        for step in range(min(len(source), _MAX_CORRUPT_IN_A_ROW)):
            candidate = (index + step) % len(source)
            if candidate not in source.corrupt:
                try:
                    return source[candidate]
                except CorruptImageError as error:
                    source.corrupt.add(candidate)
                    _LOG.warning(
                        "Skipped (%d so far): %s", len(source.corrupt), error
                    )
            if not self._training:
                return None
        raise DataError(
            f"{source.describe(index)} and the {step} images after it in "
            f"{source.name} cannot be read."
        )

    def _crop(self, image: np.ndarray, index: int, epoch: int) -> np.ndarray:
        size = self._config.model.image_size
        free = np.array(image.shape[:2]) - size
        if self._training:
            words = random_words(self._seed, CROPS, epoch, index)
            top, left = words % (np.maximum(free, 0) + 1).astype(np.uint64)
        else:
            top, left = free // 2
        top, left = int(top), int(left)
        return image[top : top + size, left : left + size]

    def _check(self, image: np.ndarray, shape: tuple, index: int) -> None:
        if image.shape != shape:
            raise DataError(
                f"{self._source.describe(index)} is {list(image.shape)}, but "
                f"the model takes {list(shape)} (height, width, channels): "
                "set data.resize, or model.image_size and "
                "model.image_channels."
            )
        bits = self._source.bits
        if bits < 8 * image.dtype.itemsize and image.max() >= 2**bits:
            raise DataError(
                f"{self._source.describe(index)} holds the value "
                f"{image.max()}, which does not fit data.bits={bits}."
            )
