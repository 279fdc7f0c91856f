"""Programs that lie beside exports, each a single file of its own."""

import pathlib
import re
from types import ModuleType

__all__ = ["single_file"]


def single_file(program: ModuleType, *parts: ModuleType) -> bytes:
    """A program with what it imports of ours put in its place.

    Args:
      program: a module that is written for this: beside the parts it imports
        nothing of `nvae_tf`.
      parts: modules that do not either, each imported in one line.

    Returns:
      The content of a Python file.

    Raises:
      ValueError: if something of ours is still to be imported.
    """
    text = _read(program)
    for part in parts:
        line = rf"^from {re.escape(part.__name__)} import [^(\n]+\n"
        text = re.sub(line, lambda _, p=part: _read(p), text, flags=re.M)
    if left := re.search(r"^(?:from|import) nvae_tf.*", text, flags=re.M):
        raise ValueError(f"{program.__name__} says: {left[0]}")
    return text.encode()


def _read(module: ModuleType) -> str:
    return pathlib.Path(str(module.__file__)).read_text("utf-8")
