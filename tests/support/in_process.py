"""Commands run within the test's process, which saves TensorFlow's import."""

from __future__ import annotations

import importlib
import sys

from absl import flags

from nvae_tf.commands.main import COMMANDS

_MODULES = {c.words: c.module for group in COMMANDS.values() for c in group}


def run(name: str, *arguments: str) -> int | None:
    """Runs `nvae NAME ARGUMENTS`; a UserError is raised.

    Returns:
      The exit status, None where the command does not give one.
    """
    own = vars(flags.FLAGS)["__flags"]
    before = set(own)
    module_name = f"nvae_tf.commands.{_MODULES[name]}"
    sys.modules.pop(module_name, None)
    module = importlib.import_module(module_name)
    try:
        return module.main(flags.FLAGS([name, *arguments]))
    finally:
        for flag in set(own) - before:
            delattr(flags.FLAGS, flag)
        sys.modules.pop(module_name, None)
        flags.FLAGS.unparse_flags()
