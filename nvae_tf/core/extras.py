"""Packages of the optional extras, and what to do where one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from nvae_tf.core.errors import DataError, UserError

__all__ = [
    "EXTRAS",
    "how_to_install",
    "is_installed",
    "missing",
    "require",
    "require_installed",
]

# What each extra of pyproject.toml brings, by the names to import.
EXTRAS = {
    "data": ("tensorflow_datasets", "array_record", "importlib_resources"),
    "hub": ("huggingface_hub",),
    "litert": ("ai_edge_litert",),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "report": ("jinja2", "matplotlib"),
    "serving": ("grpc", "tensorflow_serving", "urllib3"),
    "stablehlo": ("jax",),
    "video": ("av",),
}


def how_to_install(extra: str) -> str:
    """The command that installs an extra: nvae_tf is on no package index."""
    return (
        f'pip install ".[{extra}]" in a clone of nvae_tf, or pip install '
        f'"FILE.whl[{extra}]" with the file of its wheel'
    )


def is_installed(module: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(module) is not None


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if not is_installed(name)]


def require(
    module: str,
    extra: str,
    purpose: str,
    error: type[UserError] = DataError,
) -> ModuleType:
    """Imports a package that only some commands need.

    Args:
      module: what to import.
      extra: the extra of this package that brings it.
      purpose: what needs it, the start of the message.
      error: what is raised.

    Raises:
      UserError: `error`, if it is not installed; the message names the extra
        and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise error(_advice(module, extra, purpose, problem)) from problem


def require_installed(extra: str, purpose: str, *packages: str) -> None:
    """Refuses as `require` does, without the import, which may take seconds.

    Args:
      extra: see `require`.
      purpose: likewise.
      *packages: which of the extra's are needed; all if none is named.

    Raises:
      DataError: if one of them is not installed.
    """
    for package in missing(extra):
        if not packages or package in packages:
            problem = f"No module named {package!r}"
            raise DataError(_advice(package, extra, purpose, problem))


def _advice(module: str, extra: str, purpose: str, problem: object) -> str:
    return (
        f"{purpose} needs the package {module.partition('.')[0]!r} "
        f"({problem}), which the extra {extra!r} brings: "
        f"{how_to_install(extra)}."
    )
