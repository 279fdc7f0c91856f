"""From nested mappings to the dataclasses of a configuration.

What is read here may come from a stranger, in the `config.json` of a workdir
or the arguments of a checkpoint: types are checked, not guessed.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping
from typing import Any

from nvae_tf.config.run import Config
from nvae_tf.core.errors import ConfigError
from nvae_tf.core.reading import shown

__all__ = ["config_from_dict"]

_LONGEST_TEXT = 4096
_LONGEST_LIST = 100


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Builds the frozen, validated configuration of a run.

    Args:
      values: a (nested) mapping, such as a `ConfigDict` or parsed JSON.  Keys
        left out take their defaults.

    Raises:
      ConfigError: for an unknown key, a wrong type or impossible values.
    """
    return _build(Config, values, "")


def _build(cls, values: Mapping[str, Any], prefix: str):
    if not isinstance(values, Mapping) and not hasattr(values, "items"):
        raise ConfigError(
            f"config.{prefix.rstrip('.')} must be a group of keys, not "
            f"{shown(values)}."
        )
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            name = shown(key)
            close = difflib.get_close_matches(name, hints, n=1)
            hint = f" Did you mean {prefix}{close[0]}?" if close else ""
            raise ConfigError(
                f"Unknown config key {prefix}{name}.{hint} Known keys: "
                f"{', '.join(hints)}."
            )
        arguments[key] = _convert(hints[key], value, f"{prefix}{key}")
    return cls(**arguments)


def _convert(kind, value, name: str):
    """Returns `value` as a `kind`, without guessing."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{name}.")
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or len(value) > _LONGEST_LIST:
            raise ConfigError(
                f"{name} must be a list of at most {_LONGEST_LIST} values, not "
                f"{shown(value)}."
            )
        element = typing.get_args(kind)[0]
        return tuple(_convert(element, item, name) for item in value)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and is_integer and -(2**63) <= value < 2**63:
        return float(value)
    matches = is_integer if kind is int else isinstance(value, kind)
    if not matches:
        raise ConfigError(
            f"{name} must be of type {kind.__name__}, not {shown(value)}."
        )
    if kind is str and not _is_text(value):
        raise ConfigError(f"{name} cannot be {shown(value)!r}.")
    return value


def _is_text(value: str) -> bool:
    """Whether this can be a name, also of a file."""
    try:
        return len(os.fsencode(value)) <= _LONGEST_TEXT and "\0" not in value
    except UnicodeEncodeError:
        return False
