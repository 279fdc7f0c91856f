"""One batch of a source, as the model sees it, at any place of an epoch."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import DataError
from nvae_tf.datasets.labels import within
from nvae_tf.datasets.order import CROPS, PIXELS, epoch_order, random_words
from nvae_tf.datasets.preprocess import make_preprocess
from nvae_tf.datasets.sources import CorruptImageError, within_bits

__all__ = ["EvaluationBatch", "Position", "Reader", "TrainingBatch"]

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


class TrainingBatch(NamedTuple):
    """What training reads.

    Attributes:
      images: float32 `[B, Hp, Wp, C]` in [0, 1].
      position: the position after this batch.
      labels: int32 `[B]`; None where they are not read.
    """

    images: tf.Tensor
    position: Position
    labels: tf.Tensor | None = None

    @property
    def inputs(self):
        """What a training step takes: images, or those and their labels."""
        if self.labels is None:
            return self.images
        return self.images, self.labels


class EvaluationBatch(NamedTuple):
    """What evaluation reads.

    Attributes:
      images: float32 `[B, Hp, Wp, C]` in [0, 1].
      weights: float32 `[B]`: 1 for an image, 0 for filling.
      labels: int32 `[B]`, 0 for filling; None where they are not read.
    """

    images: tf.Tensor
    weights: tf.Tensor
    labels: tf.Tensor | None = None


class Reader:
    """Reads and transforms the batch at a position, from any thread.

    See `nvae_tf.datasets.pipeline.batches` for what it is told.
    """

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
        """The batch at a position."""
        indices = self._indices(position)
        images, good, labels = self._read(indices, position.epoch)
        keys = np.zeros((self._batch_size, 2), np.int64)
        # Training draws differ from those of an evaluation of the same epoch.
        word = random_words(
            self._seed, PIXELS, int(self._training), position.epoch
        )
        keys[:, 0] = word.view(np.int64)[0]
        keys[: len(indices), 1] = self._source.numbers(indices)
        with tf.device("CPU"):
            values = self._preprocess(tf.constant(images), tf.constant(keys))
            if labels is not None:
                labels = tf.constant(labels)
            if not self._training:
                weights = tf.constant(good, tf.float32)
                return EvaluationBatch(values, weights, labels)
        epoch, step = position
        after = Position(epoch, step + 1)
        if step + 1 == self._count:
            after = Position(epoch + 1, 0)
        return TrainingBatch(values, after, labels)

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
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Images `[B, H, W, C]`, filled with zeros, which are good; labels."""
        model = self._config.model
        size = model.image_size
        dtype = np.uint8 if self._source.bits <= 8 else np.uint16
        images = np.zeros(
            (self._batch_size, size, size, model.image_channels), dtype
        )
        good = np.zeros(self._batch_size, bool)
        labels = None
        if self._config.data.labels and self._source.num_classes:
            labels = np.zeros(self._batch_size, np.int32)
        if not len(indices):
            return images, good, labels
        loaded, indices_of_loaded = self._load(indices)
        if labels is not None:
            labels[: len(indices)] = within(
                self._source, indices_of_loaded, model.num_classes
            )
        for row, image in enumerate(loaded):
            if image is None:
                continue
            index = int(indices[row])
            if self._config.data.resize == "random_crop":
                image = self._crop(image, index, epoch)
            self._check(image, images.shape[1:], index)
            images[row] = within_bits(image, self._source, index)
            good[row] = True
        return images, good, labels

    def _load(self, indices: np.ndarray):
        """The images, with None where one is to be left out; their numbers."""
        try:
            if self._config.data.skip_corrupt:
                found = [self._load_or_skip(int(index)) for index in indices]
                numbers, images = zip(*found, strict=True)
                return images, np.array(numbers, np.int64)
            return self._source.read(indices), indices
        except OSError as error:
            raise DataError(
                f"{self._source.name} cannot be read: {error}."
            ) from error

    def _load_or_skip(self, index: int) -> tuple[int, np.ndarray | None]:
        """The number of the image that is taken, and the image."""
        source = self._source
        for step in range(min(len(source), _MAX_CORRUPT_IN_A_ROW)):
            candidate = (index + step) % len(source)
            if candidate not in source.corrupt:
                try:
                    return candidate, source[candidate]
                except CorruptImageError as error:
                    source.corrupt.add(candidate)
                    _LOG.warning(
                        "Skipped (%d so far): %s", len(source.corrupt), error
                    )
            if not self._training:
                return index, None
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
