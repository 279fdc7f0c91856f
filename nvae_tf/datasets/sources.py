"""What a source of images is, and the small pieces that sources share."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from nvae_tf.core.errors import DataError

__all__ = [
    "SPLITS",
    "ArraySource",
    "CorruptImageError",
    "Selection",
    "Source",
    "Subset",
    "require_split",
    "tfds_folder",
    "tfds_is_prepared",
    "within_bits",
]

SPLITS = ("train", "validation", "test")


def tfds_folder(data_dir: str = "") -> pathlib.Path:
    """Where TFDS looks for data sets, and puts those that it prepares.

    Args:
      data_dir: of the configuration; empty for TFDS's default.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(data_dir or default).expanduser()


def tfds_is_prepared(folder: pathlib.Path) -> bool:
    """Whether TFDS has prepared a data set.

    A download that failed leaves the folder, but nothing that describes it.

    Args:
      folder: of the data set, above its versions, or above its variants.
    """
    places = ("*/dataset_info.json", "*/*/dataset_info.json")
    return any(any(folder.glob(place)) for place in places)


class CorruptImageError(DataError):
    """One image that cannot be read; `data.skip_corrupt` passes over it."""


class Source:
    """Images by number, in a fixed order.

    Subclasses give `__len__` and `__getitem__`; reading must be safe from
    several threads at once.

    Attributes:
      name: for messages, such as "mnist_5k/train".
      bits: bits per channel of the values; the dtype is uint8 up to 8 bits
        and uint16 above.
      num_classes: of the images; 0 where their labels are not known.
      corrupt: numbers of the images that `data.skip_corrupt` has passed over
        so far.
    """

    def __init__(self, name: str, bits: int = 8, num_classes: int = 0):
        """Remembers the name, the bits and the classes."""
        self.name = name
        self.bits = bits
        self.num_classes = num_classes
        self.corrupt: set[int] = set()

    def __len__(self) -> int:
        """Number of images."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`: uint8 or uint16 `[H, W, C]`.

        Raises:
          CorruptImageError: if this image cannot be read.
          DataError: if the source itself cannot be.
        """
        raise NotImplementedError

    def read(self, indices: Sequence[int]) -> Sequence[np.ndarray]:
        """Images `indices`, each `[H, W, C]`; one at a time by default."""
        return [self[int(index)] for index in indices]

    def read_labels(self, indices: Sequence[int]) -> np.ndarray:
        """The classes of images `indices`, integers `[B]`.

        Raises:
          DataError: if one cannot be read.
        """
        raise NotImplementedError

    def numbers(self, indices: Sequence[int]) -> np.ndarray:
        """What images `indices` are known by, int64 `[B]`.

        Binarisation follows from it.  It is the image's place, but in a
        `Selection`, whose images are what they are without it.
        """
        return np.asarray(indices, np.int64)

    def describe(self, index: int) -> str:
        """Where image `index` comes from, for messages."""
        return f"image {index} of {self.name}"


class ArraySource(Source):
    """Images held in memory or in a memory-mapped file.

    Attributes:
      images: uint8 or uint16 `[N, H, W, C]`.
      labels: integers `[N]`; None where they are not known.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        bits: int = 8,
        labels: np.ndarray | None = None,
    ):
        """Wraps `images` and `labels`, which are not copied."""
        known = labels is not None and len(labels)
        super().__init__(name, bits, int(labels.max()) + 1 if known else 0)
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`, `[H, W, C]`."""
        return np.asarray(self.images[index])

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Images `indices` as one array `[B, H, W, C]`."""
        return self.images[np.asarray(indices, np.int64)]

    def read_labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `Source`."""
        return self.labels[np.asarray(indices, np.int64)]


class Subset(Source):
    """Some images of another source, in a given order."""

    def __init__(self, name: str, source: Source, indices: Iterable[int]):
        """Keeps `indices` of `source` under a new name."""
        super().__init__(name, source.bits, source.num_classes)
        self._source = source
        self._indices = np.asarray(indices, np.int64)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._indices)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index` of the subset, `[H, W, C]`."""
        return self._source[int(self._indices[index])]

    def read(self, indices: Sequence[int]) -> Sequence[np.ndarray]:
        """Images `indices` of the subset."""
        return self._source.read(self._indices[np.asarray(indices, np.int64)])

    def read_labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `Source`."""
        chosen = self._indices[np.asarray(indices, np.int64)]
        return self._source.read_labels(chosen)

    def describe(self, index: int) -> str:
        """Where image `index` comes from."""
        return self._source.describe(int(self._indices[index]))


class Selection(Subset):
    """A subset to look at, whose images keep their numbers."""

    def numbers(self, indices: Sequence[int]) -> np.ndarray:
        """See `Source`: those of the source that was selected from."""
        chosen = self._indices[np.asarray(indices, np.int64)]
        return self._source.numbers(chosen)


def require_split(split: str) -> None:
    """Raises DataError unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise DataError(
            f"There is no split {split!r}; choose one of {', '.join(SPLITS)}."
        )


def within_bits(image: np.ndarray, source: Source, index: int) -> np.ndarray:
    """An image in the dtype of its source's bits.

    Args:
      image: uint8 or uint16 `[H, W, C]`, image `index` of `source`.
      source: says how many bits the values have.
      index: for messages.

    Returns:
      The same values, uint8 up to 8 bits and uint16 above.

    Raises:
      DataError: if a value has more bits.
    """
    bits = source.bits
    if bits < 8 * image.dtype.itemsize and image.max() >= 2**bits:
        raise DataError(
            f"{source.describe(index)} holds the value {image.max()}, which "
            f"does not fit data.bits={bits}."
        )
    return image.astype(np.uint8 if bits <= 8 else np.uint16, copy=False)
