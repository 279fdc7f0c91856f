"""Preparing images once, so that training never decodes a large file again."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from nvae_tf.config import Config
from nvae_tf.core.errors import ConfigError, DataError
from nvae_tf.core.json_files import read_json
from nvae_tf.core.threads import map_ahead
from nvae_tf.datasets.data_state import data_state
from nvae_tf.datasets.labels import within
from nvae_tf.datasets.pipeline import open_source
from nvae_tf.datasets.records import (
    FORMAT,
    MANIFEST,
    read_shard_index,
    shard_path,
    write_json,
    write_shard,
)
from nvae_tf.datasets.sources import (
    SPLITS,
    CorruptImageError,
    Source,
    within_bits,
)

__all__ = ["IMAGES_PER_SHARD", "Prepared", "prepare"]

_LOG = logging.getLogger(__name__)
IMAGES_PER_SHARD = 4096
# Written first: a preparation is only resumed with the same settings.
_SETTINGS = "preparation.json"
# What in `data` decides which images there are and how they look.
_RELEVANT = (
    "source",
    "path",
    "name",
    "bits",
    "resize",
    "alpha",
    "convert_colors",
    "split_by",
    "validation_fraction",
    "skip_corrupt",
)
# Of the settings: what tells the files from those of another time.
_FILES = "files"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a preparation wrote.

    Attributes:
      counts: images per split; where two splits are one set, only its name.
      skipped: unreadable images that were left out.
    """

    counts: dict[str, int]
    skipped: int


def prepare(
    config: Config,
    output: str | pathlib.Path,
    *,
    images_per_shard: int = IMAGES_PER_SHARD,
    progress: bool = False,
) -> Prepared:
    """Writes all splits of `config.data` to `output`.

    Whole shards that are already there are kept, unless the files that the
    images come from were changed since, which is an error.

    Args:
      config: its `data` names the source and the resize policy, its `model`
        the size and channels.
      output: a folder; created if need be.
      images_per_shard: images per file.
      progress: whether to show a progress bar.

    Returns:
      Counts of what is now in the folder.

    Raises:
      DataError: if images cannot be read or written, the splits have values
        of different bits, or the folder holds a preparation with other
        settings, or of files that have changed since.
      ConfigError: if the source is already a prepared one.
    """
    if config.data.source == "tfrecord":
        raise ConfigError(
            "data.source is 'tfrecord', which is prepared already; name the "
            "source that the images come from."
        )
    if images_per_shard < 1:
        raise ConfigError(
            f"--images_per_shard is {images_per_shard}; it must be at least 1."
        )
    root = pathlib.Path(output).expanduser()
    sources: dict[str, Source] = {}
    names: dict[str, str] = {}
    for split in SPLITS:
        source = open_source(config, split)
        same = [
            name for name, known in sources.items() if known.name == source.name
        ]
        names[split] = same[0] if same else split
        if not same:
            sources[split] = source
    _require_one_kind(sources)
    settings = {
        "format": FORMAT,
        **{name: getattr(config.data, name) for name in _RELEVANT},
        "image_size": config.model.image_size,
        "image_channels": config.model.image_channels,
        "images_per_shard": images_per_shard,
        "images": {name: len(source) for name, source in sources.items()},
    }
    if config.data.source != "image_folder":
        # Of folders alone: its default has been another.
        del settings["split_by"]
    classes = 0
    if config.data.labels:
        # One that no image for training is of is a model's all the same.
        classes = max(source.num_classes for source in sources.values())
    if classes:
        # Not of others: preparations of before said nothing of it.
        settings["num_classes"] = classes
    files = data_state(config.data)
    if files:
        settings[_FILES] = files
    _check_settings(root / _SETTINGS, settings)
    counts, num_shards, skipped = {}, {}, 0
    with tqdm.tqdm(
        total=sum(len(source) for source in sources.values()),
        unit="image",
        disable=not progress,
    ) as bar:
        for split, source in sources.items():
            bar.set_description(split)
            written = _write_split(
                root, split, source, config, images_per_shard, bar
            )
            counts[split] = sum(len(index.offsets) for index in written)
            num_shards[split] = len(written)
            skipped += sum(index.skipped for index in written)
            if not counts[split]:
                raise DataError(
                    f"No image of {source.name} can be read, so there is "
                    f"nothing to prepare for the {split} split."
                )
    write_json(
        root / MANIFEST,
        {
            "format": FORMAT,
            "image_size": config.model.image_size,
            "image_channels": config.model.image_channels,
            "bits": sources["train"].bits,
            "resize": config.data.resize,
            "splits": names,
            "images": counts,
            "num_shards": num_shards,
            "skipped": skipped,
            **({"num_classes": classes} if classes else {}),
        },
    )
    return Prepared(counts, skipped)


def _require_one_kind(sources: dict[str, Source]) -> None:
    """Raises DataError unless all values have the same number of bits."""
    bits = sources["train"].bits
    for source in sources.values():
        if source.bits != bits:
            raise DataError(
                f"{source.name} has values of {source.bits} bits, those of "
                f"{sources['train'].name} have {bits}: a prepared folder holds "
                "one kind. Convert one of them."
            )


def _check_settings(path: pathlib.Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, settings)
        return
    before = read_json(
        path,
        DataError,
        advice="delete it and run nvae data prepare again",
    )
    if "split_by" not in settings:
        # Preparations of before named it for sources that have none.
        before.pop("split_by", None)
    if _FILES not in before:
        # Nor did they look at the files.
        settings = {k: v for k, v in settings.items() if k != _FILES}
    changed = [
        "state of the files of images (names, sizes or times of change)"
        if key == _FILES
        else f"{key} ({before.get(key)!r} then, {settings.get(key)!r} now)"
        for key in {**settings, **before}
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise DataError(
            f"{path.parent} holds a preparation with another "
            f"{', '.join(changed)}; choose another --output, or delete that "
            "folder."
        )


def _write_split(root, split, source, config, images_per_shard, bar) -> list:
    """The indices of all shards of a split, written where they are missing."""
    count = -(-len(source) // images_per_shard)
    written = []
    for number in range(count):
        path = shard_path(root, split, number, count)
        start = number * images_per_shard
        stop = min(start + images_per_shard, len(source))
        index = read_shard_index(path)
        if index is None:
            rows = range(start, stop)
            images = _counted(_images(source, rows, config), bar)
            labels = within(source, rows, 0) if config.data.labels else None
            index = write_shard(path, images, labels)
        else:
            bar.update(stop - start)
        written.append(index)
    return written


def _images(
    source: Source, indices: Sequence[int], config: Config
) -> Iterator[np.ndarray | None]:
    def read(index: int) -> np.ndarray | None:
        try:
            return within_bits(source[index], source, index)
        except CorruptImageError as error:
            if not config.data.skip_corrupt:
                raise
            _LOG.warning("Skipped: %s", error)
            return None

    return map_ahead(read, indices, config.data.num_workers, ahead=8)


def _counted(images, bar: tqdm.tqdm):
    for image in images:
        yield image
        bar.update()
