r"""Shows a batch exactly as the model sees it.

    nvae data preview --config=configs/mnist_demo.py \
        --output=grid.png

writes the batch as a grid of images and prints its shape, the range of its
values and how many images and batches there are.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import flags

from nvae_tf.commands import command_line
from nvae_tf.config import Config
from nvae_tf.core.errors import ConfigError
from nvae_tf.datasets import pipeline
from nvae_tf.sampling import images

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
    """

    batch: np.ndarray
    num_images: int
    num_batches: int
    num_levels: int
    skipped: int
    source: str


def preview(config: Config, split: str, batch_size: int = 0) -> Preview:
    """Reads the first batch of a split.

    Args:
      config: the run's configuration.
      split: "train", shuffled and mirrored as in training; "validation" or
        "test", in order.
      batch_size: images; 0 takes the configuration's.

    Raises:
      DataError: if the images cannot be had.
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
    if not training:
        batch = batch[first.weights.numpy() > 0]
    return Preview(
        batch=batch,
        num_images=len(source),
        num_batches=pipeline.num_batches(
            source, training=training, batch_size=size
        ),
        num_levels=len(np.unique(batch)),
        skipped=len(source.corrupt),
        source=source.name,
    )


def _define_flags() -> None:
    command_line.define_config()
    flags.DEFINE_string("output", None, "PNG file to write.")
    flags.DEFINE_string("split", "train", "train, validation or test.")
    flags.DEFINE_integer(
        "batch_size", 0, "Images; 0: the configuration's.", lower_bound=0
    )


def _main(_: Sequence[str]) -> None:
    config = command_line.config_from_flags()
    output = flags.FLAGS.output
    if not output:
        raise ConfigError("Name the file to write with --output=grid.png.")
    shown = preview(config, flags.FLAGS.split, flags.FLAGS.batch_size)
    images.write_png(output, images.grid(images.to_uint8(shown.batch), gap=2))
    batch = shown.batch
    print(f"source:  {shown.source}")
    print(f"images:  {shown.num_images:,}")
    print(f"batches: {shown.num_batches:,} of {len(batch)} per epoch")
    print(f"shape:   {list(batch.shape)} {batch.dtype}")
    print(
        f"values:  {batch.min():g} to {batch.max():g}, mean "
        f"{batch.mean():.4f}, {shown.num_levels} levels"
    )
    if shown.skipped:
        print(f"skipped: {shown.skipped} unreadable images")
    print(f"grid:    {output}")


if __name__ == "__main__":
    _define_flags()
    command_line.run(_main)
