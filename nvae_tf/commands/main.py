"""`nvae`: one command for everything, and `python -m nvae_tf` the same."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from nvae_tf.core.errors import USER_ERROR_STATUS, one_line
from nvae_tf.core.streams import printing_may_fail

__all__ = ["COMMANDS", "main"]


class Command(NamedTuple):
    """A subcommand.

    Attributes:
      words: what one types after `nvae`.
      module: within `nvae_tf.commands`; it is imported when the command runs.
      summary: one line.
    """

    words: str
    module: str
    summary: str


COMMANDS = {
    "Train": [
        Command("train", "train", "train a model, or go on with a run"),
        Command(
            "demo", "demo", "train a small model on digits, from end to end"
        ),
        Command(
            "doctor", "doctor", "check this machine, its devices and extras"
        ),
        Command("profile", "profile", "what a profiled run spent its time on"),
    ],
    "Data": [
        Command("data preview", "data.preview", "a picture of training images"),
        Command("data prepare", "data.prepare", "decode images once, ahead"),
    ],
    "Evaluate": [
        Command("eval likelihood", "eval.likelihood", "NELBO, bits/dim, KL"),
        Command("eval samples", "eval.samples", "FID, KID, precision, recall"),
        Command("eval features", "eval.features", "train a feature network"),
        Command("report", "report", "an HTML report of a run"),
    ],
    "Sample and explore": [
        Command("sample", "explore.sample", "draw images"),
        Command(
            "reconstruct", "explore.reconstruct", "images, encoded and back"
        ),
        Command("interpolate", "explore.interpolate", "ways between images"),
        Command("traverse", "explore.traverse", "what single latents do"),
        Command("encode", "explore.encode", "latents and bounds of images"),
        Command("nearest", "explore.nearest", "training images near samples"),
        Command("outliers", "explore.outliers", "the least likely images"),
        Command("play", "play", "a page in the browser to play with"),
        Command("models", "models", "those that come with the project"),
    ],
    "Ship": [
        Command("export savedmodel", "export.savedmodel", "for TF Serving"),
        Command("export onnx", "export.onnx", "without TensorFlow"),
        Command("export web", "export.web", "a page that runs the model"),
        Command("export stablehlo", "export.stablehlo", "for XLA, with JAX"),
        Command("export litert", "export.litert", "for phones, with LiteRT"),
        Command(
            "export checkpoint", "export.checkpoint", "the authors' format"
        ),
        Command("export pretrained", "export.pretrained", "for --model"),
        Command("import", "import_checkpoint", "the authors' checkpoints"),
        Command("verify", "verify", "check an export"),
        Command(
            "client sample", "client.sample", "draw on a TF Serving server"
        ),
        Command(
            "client reconstruct", "client.reconstruct", "reconstruct on it"
        ),
        Command("client score", "client.score", "bounds of images on it"),
    ],
}

_BY_WORDS = {c.words: c for group in COMMANDS.values() for c in group}
_ASKING = ("help", "--help", "-help", "-h", "--helpshort", "--helpfull")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits.

    Args:
      arguments: words and flags, by default the command line's.
    """
    with printing_may_fail():
        _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in _ASKING:
        print(_overview(_BY_WORDS))
        return
    if arguments[0] == "--version":
        import nvae_tf

        print(f"nvae_tf {nvae_tf.__version__}")
        return
    command, rest = _find(arguments)
    module = importlib.import_module(f"nvae_tf.commands.{command.module}")
    from nvae_tf.commands import command_line

    sys.argv = [f"nvae {command.words}", *rest]
    command_line.run(
        module.main, module.__doc__, getattr(module, "POSITIONAL", None)
    )


def _find(arguments: list[str]) -> tuple[Command, list[str]]:
    """The command that the first words name, and what follows them."""
    for count in (2, 1):
        command = _BY_WORDS.get(" ".join(arguments[:count]))
        if command is not None:
            return command, arguments[count:]
    group = [w for w in _BY_WORDS if w.startswith(f"{arguments[0]} ")]
    if group and all(a in _ASKING for a in arguments[1:]):
        print(_overview(group))
        sys.exit(0 if len(arguments) > 1 else USER_ERROR_STATUS)
    words = " ".join(a for a in arguments[:2] if not a.startswith("-"))
    close = difflib.get_close_matches(words, group or list(_BY_WORDS), n=1)
    hint = f" Did you mean nvae {close[0]}?" if close else ""
    print(
        f"error: There is no command nvae {one_line(words, 80)}.{hint} nvae "
        "alone lists them.",
        file=sys.stderr,
    )
    sys.exit(USER_ERROR_STATUS)


def _overview(words) -> str:
    """The commands among `words`, by purpose."""
    lines = ["NVAE, the deep hierarchical variational autoencoder.", ""]
    for title, group in COMMANDS.items():
        shown = [c for c in group if c.words in words]
        if shown:
            lines.append(title)
            lines += [f"  nvae {c.words:20s} {c.summary}" for c in shown]
            lines.append("")
    lines.append("nvae COMMAND --help shows flags and examples.")
    return "\n".join(lines)
