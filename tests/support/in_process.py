"""Commands run within the test's process, which saves TensorFlow's import."""

from __future__ import annotations

import importlib
import sys
import types

from absl import flags


def run(name: str, *arguments: str) -> types.ModuleType:
    """Runs `python -m nvae_tf.NAME ARGUMENTS`; a UserError is raised.

    Returns:
      The command's module, whose flags last until the next command.
    """
    own = vars(flags.FLAGS)["__flags"]
    before = set(own)
    module_name = f"nvae_tf.{name}"
    sys.modules.pop(module_name, None)
    module = importlib.import_module(module_name)
    try:
        flags.FLAGS([name, *arguments])
        module.main([name])
    finally:
        for flag in set(own) - before:
            delattr(flags.FLAGS, flag)
        sys.modules.pop(module_name, None)
        flags.FLAGS.unparse_flags()
    return module
