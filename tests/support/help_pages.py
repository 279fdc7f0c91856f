"""Prints, as JSON, what every command says under `--help`, in one process.

It needs nothing of the tests, so that it runs where the package is installed.
"""

import contextlib
import io
import json
import sys
import traceback

from absl import flags

from nvae_tf.commands.main import COMMANDS, main


def pages() -> dict[str, dict]:
    """By the words of the command: "status", "text", and "flags" by name."""
    return {
        command.words: _page(command.words)
        for group in COMMANDS.values()
        for command in group
    }


def _page(words: str) -> dict:
    own = vars(flags.FLAGS)["__flags"]
    before = set(own)
    text = io.StringIO()
    status = None
    with contextlib.redirect_stdout(text):
        try:
            main([*words.split(), "--help"])
        except SystemExit as ending:
            status = ending.code
        except ImportError:
            traceback.print_exc(file=text)
    new = {name: flags.FLAGS[name] for name in set(own) - before}
    owners = {n: flags.FLAGS.find_module_defining_flag(n) for n in new}
    for name in new:
        delattr(flags.FLAGS, name)
    return {
        "status": status,
        "text": text.getvalue(),
        "flags": {
            name: {"type": flag.flag_type(), "help": flag.help}
            for name, flag in new.items()
            # Neither absl's own nor the keys of a configuration.
            if owners[name].startswith("nvae_tf") and "." not in name
        },
    }


if __name__ == "__main__":
    json.dump({"pages": pages(), "modules": sorted(sys.modules)}, sys.stdout)
