"""Sets of images to compare: drawn, in files, or of the run's data.

Samples are kept as a folder of PNG files, as an `.npz` file with one array
`arr_0`, uint8 `[N, H, W, C]`, or as a TFRecord file with an index beside it
(see `nvae_tf.datasets.records`).
"""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from nvae_tf.config import Config, DataConfig
from nvae_tf.core.errors import ConfigError, DataError
from nvae_tf.core.files import new_folder, replacing
from nvae_tf.core.npz_files import NpzFile, map_npy
from nvae_tf.core.reading import shown
from nvae_tf.core.threads import map_ahead
from nvae_tf.datasets.folder import FolderSource
from nvae_tf.datasets.image_files import list_images
from nvae_tf.datasets.records import RecordSource, read_shard_index, write_shard
from nvae_tf.datasets.sources import (
    ArraySource,
    CorruptImageError,
    Source,
    within_bits,
)
from nvae_tf.sampling.images import encode_png

__all__ = ["check_output", "in_batches", "open_samples", "write_samples"]

_KEY = "arr_0"


def check_output(path: str) -> None:
    """Raises ConfigError if samples cannot be written to such a path."""
    file = pathlib.Path(path).expanduser()
    suffix = file.suffix
    if suffix not in ("", ".npz", ".tfrecord"):
        raise ConfigError(
            f"--samples_output={path} must end in .npz or .tfrecord, or be a "
            "folder."
        )
    if not suffix and file.exists():
        raise ConfigError(
            f"--samples_output={path} exists; name a folder that does not, so "
            "that it holds these samples alone."
        )


def write_samples(path: str, batches: Iterable[np.ndarray]) -> None:
    """Writes images, whole or not at all.

    A folder and a TFRecord file are written as the images come; an `.npz`
    file takes all of them in memory.

    Args:
      path: see the module; one that `check_output` lets pass.
      batches: uint8 `[B, H, W, C]` each.

    Raises:
      DataError: if it cannot be written.
    """
    images = (image for batch in batches for image in batch)
    target = pathlib.Path(path).expanduser()
    if target.suffix == ".tfrecord":
        write_shard(target, images)
    elif target.suffix == ".npz":
        with replacing(target) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **{_KEY: np.stack([*images])})
    else:
        _write_folder(target, images)


def _write_folder(path: pathlib.Path, images: Iterable[np.ndarray]) -> None:
    with new_folder(path, overwrite=None) as folder:
        for number, image in enumerate(images):
            (folder / f"{number:06d}.png").write_bytes(encode_png(image))


def open_samples(path: str) -> Source:
    """Opens samples that were written before, or come from elsewhere.

    Args:
      path: a folder of image files, at any depth; a `.npy` or `.npz` file
        with one array, uint8 `[N, H, W]` or `[N, H, W, C]`; or a TFRecord
        file that `write_samples` wrote.

    Raises:
      DataError: if there are none, or they cannot be read.
    """
    file = pathlib.Path(path).expanduser()
    if not file.exists():
        raise DataError(f"--samples={path} does not exist.")
    if file.is_dir():
        return FolderSource(path, list_images(file))
    if file.suffix == ".tfrecord":
        index = read_shard_index(file)
        if index is None:
            raise DataError(
                f"--samples={path} has no whole index beside it: give a file "
                "that --samples_output wrote."
            )
        return RecordSource(path, [(file, index)], bits=8)
    if file.suffix not in (".npy", ".npz"):
        raise DataError(
            f"--samples={path} is neither a folder nor a .npy, .npz or "
            ".tfrecord file."
        )
    images = _read_array(file)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"--samples={path} holds {shown(images.dtype)} "
            f"{shown(list(images.shape))}; uint8 [N, H, W, C] is needed."
        )
    return ArraySource(path, images)


def _read_array(file: pathlib.Path) -> np.ndarray:
    advice = "give samples as numpy.save and numpy.savez write them"
    if file.suffix == ".npy":
        return map_npy(file, DataError, advice)
    with NpzFile(file, DataError, advice) as archive:
        names = list(archive.headers)
        if len(names) != 1 and _KEY not in names:
            raise DataError(
                f"--samples={file} holds {shown(', '.join(names), 200)}; name "
                f"the images {_KEY}."
            )
        name = _KEY if _KEY in names else names[0]
        return archive.read(name, DataConfig.max_unpacked_mb * 2**20)


def in_batches(
    source: Source, num: int, batch_size: int, config: Config | None = None
) -> Iterator[np.ndarray]:
    """The first images of a source, at 8 bits, neither binarised nor padded.

    Args:
      source: the images, of one size but for a run's with random crops, of
        which the centre is taken.
      num: how many; the rest is left.
      batch_size: images at once.
      config: of the run whose data it is: unreadable images are left out if
        `data.skip_corrupt` says so, and `data.num_workers` threads read.

    Yields:
      uint8 `[B, H, W, C]`.

    Raises:
      DataError: if an image cannot be read or has another size.
    """
    size = config.model.image_size if config else None
    skip = bool(config and config.data.skip_corrupt)

    def read(indices: range) -> np.ndarray:
        images = []
        for index in indices:
            try:
                image = within_bits(np.asarray(source[index]), source, index)
            except CorruptImageError:
                if not skip:
                    raise
                continue
            images.append(_centre(_eight_bits(image, source.bits), size))
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise DataError(
                f"The images of {source.name} differ in size: "
                f"{sorted(map(list, shapes))[:3]}."
            )
        return np.stack(images) if images else np.zeros((0, 1, 1, 1), np.uint8)

    num = min(num, len(source))
    places = (
        range(start, min(start + batch_size, num))
        for start in range(0, num, batch_size)
    )
    batches = map_ahead(read, places, config.data.num_workers if config else 0)
    yield from (batch for batch in batches if len(batch))


def _eight_bits(image: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return image
    scaled = image.astype(np.float64) * (255.0 / (2**bits - 1))
    return np.rint(scaled).astype(np.uint8)


def _centre(image: np.ndarray, size: int | None) -> np.ndarray:
    if size is None:
        return image
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]
