"""What became of every row of a request: the output `status` of a SavedModel.

A server merges requests of strangers into one batch, and an error fails them
all.  So a row that cannot be served is no error of the batch: it gets a code
here, zeros in place of integers, NaN in place of floats and nothing in place of
a file, and its neighbours get what they asked for.

Needs neither TensorFlow nor the model: clients read the codes too.
"""

from __future__ import annotations

import enum

import numpy as np

__all__ = ["MEANINGS", "OUTPUT", "RowStatus", "explain"]

# The output's name; int32 `[B]`.
OUTPUT = "status"


class RowStatus(enum.IntEnum):
    """The codes; their numbers are part of the interface and stay."""

    SERVED = 0
    BAD_TEMPERATURE = 1
    NOT_FINITE = 2
    NOT_PNG = 3
    WRONG_SIZE = 4
    WRONG_CHANNELS = 5
    OVERFLOW = 6
    BAD_LABEL = 7


MEANINGS = {
    RowStatus.SERVED: "the row was served",
    RowStatus.BAD_TEMPERATURE: (
        "the temperature must be finite and not negative"
    ),
    RowStatus.NOT_FINITE: "a number of the request is not finite",
    RowStatus.NOT_PNG: "it is no whole PNG file",
    RowStatus.WRONG_SIZE: "the PNG has another width or height than the model",
    RowStatus.WRONG_CHANNELS: (
        "the PNG has not the model's channels (grey for one, RGB or a palette "
        "for three, RGBA for four) of at most 8 bits"
    ),
    RowStatus.OVERFLOW: (
        "the numbers are so large that what came of them is not finite"
    ),
    RowStatus.BAD_LABEL: "the label must be that of a class of the model",
}


def explain(status: np.ndarray, first: int = 0) -> str:
    """What is wrong with the rows of a request, as the end of a sentence.

    Args:
      status: integers `[B]`, the output of that name.
      first: what the first row is numbered with.

    Returns:
      Words about the first row that was not served, and how many there are;
      empty if all were.
    """
    status = np.asarray(status)
    refused = np.flatnonzero(status != RowStatus.SERVED)
    if not refused.size:
        return ""
    code = int(status[refused[0]])
    meaning = MEANINGS.get(code, "what that means is not known here")
    others = f", and {refused.size - 1} more" if refused.size > 1 else ""
    return f"row {first + refused[0]} (status {code}{others}): {meaning}"
