"""A first look at a batch, exactly as the model sees it."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np

from nvae_tf.config import Config
from nvae_tf.core.errors import DataError
from nvae_tf.datasets import pipeline

__all__ = ["Preview", "preview"]


@dataclasses.dataclass(frozen=True)
class Preview:
    """A batch and what is to be known about its source.

    Attributes:
      batch: float32 `[B, Hp, Wp, C]`, as the model sees it.
      num_images: images in the split.
      num_batches: batches per epoch.
      num_levels: different values in the batch.
      skipped: unreadable images met.
      source: name of the source.
      labels: int32 `[B]`; None without `data.labels`.
    """

    batch: np.ndarray
    num_images: int
    num_batches: int
    num_levels: int
    skipped: int
    source: str
    labels: np.ndarray | None = None


def preview(config: Config, split: str, batch_size: int = 0) -> Preview:
    """Reads the first batch of a split.

    Args:
      config: the run's configuration.
      split: "train", shuffled and mirrored as in training; "validation" or
        "test", in order.
      batch_size: images; 0 takes the configuration's.

    Raises:
      DataError: if the images cannot be had, or all of the batch are
        unreadable.
    """
    source = pipeline.open_source(config, split)
    training = split == "train"
    size = batch_size or config.train.batch_size
    iterator = pipeline.batches(
        source,
        config,
        training=training,
        batch_size=size,
        seed=config.train.seed,
    )
    with contextlib.closing(iterator):
        first = next(iterator)
    batch = first.images.numpy()
    labels = None if first.labels is None else first.labels.numpy()
    if not training:
        good = first.weights.numpy() > 0
        if not good.any():
            raise DataError(
                f"None of the first {size} images of {source.name} can be "
                "read: replace or delete them."
            )
        batch = batch[good]
        labels = None if labels is None else labels[good]
    return Preview(
        batch=batch,
        num_images=len(source),
        num_batches=pipeline.num_batches(
            source, training=training, batch_size=size
        ),
        num_levels=len(np.unique(batch)),
        skipped=len(source.corrupt),
        source=source.name,
        labels=labels,
    )
