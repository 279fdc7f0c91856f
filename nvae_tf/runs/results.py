"""Results of commands in a workdir: the latest, and the history of all."""

import json
import math
import os
import pathlib
from typing import Any

from nvae_tf.core.errors import DataError
from nvae_tf.core.files import open_own, write_bytes
from nvae_tf.core.locks import wait_for_others

__all__ = ["number_text", "write_result"]


def write_result(path, record: dict[str, Any]) -> dict[str, Any]:
    """Adds a record to a `.jsonl` and makes it the latest, a JSON file.

    Several processes may do so at once: every record is in the history, and the
    latest is a whole one.

    Args:
      path: the JSON file, which is replaced; the history is beside it.
      record: plain values, lists and dictionaries of them; what is not a
        finite number becomes null.

    Returns:
      The record as it was written.

    Raises:
      DataError: if a file cannot be written.
    """
    record = _plain(record)
    path = pathlib.Path(path)
    _append_line(path.with_suffix(".jsonl"), json.dumps(record).encode())
    write_bytes(path, (json.dumps(record, indent=2) + "\n").encode())
    return record


def number_text(value: float | None, form: str) -> str:
    """A number of a record as a person reads it.

    Args:
      value: None, as `write_result` gives it, where it was not finite.
      form: as for `format`, such as ".2f"; a width holds for the words too.
    """
    if value is not None and math.isfinite(value):
        return format(value, form)
    width, _, _ = form.partition(".")
    return format("not finite", f">{width}")


def _plain(value: Any) -> Any:
    """The value with None in place of what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    is_unknown = isinstance(value, float) and not math.isfinite(value)
    return None if is_unknown else value


def _append_line(path: pathlib.Path, line: bytes) -> None:
    """Adds a line in one write, which no other writer's comes between."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            # Else the line that another is just writing could look torn.
            wait_for_others(descriptor)
            content = _end_of_torn_line(descriptor) + line + b"\n"
            if os.write(descriptor, content) != len(content):
                raise OSError("the disk has no room for the whole line")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error}.") from error


def _end_of_torn_line(descriptor: int) -> bytes:
    """A line feed where a writer died within its line."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if not size:
        return b""
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return b"" if os.read(descriptor, 1) == b"\n" else b"\n"
