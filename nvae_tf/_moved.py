"""What `python -m nvae_tf.NAME` was called before there was `nvae`."""

import itertools
import sys

from nvae_tf.core.errors import USER_ERROR_STATUS

__all__ = ["MODULES", "explain"]

_COMMANDS = {
    "demo": "demo",
    "encode": "encode",
    "evaluate": "eval likelihood",
    "evaluate_samples": "eval samples",
    "export_checkpoint": "export checkpoint",
    "import_checkpoint": "import",
    "interpolate": "interpolate",
    "nearest": "nearest",
    "outliers": "outliers",
    "prepare_data": "data prepare",
    "preview_data": "data preview",
    "profile_summary": "profile",
    "reconstruct": "reconstruct",
    "report": "report",
    "sample": "sample",
    "train_features": "eval features",
    "traverse": "traverse",
}

# Modules that README showed, as attributes of the package.
MODULES = {
    "losses": "nvae_tf.model.losses",
    "reference_export": "nvae_tf.authors.reference_export",
    "reference_import": "nvae_tf.authors.reference_import",
}


def explain(arguments: list[str]) -> None:
    """Ends the process if it was started by a name of before.

    Args:
      arguments: `sys.orig_argv`.
    """
    for option, module in itertools.pairwise(arguments):
        package, _, name = module.partition(".")
        if option == "-m" and package == "nvae_tf" and name in _COMMANDS:
            print(
                f"error: python -m {module} is nvae {_COMMANDS[name]} now, "
                "with the same flags; nvae alone lists all commands.",
                file=sys.stderr,
            )
            sys.exit(USER_ERROR_STATUS)
        if option == "-m":
            return
