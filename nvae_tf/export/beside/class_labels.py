"""Which class every image is of, of a model that is told them.

Becomes part of the programs that lie beside exports.
"""

import argparse

import numpy as np

__all__ = ["add_labels", "label_rows"]


def label_rows(labels, num_classes, count):
    """A label for every image.

    Args:
      labels: an integer for all images, integers `[count]`, or None for all
        classes in turn.
      num_classes: of the model; 0 for one that is told none.
      count: images.

    Returns:
      int32 `[count]`; None for a model that is told none.

    Raises:
      ValueError: if they do not fit.
    """
    if not num_classes:
        if labels is not None:
            raise ValueError("The model knows no classes: leave labels out.")
        return None
    if labels is None:
        return np.arange(count, dtype=np.int32) % np.int32(num_classes)
    values = np.asarray(labels)
    if values.dtype.kind not in "iu" or values.shape not in ((), (count,)):
        raise ValueError(
            f"labels must be one integer, or {count} for one each, not of "
            f"shape {list(values.shape)}."
        )
    if np.any((values < 0) | (values >= num_classes)):
        raise ValueError(
            f"The model knows the classes 0 to {num_classes - 1} alone."
        )
    return np.broadcast_to(values, [count]).astype(np.int32)


def add_labels(parser):
    """Adds `--labels` to the arguments of a command."""
    parser.add_argument(
        "--labels",
        type=_labels,
        help="of a model that was trained with labels, the class to draw, as "
        "in 7, or one for each image, as in 0,1,2; by default all in turn",
    )


def _labels(text):
    """The integer of the command line, or several of them."""
    try:
        values = [int(part) for part in text[:100_000].split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text[:20]!r} are no whole numbers"
        ) from None
    return values[0] if len(values) == 1 else values
