"""The flags of all measurements of training steps."""

from collections.abc import Sequence

from absl import flags

from benchmarks import cases
from nvae_tf.config import PRECISIONS, RECOMPUTE
from nvae_tf.core.errors import UserError

__all__ = ["check", "define"]

# `--help` of a benchmark shows its own flags: these are to count as such.
flags.disclaim_key_flags()


def define(seconds: float) -> None:
    """Defines `--precision`, `--recompute` and `--seconds`.

    Args:
      seconds: default of the last.
    """
    flags.DEFINE_list("precision", ["float32"], "To compute in.")
    flags.DEFINE_list(
        "recompute",
        [cases.RECOMPUTE],
        "Of the backward pass: none, bn_swish, cell.",
    )
    flags.DEFINE_float("seconds", seconds, "How long to measure each.")


def check(precisions: Sequence[str], recomputes: Sequence[str]) -> None:
    """Raises UserError for what no measurement can be made of."""
    for flag, given, known in (
        ("precision", precisions, PRECISIONS),
        ("recompute", recomputes, RECOMPUTE),
    ):
        for value in given:
            if value not in known:
                raise UserError(
                    f"--{flag}={value} is none of {', '.join(known)}."
                )
