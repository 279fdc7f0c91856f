"""How the arguments of the authors' program compare with a configuration."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from nvae_tf.authors.reference_config import (
    MODEL_FIELDS,
    OLD_DEFAULTS,
    TRAIN_FIELDS,
    plain_arguments,
)
from nvae_tf.config import Config, ModelConfig
from nvae_tf.core.errors import ConfigError
from nvae_tf.core.reading import shown

__all__ = [
    "Row",
    "comparison",
    "differences",
    "format_table",
    "require_same",
    "unused",
]

_ABSENT = "-"
_CELL = 60
_MOST_NAMES = 100
# Arguments that are read, but not one to one.
_DERIVED = (
    "dataset",
    "num_x_bits",
    "num_mixture_dec",
    "weight_decay_norm_init",
    "weight_decay_norm_anneal",
    "num_postprocess_blocks",
)


class Row(typing.NamedTuple):
    """One line of the comparison; all text.

    Attributes:
      argument: their name, "-" where they have none.
      theirs: its value.
      key: of our configuration.
      ours: its value.
      note: why the two differ, or where ours comes from.
    """

    argument: str
    theirs: str
    key: str
    ours: str
    note: str


def comparison(args: Any, own: Config, run: Config) -> list[Row]:
    """Every argument that counts beside what the workdir has for it.

    Args:
      args: of the checkpoint.
      own: what the checkpoint alone describes, see `config_from_reference`.
      run: what the workdir is given.
    """
    given = plain_arguments(args)
    values = {**OLD_DEFAULTS, **given}

    def row(argument, key, note=""):
        expected, value = _get(own, key), _get(run, key)
        if argument in OLD_DEFAULTS and argument not in given:
            note = "absent: what older checkpoints mean"
        elif argument != _ABSENT and argument not in given:
            note = "absent: our default"
        if value != expected:
            note = (
                "given"
                if argument == _ABSENT
                else f"changed; the checkpoint has {_cell(expected)}"
            )
        theirs = _cell(values[argument]) if argument in values else _ABSENT
        return Row(argument, theirs, key, _cell(value), note)

    rows = [row(t, f"model.{ours}") for t, ours in MODEL_FIELDS.items()]
    rows += [
        row(_ABSENT, f"model.{name}", "from the shapes of the tensors")
        for name in ("image_size", "image_channels")
    ]
    rows += [
        row("dataset", "model.likelihood", "with num_mixture_dec"),
        row("dataset", "model.padding"),
        row("num_mixture_dec", "model.num_mixtures"),
        row("num_x_bits", "model.num_bits"),
    ]
    rows += [
        row("dataset", f"data.{name}")
        for name in ("source", "name", "binarize", "resize", "flip")
    ]
    rows += [
        row(_ABSENT, f"data.{name}", "to be given: no checkpoint tells")
        for name in ("path", "data_dir")
    ]
    rows += [row(t, f"train.{ours}") for t, ours in TRAIN_FIELDS.items()]
    rows.append(
        row(
            "weight_decay_norm_init",
            "train.regularization_init",
            "if weight_decay_norm_anneal",
        )
    )
    rows.append(row(_ABSENT, "precision", "the weights are float32"))
    return rows


def unused(args: Any) -> list[str]:
    """Arguments that nothing here corresponds to; of very many the first."""
    known = {*MODEL_FIELDS, *TRAIN_FIELDS, *_DERIVED}
    names = sorted(plain_arguments(args).keys() - known)
    return [shown(name) for name in names[:_MOST_NAMES]]


def differences(checkpoint: ModelConfig, given: ModelConfig) -> list[str]:
    """Keys in which two architectures differ, with both values.

    Keys that decide nothing in either are left out.
    """
    ignored = set()
    if checkpoint.groups_per_scale == given.groups_per_scale:
        ignored |= {"adaptive_groups", "min_groups_per_scale"}
        if checkpoint.num_latent_scales == 1:
            ignored.add("num_groups_per_scale")
    if "mixture" not in (checkpoint.likelihood, given.likelihood):
        ignored.add("num_mixtures")
    a, b = (dataclasses.asdict(m) for m in (checkpoint, given))
    return [
        f"model.{key} ({a[key]!r} in the checkpoint, {b[key]!r} given)"
        for key in a
        if key not in ignored and a[key] != b[key]
    ]


def require_same(checkpoint: ModelConfig, given: ModelConfig, path) -> None:
    """Raises ConfigError with all `differences`, if there are any."""
    found = differences(checkpoint, given)
    if found:
        raise ConfigError(
            f"The architecture of --config is not that of {path}; it differs "
            f"in {', '.join(found)}. Choose another file or variant, or "
            "correct the keys with --config.KEY=VALUE."
        )


def format_table(rows: list[Row]) -> str:
    """The rows as aligned text with a heading."""
    table = [Row("checkpoint's args", "", "workdir's config", "", ""), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in table
    )


def _cell(value: Any) -> str:
    """A value as Python writes it; a text in quotes."""
    text = shown(value, _CELL)
    return repr(text) if isinstance(value, str) else text


def _get(config: Config, key: str):
    value = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
