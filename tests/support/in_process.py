"""Commands run within the test's process, which saves TensorFlow's import."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from absl import flags

from nvae_tf.commands.main import COMMANDS

# Of every command, by its words.
MODULES = {c.words: c.module for group in COMMANDS.values() for c in group}


def run(name: str, *arguments: str) -> int | None:
    """Runs `nvae NAME ARGUMENTS`; a UserError is raised.

    Returns:
      The exit status, None where the command does not give one.
    """
    with _imported(name) as (module, _):
        return module.main(flags.FLAGS([name, *arguments]))


def defined_flags(name: str) -> dict[str, tuple[Any, str]]:
    """The flags that a command has by itself: name -> (default, help)."""
    with _imported(name) as (_, names):
        return {n: (flags.FLAGS[n].default, flags.FLAGS[n].help) for n in names}


@contextlib.contextmanager
def _imported(name: str) -> Iterator[tuple[ModuleType, set[str]]]:
    """A command's module, imported anew, and the flags that brought."""
    own = vars(flags.FLAGS)["__flags"]
    before = set(own)
    module_name = f"nvae_tf.commands.{MODULES[name]}"
    sys.modules.pop(module_name, None)
    module = importlib.import_module(module_name)
    try:
        yield module, set(own) - before
    finally:
        for flag in set(own) - before:
            delattr(flags.FLAGS, flag)
        sys.modules.pop(module_name, None)
        flags.FLAGS.unparse_flags()
