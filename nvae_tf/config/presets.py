"""Presets: the files of `configs/`, by name, and what they are written with.

A preset is a Python file with `get_config(variant=None)`, which returns a
locked `ml_collections.ConfigDict`.  Those that come with the project lie in
`configs/` of a clone and inside an installed package; they are found by name
from any folder.  `nvae_tf.config.run` states every key, its meaning and its
default; nothing is repeated in the presets, so the two cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import pathlib
import runpy
import types
import typing
from typing import Any

from ml_collections import ConfigDict, config_dict

from nvae_tf.config.parsing import config_from_dict
from nvae_tf.config.run import Config
from nvae_tf.core.errors import ConfigError, UserError
from nvae_tf.core.reading import shown

__all__ = [
    "choose",
    "create",
    "find",
    "fit_one_gpu",
    "load",
    "names",
    "read",
    "set_cadence",
    "split_gpu",
    "split_labels",
    "tell_classes",
]

# Memory of one GPU that presets can be fitted to.
_GPUS = ("16gb", "24gb", "80gb")
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def folder() -> pathlib.Path:
    """Where the presets are: inside the package, or beside it in a clone."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """The presets that come with the project."""
    return sorted(path.stem for path in folder().glob("[a-z]*.py"))


def find(preset: str) -> str:
    """The file of a preset, `FILE.py[:VARIANT]`.

    Args:
      preset: a name with or without a variant, such as "cifar10" or
        "cifar10:no_flow", or a file, such as "configs/cifar10.py:no_flow":
        its name ends in .py, or has a folder before it.

    Raises:
      ConfigError: if there is neither such a file nor such a preset.
    """
    name, colon, variant = preset.partition(":")
    # A name alone is that of a preset, whatever lies in the current folder.
    is_path = name.endswith(".py") or pathlib.PurePath(name).name != name
    if is_path and os.path.isfile(name):
        return preset
    stem = name.removesuffix(".py").removeprefix("configs/")
    path = folder() / f"{stem}.py"
    if pathlib.PurePath(stem).name == stem and os.path.isfile(path):
        return f"{path}{colon}{variant}"
    known = names()
    close = difflib.get_close_matches(stem[:80], known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(
        f"There is no configuration file and no preset "
        f"'{shown(name, 240)}'.{hint} "
        f"Presets: {', '.join(known)}."
    )


def read(preset: str) -> ConfigDict:
    """The locked `ConfigDict` of a preset.

    Args:
      preset: see `find`.

    Raises:
      ConfigError: if there is none, or it is not a configuration file.
      UserError: what the file itself finds wrong.
    """
    file, colon, variant = find(preset).partition(":")
    try:
        get_config = runpy.run_path(file)["get_config"]
        values = get_config(variant) if colon else get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        # A file of the user's may raise anything.
        raise ConfigError(
            f"{file} is not a configuration file: {shown(repr(error), 200)}."
        ) from error
    if not isinstance(values, ConfigDict):
        raise ConfigError(
            f"{file} is not a configuration file: its get_config() must "
            "return an ml_collections.ConfigDict."
        )
    return values


def load(preset: str, **changes: Any) -> Config:
    """The configuration of a preset, with changes.

    Args:
      preset: see `find`.
      **changes: values by key with double underscores for dots, such as
        `train__batch_size=8`.

    Raises:
      ConfigError: if there is no such preset or key, or the result is not a
        valid configuration.
    """
    values = read(preset).to_dict()
    for key, value in changes.items():
        *groups, last = key.split("__")
        group = values
        for name in groups:
            group = group.setdefault(name, {})
            if not isinstance(group, dict):
                raise ConfigError(f"{key}: {name} is no group of keys.")
        if isinstance(group.get(last), dict):
            raise ConfigError(
                f"{key} is a group of keys: change each by its own name, "
                f"{key}__KEY."
            )
        group[last] = value
    return config_from_dict(values)


def create(name: str) -> ConfigDict:
    """A locked configuration with the default values, to start a preset from.

    Args:
      name: of the run.
    """
    config = _from_dataclass(Config())
    config.name = name
    return config.lock()


def set_cadence(config: ConfigDict) -> None:
    """Evaluates and saves as often as the authors do in so many epochs.

    Args:
      config: whose `train.epochs` is set; changed in place.
    """
    epochs = config.train.epochs
    config.evaluation.every_epochs = 20 if epochs > 50 else 1
    config.checkpoint.every_epochs = math.ceil(epochs / 100)


def split_gpu(variant: str | None) -> tuple[str | None, str]:
    """A variant and the GPU that it is to be fitted to.

    Args:
      variant: what follows the colon of `--config=NAME:VARIANT`, such as
        "no_flow+24gb", "24gb", "no_flow" or None.

    Returns:
      The variant alone, None for the default, and "16gb", "24gb", "80gb" or
      "" for none; see `fit_one_gpu`.
    """
    rest, plus, gpu = (variant or "").rpartition("+")
    if gpu in _GPUS:
        return (rest if plus else None), gpu
    return variant, ""


def split_labels(variant: str | None) -> tuple[str | None, bool]:
    """A variant, and whether its model is told the classes of the images.

    Args:
      variant: what follows the colon of `--config=NAME:VARIANT`, such as
        "small+labels", "labels", "small" or None.

    Returns:
      The variant alone, None for the default; see `tell_classes`.
    """
    rest, plus, last = (variant or "").rpartition("+")
    if last == "labels":
        return (rest if plus else None), True
    return variant, False


def tell_classes(config: ConfigDict, num_classes: int) -> None:
    """Has the model told the class of every image.

    Args:
      config: changed in place.
      num_classes: of the images.
    """
    config.data.labels = True
    config.model.num_classes = num_classes
    config.name += "_labels"


def fit_one_gpu(
    config: ConfigDict,
    gpu: str,
    images_per_step: int,
    fits: dict[str, tuple[int, str]],
) -> None:
    """Has one GPU take the steps of the paper's run on several.

    As many images as fit are a pass, and as many passes a step as make up the
    paper's batch; batch normalisation sees those of a pass.  docs/gpu.md has
    the memory that XLA predicts.

    Args:
      config: changed in place.
      gpu: of `split_gpu`; "" changes nothing.
      images_per_step: of the paper's run, over all its GPUs.
      fits: by GPU, images of a pass and what is recomputed.
    """
    if not gpu:
        return
    batch_size, config.recompute = fits[gpu]
    config.train.update(
        batch_size=batch_size, accumulate=images_per_step // batch_size
    )
    # GPUs of 16 GB may be too old for bfloat16.
    config.precision = "mixed_float16" if gpu == "16gb" else "mixed_bfloat16"
    config.name += f"_{gpu}"


def choose(variant: str | None, *known: str) -> str:
    """The variant that `--config=NAME:VARIANT` asks for.

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
            f"There is no variant '{shown(variant)}' of this configuration; "
            "choose "
            f"one of {', '.join(known)}."
        )
    return variant


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
