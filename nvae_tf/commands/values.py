"""What is asked of the values of flags, beyond what absl asks."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Sequence

from nvae_tf.core.errors import UserError

__all__ = [
    "numbers",
    "require_suffix",
    "require_workdir",
    "require_writable",
    "whole_numbers",
]


def require_suffix(path: str, *suffixes: str) -> str:
    """The suffix of `--output`, in lower case.

    Raises:
      UserError: if it is none of `suffixes`, or no file can be written there.
    """
    suffix = pathlib.PurePath(path).suffix.lower()
    if suffix not in suffixes:
        raise UserError(f"--output={path} must end in {' or '.join(suffixes)}.")
    require_writable(path)
    if pathlib.Path(path).is_dir():
        raise UserError(f"--output={path} is a folder: name a file in it.")
    return suffix


def require_workdir(path: str) -> None:
    """Refuses a missing `--workdir`, before TensorFlow is loaded.

    Raises:
      UserError: if it names no folder.
    """
    if not path:
        raise UserError("Name a folder with --workdir=DIR.")


def require_writable(path: str, flag: str = "output") -> None:
    """Refuses an `--output` where nothing can be written.

    Before the work, whose result would be lost.

    Args:
      path: what was given.
      flag: by which.

    Raises:
      UserError: if the folder that it is to be in is none, or is protected.
    """
    target = pathlib.Path(path).absolute()
    folder = target if path.endswith("/") else target.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"--{flag}={path}: {folder} is no folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--{flag}={path}: {folder} cannot be written to.")


def numbers(name: str, texts: Sequence[str]) -> list[float]:
    """The value of a list flag.

    Raises:
      UserError: if something in it is no finite number.
    """
    values = []
    for text in texts:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(
                f"--{name} holds {text[:40]!r}, which is no number."
            )
        values.append(value)
    return values


def whole_numbers(name: str, texts: Sequence[str]) -> list[int]:
    """The value of a list flag.

    Raises:
      UserError: if something in it is no whole number from 0 up.
    """
    for text in texts:
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise UserError(
                f"--{name} holds {text[:40]!r}, which is not a whole number "
                "from 0 up."
            )
    return [int(text) for text in texts]
