"""Which checkpoints of a run stay, decided from what is noted in each."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Entry", "Note", "Retention", "best"]


@dataclasses.dataclass(frozen=True)
class Note:
    """What a checkpoint says about keeping it.

    Attributes:
      good: whether a run may go back to it when training fails.
      permanent: whether it stays for good.
      hours: of training until it was saved.
      score: what the best one has least of; None if it is not known.
    """

    good: bool = True
    permanent: bool = False
    hours: float = 0.0
    score: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Note":
        """What `dataclasses.asdict` gave.

        Raises:
          ValueError: if it is something else.
        """
        try:
            note = cls(**values)
            numbers = [note.hours, note.score or 0.0]
            if any(type(n) not in (int, float) for n in numbers):
                raise TypeError("an hour or a score is no number")
        except TypeError as error:
            raise ValueError(f"It is no note: {error}") from error
        if not all(map(math.isfinite, numbers)):
            raise ValueError("It is no note: a number is not finite")
        return note


class Entry(NamedTuple):
    """A checkpoint on disk.

    Attributes:
      step: optimiser steps taken.
      path: its folder.
      abandoned: whether the run has gone back before it since.
      note: see `Note`.
    """

    step: int
    path: pathlib.Path
    abandoned: bool
    note: Note


@dataclasses.dataclass(frozen=True)
class Retention:
    """What stays; the newest checkpoint always does.

    Attributes:
      keep: how many of the latest good ones.
      keep_every_hours: hours of training between those that stay for good; 0
        for none.
      keep_best: also the one with the lowest score, and the one that had it
        before the run went back, as long as none is better.
    """

    keep: int = 3
    keep_every_hours: float = 0.0
    keep_best: bool = True

    def new_note(
        self, entries: Sequence[Entry], hours: float, good: bool
    ) -> Note:
        """Of a checkpoint that is saved beside others.

        Args:
          entries: the others.
          hours: of training until now.
          good: see `Note`.
        """
        permanent = [e.note.hours for e in entries if e.note.permanent]
        due = hours - max(permanent, default=0.0) >= self.keep_every_hours
        return Note(
            good=good,
            permanent=good and due and self.keep_every_hours > 0,
            hours=hours,
        )

    def superfluous(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of a store's checkpoints, oldest first, that need not stay."""
        current = [e for e in entries if not e.abandoned]
        good = [e for e in current if e.note.good]
        kept = [*current[-1:], *good[-self.keep :]]
        if self.keep_best:
            kept += [best(current), best(entries)]
        return [e for e in entries if e not in kept and not e.note.permanent]


def best(entries: Sequence[Entry]) -> Entry | None:
    """The one with the lowest score, the latest of several; None without."""
    scored = [e for e in reversed(entries) if e.note.score is not None]
    return min(scored, key=lambda e: e.note.score, default=None)
