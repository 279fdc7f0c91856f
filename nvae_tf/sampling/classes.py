"""Classes of what is drawn or looked at, of a model that knows any.

Everywhere in Python labels are an integer for all images, or `[N]`; None for
a model that knows no classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from nvae_tf.config import ModelConfig
from nvae_tf.core.errors import ConfigError, UserError
from nvae_tf.core.reading import shown

__all__ = ["as_labels", "as_tensor", "cycled", "in_turn", "take_labels"]


def as_labels(
    labels: npt.ArrayLike | None,
    config: ModelConfig,
    num: int,
    error: type[UserError] = ConfigError,
) -> np.ndarray | None:
    """A label for every image.

    Args:
      labels: an integer, `[num]`, or None.
      config: of the model.
      num: images.
      error: what is raised.

    Returns:
      int32 `[num]`; None for a model that knows no classes.

    Raises:
      UserError: `error`, if they are no classes of the model, or missing.
    """
    count = config.num_classes
    if not count:
        if labels is None:
            return None
        raise error(
            "The model knows no classes: leave labels out, or take a model "
            "that was trained with data.labels=True."
        )
    if labels is None:
        raise error(
            "The model is told the class of every image: give labels from 0 "
            f"to {count - 1}, one for all images or one for each."
        )
    try:
        values = np.asarray(labels)
    except ValueError as problem:
        raise error(f"Labels must be integers, not {labels!r}.") from problem
    if values.dtype.kind not in "iu":
        raise error(f"Labels must be integers, not {shown(labels)}.")
    if values.shape not in ((), (num,)):
        raise error(
            f"The labels have shape {list(values.shape)}; give one for all "
            f"images, or [{num}] for one each."
        )
    if values.size and not 0 <= values.min() <= values.max() < count:
        wrong = values[(values < 0) | (values >= count)].flat[0]
        raise error(
            f"There is no class {wrong}; the model knows 0 to {count - 1}."
        )
    return np.broadcast_to(values, [num]).astype(np.int32)


def as_tensor(
    labels: npt.ArrayLike | None, config: ModelConfig, num: int
) -> tf.Tensor | None:
    """What `as_labels` gives, for a graph, which cannot check it."""
    labels = as_labels(labels, config, num)
    return None if labels is None else tf.constant(labels)


def in_turn(config: ModelConfig, num: int, first: int = 0) -> np.ndarray | None:
    """All classes, one after the other, again and again.

    Args:
      config: of the model.
      num: images.
      first: place in the turn of the first of them.

    Returns:
      int32 `[num]`; None for a model that knows no classes.
    """
    if not config.num_classes:
        return None
    return cycled(range(config.num_classes), num, first)


def cycled(classes: Sequence[int], num: int, first: int = 0) -> np.ndarray:
    """Some classes, one after the other, again and again; see `in_turn`."""
    places = (first + np.arange(num, dtype=np.int64)) % len(classes)
    return np.asarray(classes, np.int32)[places]


def take_labels(
    labels: np.ndarray | None, rows: np.ndarray
) -> np.ndarray | None:
    """Of some images what `as_labels` gave for all."""
    return None if labels is None else labels[rows]
