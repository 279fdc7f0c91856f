"""Images for training and evaluation: sources, order, batches.

A source gives stored images by number (`open_source`); `batches` gives what
the model sees.  The order of an epoch follows from (seed, epoch) alone, and
every random draw from (seed, epoch, image), so any position can be resumed
without reading what came before it, and an image looks the same however many
workers share the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator

from nvae_tf.config import Config, DataConfig
from nvae_tf.core.errors import DataError
from nvae_tf.core.threads import map_ahead
from nvae_tf.datasets import folder, tfds_source
from nvae_tf.datasets.arrays import open_array, open_idx, open_mnist_5k
from nvae_tf.datasets.geometry import FittedSource
from nvae_tf.datasets.labels import require_labels
from nvae_tf.datasets.order import epoch_order
from nvae_tf.datasets.reader import (
    EvaluationBatch,
    Position,
    Reader,
    TrainingBatch,
)
from nvae_tf.datasets.records import open_records
from nvae_tf.datasets.sources import Source, require_split

__all__ = [
    "EvaluationBatch",
    "Position",
    "Source",
    "TrainingBatch",
    "batches",
    "epoch_order",
    "num_batches",
    "open_source",
    "with_classes",
]

_START = Position()


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
      DataError: if the images, or with `data.labels` their labels, cannot be
        had.
      ConfigError: if the settings contradict each other.
    """
    require_split(split)
    data = config.data
    openers: dict[str, Callable[[], Source]] = {
        "mnist_5k": lambda: open_mnist_5k(split),
        "tfds": lambda: tfds_source.open_tfds(data, split),
        "image_folder": lambda: folder.open_folder(data, split),
        "array": lambda: open_array(data, split),
        "idx": lambda: open_idx(data, split),
        # Prepared images fit already.
        "tfrecord": lambda: open_records(config, split),
    }
    source = openers[data.source]()
    if data.source != "tfrecord":
        source = FittedSource(source, config)
    if data.labels:
        require_labels(source, config.model)
    return source


def with_classes(config: Config) -> Config:
    """A configuration whose model has as many classes as the images.

    Args:
      config: of a run.  With `data.labels` and without `model.num_classes`,
        the classes of the images for training are counted.

    Raises:
      UserError: if the images have no labels, or cannot be had.
    """
    if not config.data.labels or config.model.num_classes:
        return config
    counters: dict[str, Callable[[DataConfig], int]] = {
        "tfds": tfds_source.count_classes,
        "image_folder": folder.count_classes,
    }
    if config.data.source in counters:
        count = counters[config.data.source](config.data)
    else:
        count = open_source(config, "train").num_classes
    model = dataclasses.replace(config.model, num_classes=count)
    return dataclasses.replace(config, model=model)


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
    reader = Reader(
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
