"""Results of commands in a workdir: the latest, and the history of all."""

import json
import math
import pathlib
from typing import Any

from nvae_tf.core.files import write_bytes

__all__ = ["write_result"]


def write_result(path, record: dict[str, Any]) -> dict[str, Any]:
    """Writes a record to a JSON file, and adds it to the `.jsonl` beside it.

    Args:
      path: the JSON file, which is replaced.
      record: plain values; what is not a finite number becomes null.

    Returns:
      The record as it was written.

    Raises:
      DataError: if a file cannot be written.
    """
    record = {
        name: None if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in record.items()
    }
    path = pathlib.Path(path)
    write_bytes(path, (json.dumps(record, indent=2) + "\n").encode())
    history = path.with_suffix(".jsonl")
    before = history.read_bytes() if history.exists() else b""
    write_bytes(history, before + json.dumps(record).encode() + b"\n")
    return record
