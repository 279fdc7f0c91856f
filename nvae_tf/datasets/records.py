"""Prepared images: TFRecord shards, each with an index for random access.

A prepared folder holds, for each split, `SPLIT-00000-of-00012.tfrecord`, whose
records are `tf.train.Example`s with raw pixels, and beside each shard an
`.index.npz` with the place, length and CRC-32 of every record.
`dataset.json` is written last: a folder without it is incomplete.
"""

from __future__ import annotations

import json
import pathlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from nvae_tf.config import MOST_CLASSES, Config
from nvae_tf.core.errors import DataError
from nvae_tf.core.files import replacing, write_bytes
from nvae_tf.core.json_files import read_json
from nvae_tf.core.npz_files import read_npz, write_npz
from nvae_tf.core.reading import open_regular, shown
from nvae_tf.datasets.sources import SPLITS, CorruptImageError, Source

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Index",
    "RecordSource",
    "open_records",
    "read_shard_index",
    "shard_path",
    "write_json",
    "write_shard",
]

FORMAT = 1
_PREPARE = "delete it and run nvae data prepare again"
MANIFEST = "dataset.json"
# A TFRecord is: length (8 bytes), its checksum (4), data, its checksum (4).
_BEFORE, _AROUND = 12, 16
_DTYPES = {"uint8": np.uint8, "uint16": np.uint16}


class Index(NamedTuple):
    """Where the records of a shard are.

    Attributes:
      offsets: int64 `[N]`, of the data in the file.
      lengths: int64 `[N]`, of the data.
      checksums: uint32 `[N]`, CRC-32 of the data.
      skipped: unreadable images that were left out.
      labels: int64 `[N]`, of the images; None where they were not read.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    checksums: np.ndarray
    skipped: int
    labels: np.ndarray | None = None

    @property
    def file_size(self) -> int:
        """Size of the whole shard in bytes."""
        return int(self.lengths.sum()) + _AROUND * len(self.lengths)


class RecordSource(Source):
    """The images of one split of a prepared folder."""

    def __init__(
        self,
        name: str,
        shards: list[tuple[pathlib.Path, Index]],
        bits: int,
        num_classes: int = 0,
    ):
        """Wraps shards and their indices, with labels where there are any."""
        super().__init__(name, bits, num_classes)
        self._shards = shards
        counts = [len(index.offsets) for _, index in shards]
        self._ends = np.cumsum(np.array(counts, np.int64))

    def __len__(self) -> int:
        """Number of images."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`: uint8 or uint16 `[H, W, C]`."""
        path, places, row = self._find(index)
        try:
            with open_regular(path, None) as file:
                file.seek(int(places.offsets[row]))
                data = file.read(int(places.lengths[row]))
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error}); prepare it again with "
                "nvae data prepare."
            ) from error
        if zlib.crc32(data) != places.checksums[row]:
            raise CorruptImageError(
                f"{self.describe(index)} is damaged: delete that file and "
                "run nvae data prepare again, or set "
                "data.skip_corrupt=True."
            )
        try:
            image = _decode(data)
        # What is no record makes protobuf and NumPy raise many kinds.
        except Exception as error:
            raise CorruptImageError(
                f"{self.describe(index)} holds no image "
                f"({shown(str(error))}); {_PREPARE}."
            ) from error
        if (image.dtype == np.uint8) != (self.bits <= 8):
            raise CorruptImageError(
                f"{self.describe(index)} holds {image.dtype} values, which "
                f"are not of {self.bits} bits; {_PREPARE}."
            )
        return image

    def read_labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `Source`."""
        found = [self._find(int(index)) for index in indices]
        return np.array([places.labels[row] for _, places, row in found])

    def describe(self, index: int) -> str:
        """The shard's path and the record's number."""
        path, _, row = self._find(index)
        return f"record {row} of {path}"

    def _find(self, index: int) -> tuple[pathlib.Path, Index, int]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        path, places = self._shards[shard]
        first = int(self._ends[shard]) - len(places.offsets)
        return path, places, index - first


def open_records(config: Config, split: str) -> RecordSource:
    """Opens what `nvae data prepare` wrote to `data.path`.

    Raises:
      DataError: if the folder is missing, incomplete or damaged, or was
        prepared for another size, other channels or another resize policy.
    """
    root = pathlib.Path(config.data.path).expanduser()
    again = "run nvae data prepare"
    if not config.data.path or not root.is_dir():
        raise DataError(
            f"data.path is {config.data.path!r}, which is not a folder; "
            f"{again} and name its output with --config.data.path=DIR."
        )
    if not (root / MANIFEST).exists():
        raise DataError(
            f"There is no {MANIFEST} in {root}: its preparation was "
            f"interrupted or never begun; {again} with "
            f"--output={root} (again)."
        )
    manifest = _read_manifest(root)
    model = config.model
    for name, wanted in (
        ("image_size", model.image_size),
        ("image_channels", model.image_channels),
    ):
        if manifest[name] != wanted:
            raise DataError(
                f"{root} was prepared for model.{name} {manifest[name]}, not "
                f"{wanted}; {again} with another --output."
            )
    policies = {manifest["resize"]}
    if manifest["resize"] != "random_crop":
        policies.add("none")
    if config.data.resize not in policies:
        raise DataError(
            f"{root} was prepared with data.resize "
            f"'{shown(manifest['resize'])}', not {config.data.resize!r}; set "
            f"that, or {again} with another --output."
        )
    name = manifest["splits"][split]
    count = manifest["num_shards"][name]
    shards = []
    for number in range(count):
        path = shard_path(root, name, number, count)
        index = read_shard_index(path)
        if index is None:
            raise DataError(
                f"{path} is missing, cut off or without its index; {again} "
                f"with --output={root}, which writes only what is damaged."
            )
        shards.append((path, index))
    classes = manifest.get("num_classes", 0) if config.data.labels else 0
    for path, index in shards if classes else ():
        if index.labels is None or (index.labels >= classes).any():
            raise DataError(
                f"The index of {path} has not the labels of {classes} classes; "
                f"{again} with another --output."
            )
    return RecordSource(f"{root} ({name})", shards, manifest["bits"], classes)


def _read_manifest(root: pathlib.Path) -> dict[str, Any]:
    """What a folder is said to hold, of the kinds that are needed.

    Raises:
      DataError: if it is of another format, or says something else.
    """
    path = root / MANIFEST
    manifest = read_json(path, DataError, advice=_PREPARE)
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{root} has format {shown(manifest.get('format'))}, not {FORMAT}; "
            "run nvae data prepare with another --output."
        )
    splits = manifest.get("splits")
    counts = manifest.get("num_shards")
    checks = {
        **{
            name: type(manifest.get(name)) is int
            for name in ("image_size", "image_channels")
        },
        "resize": type(manifest.get("resize")) is str,
        "bits": manifest.get("bits") in range(1, 17),
        # By name, which becomes part of a path.
        "splits": isinstance(splits, dict)
        and all(splits.get(name) in SPLITS for name in SPLITS),
        "num_shards": isinstance(counts, dict)
        and all(type(count) is int for count in counts.values()),
        "num_classes": type(manifest.get("num_classes", 0)) is int
        and 0 <= manifest.get("num_classes", 0) <= MOST_CLASSES,
    }
    if checks["splits"] and checks["num_shards"]:
        checks["num_shards"] = {
            splits[name] for name in SPLITS
        } <= counts.keys()
    wrong = [name for name, is_right in checks.items() if not is_right]
    if wrong:
        raise DataError(
            f"{path} has no {wrong[0]!r} that nvae data prepare writes: it is "
            "damaged; run nvae data prepare with another --output."
        )
    return manifest


def shard_path(
    root: pathlib.Path, split: str, number: int, count: int
) -> pathlib.Path:
    """The file of shard `number` of `count`."""
    return root / f"{split}-{number:05d}-of-{count:05d}.tfrecord"


def read_shard_index(path: pathlib.Path) -> Index | None:
    """The index of a shard, or None if shard or index are not whole."""
    try:
        size = path.stat().st_size
        # A record takes more room than what the index knows of it.
        arrays = read_npz(_index_path(path), 2 * size + 2**16)
    except (OSError, DataError):
        return None
    index = _checked_index(arrays)
    return index if index and size == index.file_size else None


def _checked_index(arrays: dict[str, np.ndarray]) -> Index | None:
    """The index in arrays that anybody may have written; None for no index."""
    labels = arrays.pop("labels", None)
    if arrays.keys() != set(Index._fields) - {"labels"}:
        return None
    *names, _ = Index._fields
    offsets, lengths, checksums, skipped = (arrays[n] for n in names)
    kinds = [(a.dtype, a.ndim) for a in (offsets, lengths, checksums)]
    if kinds != [(np.int64, 1), (np.int64, 1), (np.uint32, 1)]:
        return None
    if not len(offsets) == len(lengths) == len(checksums):
        return None
    if skipped.ndim or skipped.dtype.kind not in "iu":
        return None
    if len(lengths) and not 0 <= lengths.min() <= lengths.max() < 2**40:
        return None
    if not np.array_equal(offsets, _offsets(lengths)):
        return None
    if labels is not None and not (
        labels.dtype == np.int64
        and labels.shape == lengths.shape
        and (labels >= 0).all()
    ):
        return None
    return Index(offsets, lengths, checksums, int(skipped), labels)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    """Where data of these lengths are, one after the other."""
    sizes = lengths + _AROUND
    return _BEFORE + np.cumsum(sizes) - sizes


def write_shard(
    path: pathlib.Path,
    images: Iterable[np.ndarray | None],
    labels: np.ndarray | None = None,
) -> Index:
    """Writes a shard, then its index, each whole or not at all.

    Args:
      path: the shard's file.
      images: uint8 or uint16 `[H, W, C]` each; None for a skipped one.
      labels: int64, one for each of them; None where they are not known.

    Returns:
      The index.

    Raises:
      DataError: if a file cannot be written.
    """
    lengths, checksums, kept = [], [], []
    with replacing(path) as temporary:
        try:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for image in images:
                    kept.append(image is not None)
                    if image is None:
                        continue
                    # Deterministic: else the order of the features, and so
                    # the bytes, would change from process to process.
                    example = _example(image)
                    data = example.SerializeToString(deterministic=True)
                    writer.write(data)
                    lengths.append(len(data))
                    checksums.append(zlib.crc32(data))
        except tf.errors.OpError as error:
            raise DataError(f"Cannot write {path}: {error.message}.") from error
    sizes = np.array(lengths, np.int64)
    index = Index(
        _offsets(sizes),
        sizes,
        np.array(checksums, np.uint32),
        kept.count(False),
        None if labels is None else labels[np.array(kept, bool)],
    )
    arrays = {k: v for k, v in index._asdict().items() if v is not None}
    write_npz(_index_path(path), **arrays)
    return index


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON object, whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def _index_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".index.npz")


def _decode(data: bytes) -> np.ndarray:
    """The image in a record, `[H, W, C]`."""
    feature = tf.train.Example.FromString(data).features.feature
    dtype = _DTYPES[feature["dtype"].bytes_list.value[0].decode()]
    shape = tuple(feature["shape"].int64_list.value)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"its shape is {shape}")
    pixels = np.frombuffer(feature["image"].bytes_list.value[0], dtype)
    return pixels.reshape(shape)


def _example(image: np.ndarray) -> tf.train.Example:
    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    shape = tf.train.Feature(int64_list=tf.train.Int64List(value=image.shape))
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "image": of_bytes(np.ascontiguousarray(image).tobytes()),
                "shape": shape,
                "dtype": of_bytes(image.dtype.name.encode()),
            }
        )
    )
