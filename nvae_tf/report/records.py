"""What a run has recorded, for its report.

Everything may be missing or cut short: the run may be going on, and the files
of evaluation.json's kind are written by other commands.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nvae_tf.core.json_files import read_json, read_json_lines

__all__ = [
    "History",
    "Series",
    "is_number",
    "leaves",
    "progress_text",
    "read_history",
    "read_result",
]


# What no run reaches, and no plot or table could show.
_LARGEST_STEP = 10**15
_LARGEST_VALUE = 1e100
_DEEPEST = 16


@dataclasses.dataclass(frozen=True)
class Series:
    """A quantity over the steps.

    Attributes:
      steps: float64 `[N]`, increasing.
      values: float64 `[N]` or `[N, L]`, NaN where there was no number.
    """

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    def thinned(self, most: int) -> Series:
        """At most so many points, each the mean of its neighbours."""
        if len(self) <= most:
            return self
        chunks = np.array_split(np.arange(len(self)), most)
        return Series(
            np.array([self.steps[c].mean() for c in chunks]),
            np.stack([self._mean(c) for c in chunks]),
        )

    def _mean(self, chunk):
        values = self.values[chunk]
        known = np.isfinite(values)
        total = np.where(known, values, 0.0).sum(axis=0)
        count = known.sum(axis=0)
        return np.where(count, total / np.maximum(count, 1), np.nan)


@dataclasses.dataclass(frozen=True)
class History:
    """The records of metrics.jsonl.

    Attributes:
      train: of training steps, oldest first.
      evaluations: of held-out evaluations.
      events: all others: changed settings, rollbacks, imports.
      averaged: evaluations with the averaged weights, where the run keeps them.
    """

    train: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    events: list[dict[str, Any]]
    averaged: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The latest step of any record."""
        records = [*self.train, *self.evaluations, *self.events]
        return max((r["step"] for r in records), default=0)

    def series(self, name: str, kind: str = "train") -> Series | None:
        """One quantity, None if no record has it.

        Args:
          name: of the value in the records.
          kind: "train", "evaluations" or "averaged".
        """
        found = [r for r in getattr(self, kind) if r.get(name) is not None]
        if not found:
            return None
        # Vectors of another length belong to another configuration.
        shape = np.shape(found[-1][name])
        found = [r for r in found if np.shape(r[name]) == shape]
        found.sort(key=lambda r: r["step"])
        return Series(
            np.array([r["step"] for r in found], np.float64),
            np.array([r[name] for r in found], np.float64),
        )


def read_history(path) -> History:
    """Reads metrics.jsonl; what is not a whole record is left out.

    Args:
      path: of the file, which may be missing.
    """
    train, evaluations, averaged, events = [], [], [], []
    for record in read_json_lines(path, finite=False):
        if not _is_step(record.get("step")):
            continue
        kind = record.get("kind")
        if kind == "train":
            train.append(_numbers_of(record))
        elif kind == "evaluation":
            evaluations.append(_numbers_of(record))
        elif kind == "evaluation_ema":
            averaged.append(_numbers_of(record))
        else:
            events.append(record)
    return History(train, evaluations, events, averaged)


def read_result(path) -> dict[str, Any]:
    """Reads what a command measured; empty if there is nothing to be read.

    Args:
      path: of the file.
    """
    try:
        value = read_json(path, finite=False, kind=None)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {"records": value}


def is_number(value: Any) -> bool:
    """Whether this is a number that can be counted and drawn with."""
    return (
        type(value) in (int, float)
        and math.isfinite(value)
        and abs(value) <= _LARGEST_VALUE
    )


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_STEP


def _numbers_of(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a record and their lists, None in place of no number."""
    found = {}
    for name, value in record.items():
        if isinstance(value, list):
            if all(v is None or type(v) in (int, float) for v in value):
                found[name] = [v if is_number(v) else None for v in value]
        elif is_number(value) or value is None:
            found[name] = value
    return found


def progress_text(history: History, state: Mapping, epochs: int) -> str:
    """How far a run is, as a sentence.

    Args:
      history: of the run.
      state: of its latest checkpoint; empty where there is none.
      epochs: in all.
    """
    step, per_epoch = history.last_step, state.get("steps_per_epoch")
    if type(per_epoch) is not int or per_epoch <= 0:
        return f"{step:,} steps of training, {epochs:,} epochs in all"
    total = epochs * per_epoch
    done = "complete" if step >= total else f"{100 * step // total} %"
    return f"Step {step:,} of {total:,} ({epochs:,} epochs): {done}"


def leaves(
    value: Any, prefix: str = "", depth: int = _DEEPEST
) -> list[tuple[str, Any]]:
    """All plain values in nested dictionaries and lists of them.

    Args:
      value: of JSON. Lists of plain values count as one value.
      prefix: of the names.
      depth: below which nothing is looked at.

    Returns:
      `(name, value)`, names joined by dots.
    """
    if not depth:
        return [(prefix, "...")]
    if isinstance(value, dict):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and any(
        isinstance(item, dict | list) for item in value
    ):
        pairs = [(str(number), item) for number, item in enumerate(value)]
    else:
        return [(prefix, value)]
    return [
        leaf
        for key, item in pairs
        for leaf in leaves(
            item, f"{prefix}.{key}" if prefix else key, depth - 1
        )
    ]
