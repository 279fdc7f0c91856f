"""Sources from TensorFlow Datasets, with the paper's splits.

Images are read at random through `tfds.data_source`, which needs ArrayRecord
files: datasets are prepared in that format, and one that already lies on the
disk in another must be prepared again in another `data.data_dir`.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from nvae_tf.config import DataConfig
from nvae_tf.core import extras
from nvae_tf.core.errors import DataError
from nvae_tf.core.reading import shown
from nvae_tf.datasets.sources import CorruptImageError, Source

__all__ = [
    "DATASETS",
    "Dataset",
    "StackedSource",
    "TfdsSource",
    "count_classes",
    "open_tfds",
]

_LOG = logging.getLogger(__name__)
STACKED_MNIST_SEED = 2020


@dataclasses.dataclass(frozen=True)
class Dataset:
    """How a dataset of the paper is read.

    Attributes:
      builder: name of the TFDS builder.
      train: TFDS's split for training.
      validation: TFDS's split for validation.
      test: TFDS's split for testing.
      invert: whether ink is dark in the files; the model wants it bright.
      stacked: whether three gray images make one in colour.
      num_classes: of the labels in it; 0 where they are none, or unknown.
    """

    builder: str
    train: str = "train"
    validation: str = "test"
    test: str = "test"
    invert: bool = False
    stacked: bool = False
    num_classes: int = 0


# By `data.name`.  Sizes (train, held out): MNIST and Fashion-MNIST 60,000 and
# 10,000; CIFAR-10 50,000 and 10,000; ImageNet 1,281,149 and 49,999; CelebA
# 162,770, validation 19,867 and test 19,962; CelebA HQ 27,000 and 3,000; FFHQ
# 63,000 and 7,000; LSUN bedroom 3,033,042 and 300, church 126,227 and 300.
# OMNIGLOT is TFDS's own split, 19,280 and 13,180 images of 105 pixels: the
# 28-pixel set with 24,345 and 8,070 images of other papers is another file.
DATASETS: dict[str, Dataset] = {
    "mnist": Dataset("mnist", num_classes=10),
    "fashion_mnist": Dataset("fashion_mnist", num_classes=10),
    "stacked_mnist": Dataset("mnist", stacked=True),
    "omniglot": Dataset("omniglot", invert=True),
    "cifar10": Dataset("cifar10", num_classes=10),
    "downsampled_imagenet/32x32": Dataset(
        "downsampled_imagenet/32x32",
        validation="validation",
        test="validation",
    ),
    "downsampled_imagenet/64x64": Dataset(
        "downsampled_imagenet/64x64",
        validation="validation",
        test="validation",
    ),
    "celeb_a": Dataset("celeb_a", validation="validation"),
    "celeb_a_hq/256": Dataset(
        "celeb_a_hq/256",
        train="train[:27000]",
        validation="train[27000:]",
        test="train[27000:]",
    ),
    "ffhq/256": Dataset("ffhq256"),
    "lsun/bedroom": Dataset(
        "lsun/bedroom", validation="validation", test="validation"
    ),
    "lsun/church": Dataset(
        "lsun/church_outdoor", validation="validation", test="validation"
    ),
}


class TfdsSource(Source):
    """The features "image" and "label" of a TFDS data source."""

    def __init__(
        self,
        name: str,
        examples,
        *,
        invert: bool = False,
        labels=None,
        num_classes: int = 0,
    ):
        """Wraps a random-access TFDS data source.

        Args:
          name: for messages.
          examples: what `tfds.data_source` returns.
          invert: whether to exchange black and white.
          labels: likewise, of which "label" is read and no image decoded.
          num_classes: of the labels.

        Raises:
          DataError: if the dataset holds no 8- or 16-bit images.
        """
        super().__init__(name, bits=8, num_classes=num_classes)
        self._examples = examples
        self._invert = invert
        self._labels = labels
        if len(examples):
            image = np.asarray(self._load(0))
            if image.dtype == np.uint16:
                self.bits = 16
            elif image.dtype != np.uint8:
                raise DataError(
                    f"{name} holds {image.dtype} values in its feature "
                    "'image'; images must be uint8 or uint16."
                )

    def __len__(self) -> int:
        """Number of images."""
        return len(self._examples)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`, `[H, W, C]`."""
        image = np.asarray(self._load(index))
        return ~image if self._invert else image

    def read_labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `Source`."""
        return np.array(
            [self._load(int(i), self._labels, "label") for i in indices],
            np.int64,
        )

    def _load(self, index: int, examples=None, feature="image") -> np.ndarray:
        try:
            return (examples or self._examples)[index][feature]
        except KeyError as error:
            raise DataError(
                f"{self.name} has no feature {feature!r}, so it cannot be "
                "trained on; choose another data.name."
            ) from error
        except Exception as error:  # Of TFDS, ArrayRecord or Pillow.
            raise CorruptImageError(
                f"{self.describe(index)} cannot be read "
                f"({_first_line(error)}): delete the "
                "dataset's folder to prepare it again, or set "
                "data.skip_corrupt=True."
            ) from error


class StackedSource(Source):
    """Three gray images as red, green and blue (stacked MNIST).

    There are as many stacks as images, and each image is used once in every
    channel; which ones meet follows from a seed.
    """

    def __init__(self, source: Source, seed: int = STACKED_MNIST_SEED):
        """Stacks the images `[H, W, 1]` of `source`."""
        super().__init__(f"stacked {source.name}", source.bits)
        self._source = source
        bits = np.random.Philox(key=seed).random_raw(3 * len(source))
        orders = np.argsort(bits.reshape(3, -1), axis=1, kind="stable")
        self._members = orders.T

    def __len__(self) -> int:
        """Number of stacks."""
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        """Stack `index`, `[H, W, 3]`."""
        return np.concatenate(
            [self._source[int(i)] for i in self._members[index]], -1
        )

    def read(self, indices: Sequence[int]) -> Sequence[np.ndarray]:
        """Stacks `indices`, each `[H, W, 3]`."""
        members = self._members[np.asarray(indices, np.int64)]
        images = self._source.read(members.reshape(-1))
        return [
            np.concatenate(images[3 * row : 3 * row + 3], -1)
            for row in range(len(members))
        ]

    def describe(self, index: int) -> str:
        """Where the three images come from."""
        return ", ".join(
            self._source.describe(int(i)) for i in self._members[index]
        )


def open_tfds(data: DataConfig, split: str) -> Source:
    """Opens `data.name`, preparing it in `data.data_dir` if need be.

    Besides the paper's (`DATASETS`), any dataset of TFDS with a feature
    "image" will do, and any that lies prepared in `data.data_dir`.

    Args:
      data: `name` and `data_dir` are used.
      split: "train", "validation" or "test".

    Raises:
      DataError: if there is no such dataset, a package is missing or the
        dataset can be neither found nor downloaded; the message says how to
        place its files by hand.
    """
    tfds = extras.require("tensorflow_datasets", "data", "data.source 'tfds'")
    extras.require("array_record", "data", "data.source 'tfds'")
    if not data.name:
        raise DataError(
            "data.source 'tfds' needs data.name, such as "
            f"{', '.join(DATASETS)}."
        )
    dataset = DATASETS.get(data.name)
    builder = _prepared(tfds, dataset.builder if dataset else data.name, data)
    if dataset is None:
        dataset = _dataset_of(builder)
    tfds_split = getattr(dataset, split)
    labels, num_classes = None, 0
    if data.labels:
        num_classes = _count_classes(builder, data, dataset)
    try:
        examples = builder.as_data_source(split=tfds_split)
        if num_classes:
            labels = builder.as_data_source(
                split=tfds_split,
                decoders={"image": tfds.decode.SkipDecoding()},
            )
    except NotImplementedError as error:
        raise DataError(
            f"{data.name} lies in {builder.data_dir} in a format without "
            "random access; name another data.data_dir, and it is prepared "
            "there as ArrayRecord."
        ) from error
    except Exception as error:  # Of TFDS or ArrayRecord, whatever it is.
        raise DataError(
            f"The {tfds_split} split of {data.name} in {builder.data_dir} "
            f"cannot be opened ({_first_line(error)}); delete that folder to "
            "prepare it again."
        ) from error
    source = TfdsSource(
        f"{data.name} ({tfds_split})",
        examples,
        invert=dataset.invert,
        labels=labels,
        num_classes=num_classes,
    )
    return StackedSource(source) if dataset.stacked else source


def count_classes(data: DataConfig) -> int:
    """Classes of `data.name`; nothing is prepared.

    Raises:
      DataError: if it has no labels, or there is no such dataset.
    """
    dataset = DATASETS.get(data.name)
    if dataset is not None and dataset.num_classes:
        return dataset.num_classes
    tfds = extras.require("tensorflow_datasets", "data", "data.source 'tfds'")
    name = dataset.builder if dataset else data.name
    return _count_classes(_builder(tfds, name, data), data, dataset)


def _count_classes(builder, data: DataConfig, dataset: Dataset | None) -> int:
    """Classes of the feature "label"."""
    features = builder.info.features or {}
    label = dict(features.items()).get("label")
    count = getattr(label, "num_classes", None)
    if not count or (dataset is not None and dataset.stacked):
        raise DataError(
            f"data.labels is True, but {data.name} has no one label for each "
            "of its images; set it to False, or choose another data.name."
        )
    return int(count)


def _builder(tfds, name: str, data: DataConfig):
    if name == "ffhq256":
        # Importing the module registers the builder.
        importlib.import_module("nvae_tf.datasets.ffhq")
    directory = data.data_dir or None
    if directory:
        directory = str(pathlib.Path(directory).expanduser())
    try:
        return tfds.builder(name, data_dir=directory)
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(
            f"TFDS knows no dataset {name!r}, nor does data.data_dir "
            f"{data.data_dir!r} hold one; known are {', '.join(DATASETS)}."
        ) from error
    except Exception as error:
        raise DataError(
            f"The dataset {name!r} cannot be opened ({_first_line(error)})."
        ) from error


def _prepared(tfds, name: str, data: DataConfig):
    """The builder of a dataset that lies on the disk."""
    builder = _builder(tfds, name, data)
    if builder.info.splits:
        return builder
    _LOG.warning(
        "Preparing %s in %s; without a network this fails after some minutes.",
        builder.info.full_name,
        builder.data_dir,
    )
    try:
        builder.download_and_prepare(file_format="array_record")
    except DataError:
        raise
    except Exception as error:  # The network's, TFDS's or a parser's.
        # Another process may have been faster, whose files stay.
        other = _builder(tfds, name, data)
        if other.info.splits:
            return other
        raise DataError(_by_hand(builder, error)) from error
    return builder


def _by_hand(builder, error: Exception) -> str:
    """Says how to place a dataset's files without downloading them."""
    manual = pathlib.Path(builder.data_path.parents[1])
    if builder.builder_config:
        manual = manual.parent
    manual = manual / "downloads" / "manual"
    text = (
        f"{builder.info.full_name} can be neither found in "
        f"{builder.data_dir} nor prepared ({_first_line(error)})."
    )
    instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if instructions:
        return (
            f"{text} It must be downloaded by hand into {manual}: "
            f"{' '.join(instructions.split())}"
        )
    urls = list(builder.url_infos or ())
    files = f" ({', '.join(urls[:4])})" if urls else ""
    return (
        f"{text} Without a network, put the files it downloads{files} into "
        f"{manual} and start again, or copy the prepared folder from another "
        f"machine to {builder.data_dir}."
    )


def _dataset_of(builder) -> Dataset:
    """Splits of a dataset that is not in the table, by their names."""
    splits = list(builder.info.splits)
    held_out = [name for name in ("validation", "test") if name in splits]
    if "train" not in splits or not held_out:
        raise DataError(
            f"{builder.info.full_name} has the splits {', '.join(splits)}; "
            "training needs train and validation or test."
        )
    return Dataset(
        builder.name, "train", validation=held_out[0], test=held_out[-1]
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return shown(lines[0] if lines else type(error).__name__, 200)
