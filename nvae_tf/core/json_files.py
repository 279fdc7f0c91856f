"""JSON that others have written: of bounded size and depth, said once.

Python's reader takes more than JSON allows (NaN, the last of two equal keys)
and fails in more ways than by a ValueError (text that nests too deep); what is
read here is plain, or refused in one sentence.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from typing import Any

from nvae_tf.core.errors import UserError
from nvae_tf.core.reading import open_regular, read_bytes, shown

__all__ = ["parse_json", "read_json", "read_json_lines"]

MOST_BYTES = 2**26
MOST_DEPTH = 64
_LONGEST_LINE = 2**22
_RESTORE = "restore it from a backup or make it anew"


class _RefusedError(ValueError):
    """What JSON must not hold here."""


def read_json(
    path: str | os.PathLike,
    error: type[UserError] | None = None,
    *,
    advice: str = _RESTORE,
    finite: bool = True,
    kind: type | None = dict,
) -> Any:
    """Reads a JSON file, whoever made it.

    Args:
      path: the file.
      error: what is raised; None for an `OSError` where the file cannot be
        read, and else a `ValueError` that says what is wrong with it.
      advice: the way out, for the message of `error`.
      finite: refuse NaN and numbers that are infinite as float64; results of
        diverged runs may hold them.
      kind: the type of the whole; None for any.

    Returns:
      What it holds: integers fit 64 bits, and every string can be a file's
      name.

    Raises:
      UserError: `error`, if it cannot be read, is no JSON, or too large or
        too deep.
    """
    content = read_bytes(path, MOST_BYTES, error, advice)
    try:
        return parse_json(content, finite=finite, kind=kind)
    except ValueError as problem:
        if error is None:
            raise
        raise error(f"{path}: {problem}; {advice}.") from problem


def parse_json(
    text: bytes | str, *, finite: bool = True, kind: type | None = dict
) -> Any:
    """Like `read_json`, of text in memory.

    Args:
      text: JSON, in UTF-8 where it is bytes.
      finite: see `read_json`.
      kind: likewise.

    Raises:
      ValueError: with what is wrong with it, in a few words.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_finite if finite else float,
            parse_constant=_no_constant if finite else float,
        )
        _check(value)
    except RecursionError as problem:
        raise ValueError("it is JSON that nests too deep") from problem
    except ValueError as problem:
        reason = shown(str(problem), 160)
        raise ValueError(f"it is not JSON ({reason})") from problem
    if kind is not None and not isinstance(value, kind):
        raise ValueError(
            f"it holds a {type(value).__name__} where a {kind.__name__} is "
            "needed"
        )
    return value


def read_json_lines(
    path: str | os.PathLike, *, finite: bool = True
) -> Iterator[dict[str, Any]]:
    """The records of a `.jsonl` file, oldest first.

    What is not a whole record is left out: another process may be writing the
    last one.

    Args:
      path: of the file; there are no records where it cannot be read.
      finite: see `read_json`.
    """
    try:
        with open_regular(path, None) as file:
            while line := file.readline(_LONGEST_LINE):
                with contextlib.suppress(ValueError):
                    yield parse_json(line, finite=finite)
    except OSError:
        return


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise _RefusedError(f"the key {shown(twice)} stands there twice")
    return found


def _integer(text: str) -> int:
    # Before it is converted: that takes long for long numbers.
    value = int(text) if len(text) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise _RefusedError(f"the number {shown(text, 20)} exceeds 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedError(f"the number {shown(text, 20)} is too large")
    return value


def _no_constant(text: str) -> float:
    raise _RefusedError(f"{text} is no number")


def _check(value: Any) -> None:
    """Raises ValueError for what nests too deep or is no text."""
    pending = [(value, 0)] if isinstance(value, str | list | dict) else []
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str):
            # Halves of characters are no text, but for those by which names
            # of files come that are none.
            item.encode(errors="surrogateescape")
            continue
        if depth == MOST_DEPTH:
            raise _RefusedError(f"it nests more than {MOST_DEPTH} deep")
        if isinstance(item, dict):
            item = [*item, *item.values()]
        pending.extend(
            (child, depth + 1)
            for child in item
            if isinstance(child, str | list | dict)
        )
