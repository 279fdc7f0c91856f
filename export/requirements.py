"""Packages that only some exports need."""

import importlib
import types

from export.errors import ExportError

__all__ = ["require"]


def require(name: str, extra: str, purpose: str) -> types.ModuleType:
    """Imports a package of one of the project's extras.

    Args:
      name: of the module.
      extra: of the project, which installs it.
      purpose: what it is needed for, the start of a sentence.

    Returns:
      The module.

    Raises:
      ExportError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"{purpose} needs the package {name.partition('.')[0]}; install "
            f'it with pip install "nvae_tf[{extra}]".'
        ) from error
