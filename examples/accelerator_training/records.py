"""What a training notes down as it goes."""

from __future__ import annotations

import json
import math
import time

import numpy as np

__all__ = ["Records"]


class Records:
    """Lines of metrics.jsonl, some of which are shown, too.

    Args:
      name: of the training, for what is shown.

    Attributes:
      started: seconds since the epoch.
    """

    def __init__(self, name: str):
        self.started = time.time()
        self._name = name
        self._lines: list[str] = []

    def add(self, step: int, kind: str, values: dict) -> None:
        """Adds a record.

        Args:
          step: of the training.
          kind: of the record.
          values: numbers, arrays of them, text or None.
        """
        plain = {name: _plain(value) for name, value in values.items()}
        self._lines.append(json.dumps({"step": step, "kind": kind, **plain}))

    def note(self, step: int, kind: str, **values) -> None:
        """Adds a record with the time, and shows it."""
        values["at_seconds"] = round(time.time() - self.started, 1)
        self.add(step, kind, values)
        self.say(self._lines[-1])

    def say(self, text: str) -> None:
        """Shows a line."""
        seconds = time.time() - self.started
        print(f"{self._name} {seconds:6.1f} s: {text}", flush=True)

    def text(self) -> str:
        """All records."""
        return "".join(f"{line}\n" for line in self._lines)


def _plain(value):
    """As JSON holds it: no numbers that it has no words for."""
    if value is None or isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        return array.tolist()
    if array.ndim:
        return [_plain(entry) for entry in array]
    number = array.item()
    return number if math.isfinite(number) else None
