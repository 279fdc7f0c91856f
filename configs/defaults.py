"""What the configurations share, and how they choose a variant.

`nvae_tf.config` states every key, its meaning and its default; nothing is
repeated here, so the two cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import types
import typing

from ml_collections import ConfigDict, config_dict

from nvae_tf.config import Config
from nvae_tf.errors import ConfigError

__all__ = ["choose", "create", "get_config"]


def create(name: str) -> ConfigDict:
    """A locked configuration with the default values.

    Args:
      name: of the run.
    """
    config = _from_dataclass(Config())
    config.name = name
    return config.lock()


def choose(variant: str | None, *known: str) -> str:
    """The variant that `--config=FILE.py:VARIANT` asks for.

    Args:
      variant: what follows the colon, or None.
      *known: the variants of the file; the first is its default.

    Raises:
      ConfigError: if there is no such variant.
    """
    if variant is None:
        return known[0]
    if variant not in known:
        raise ConfigError(
            f"There is no variant {variant!r} of this configuration; choose "
            f"one of {', '.join(known)}."
        )
    return variant


def get_config(variant: str | None = None) -> ConfigDict:
    """The bare defaults, a starting point for a configuration of one's own."""
    choose(variant, "defaults")
    return create("nvae")


def _from_dataclass(value) -> ConfigDict:
    hints = typing.get_type_hints(type(value))
    config = ConfigDict()
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        hint = hints[field.name]
        if dataclasses.is_dataclass(item):
            item = _from_dataclass(item)
        elif isinstance(hint, types.UnionType):
            # None has no type that a flag's text could be converted to: a
            # placeholder remembers it.
            (kind,) = set(typing.get_args(hint)) - {type(None)}
            placeholder = config_dict.placeholder(kind)
            placeholder.set(item)
            item = placeholder
        config[field.name] = item
    return config
