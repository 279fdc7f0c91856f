"""Labels of images: which class each is of, as an integer from 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nvae_tf.config import MOST_CLASSES, ModelConfig
from nvae_tf.core.errors import DataError
from nvae_tf.core.reading import shown
from nvae_tf.datasets.sources import Selection, Source

__all__ = [
    "LabelledSource",
    "checked_labels",
    "require_labels",
    "within",
]


class LabelledSource(Selection):
    """The images of another source, with other labels."""

    def __init__(self, source: Source, labels: np.ndarray):
        """Wraps `source`; `labels` are integers `[N]`."""
        super().__init__(source.name, source, range(len(source)))
        self.num_classes = int(labels.max()) + 1
        self._labels = labels

    def read_labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `Source`."""
        return self._labels[np.asarray(indices, np.int64)]


def checked_labels(labels: np.ndarray, count: int, name: str) -> np.ndarray:
    """Labels that were read from a file, int64 `[N]`.

    Args:
      labels: what was read.
      count: N, images that they belong to.
      name: of the file.

    Raises:
      DataError: if they are no such labels.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} holds {shown(labels.dtype)} {shown(list(labels.shape))}; "
            f"labels are integers [{count}], one for each image."
        )
    if len(labels) != count:
        raise DataError(
            f"{name} holds {len(labels):,} labels for {count:,} images: they "
            "do not belong together; get both again."
        )
    if count and not 0 <= labels.min() <= labels.max() < MOST_CLASSES:
        raise DataError(
            f"{name} holds labels from {labels.min()} to {labels.max()}; they "
            f"must be 0 to {MOST_CLASSES - 1}."
        )
    return labels.astype(np.int64)


def require_labels(source: Source, model: ModelConfig) -> None:
    """Refuses a source without labels, or with more classes than a model's.

    Raises:
      DataError: if it is such a source.
    """
    if not source.num_classes:
        raise DataError(
            f"data.labels is True, but {source.name} has no labels; set it to "
            "False, or name images that have some."
        )
    if model.num_classes and source.num_classes > model.num_classes:
        raise DataError(
            f"{source.name} has {source.num_classes} classes, but "
            f"model.num_classes is {model.num_classes}; set it to as many, or "
            "to 0 to have them counted."
        )


def within(source: Source, indices: np.ndarray, most: int) -> np.ndarray:
    """The labels of some images, int64 `[B]`.

    Args:
      source: of the images.
      indices: of them.
      most: classes of the model; 0 for any.

    Raises:
      DataError: if one is of no class of the model.
    """
    labels = np.asarray(source.read_labels(indices), np.int64)
    wrong = (labels < 0) | (labels >= (most or MOST_CLASSES))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{source.describe(int(indices[row]))} has the label "
            f"{labels[row]}, but the classes are 0 to "
            f"{(most or MOST_CLASSES) - 1}; correct it, or change "
            "model.num_classes."
        )
    return labels
