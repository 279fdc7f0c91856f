"""What goes with an export for people (README.md) and programs (JSON)."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from nvae_tf.core.errors import ExportError
from nvae_tf.export.runners import Runner
from nvae_tf.export.served.row_status import MEANINGS
from nvae_tf.export.source import Source
from nvae_tf.runs import model_card
from nvae_tf.sampling.temperatures import as_rows

__all__ = ["check_temperature", "describe", "signature_table", "write_card"]


def check_temperature(temperature: float) -> None:
    """Raises ExportError for what no model can be sampled at."""
    as_rows(temperature, 1, 1, ExportError)


def describe(
    source: Source, temperature: float, precision: str = "float32"
) -> dict[str, Any]:
    """The facts about an export, ready for JSON.

    Args:
      source: what is exported.
      temperature: what it is meant to be sampled at.
      precision: "float32" or "float16".

    Raises:
      ExportError: if the temperature is negative or not finite.
    """
    check_temperature(temperature)
    config = model_card.without_places(source.config)
    return {
        **model_card.describe(config, source.info, precision=precision),
        "weights": source.weights,
        "temperature": temperature,
        "batch_norm": source.batch_norm,
        "source_options": dict(source.options),
        "config": config.to_dict(),
    }


def signature_table(runner: Runner) -> dict[str, dict[str, dict[str, str]]]:
    """Signature -> "inputs" or "outputs" -> name -> dtype and shape."""
    return {
        name: {
            side: {
                key: f"{dtype} {_shape(shape)}"
                for key, (dtype, shape) in specs.items()
            }
            for side, specs in (
                ("inputs", runner.inputs(name)),
                ("outputs", runner.outputs(name)),
            )
        }
        for name in runner.names
    }


def write_card(
    folder: pathlib.Path, facts: Mapping[str, Any], signatures: Mapping
) -> None:
    """Writes README.md and metadata.json into an export's folder.

    Args:
      folder: an existing folder.
      facts: what `describe` returned.
      signatures: what `signature_table` returned.
    """
    metadata = json.dumps({**facts, "signatures": signatures}, indent=2)
    (folder / "metadata.json").write_text(metadata + "\n")
    page = model_card.card(
        facts, facts["config"], _signatures(facts, signatures)
    )
    (folder / "README.md").write_text(page, encoding="utf-8")


def _signatures(facts: Mapping, signatures: Mapping) -> str:
    rows = "\n".join(
        f"| `{name}` | {_list(sides['inputs'])} | {_list(sides['outputs'])} |"
        for name, sides in signatures.items()
    )
    codes = "\n".join(
        f"| {int(code)} | {meaning} |" for code, meaning in MEANINGS.items()
    )
    return f"""\
`metadata.json` holds the whole configuration.

## Signatures

Every input and output has the batch, B, as its first axis.  `temperature` is
[B, {len(facts["latent_shapes"])}], one per image and latent group.  Images are
0 to 255; binary models see 128 and above as 1.

| | inputs | outputs |
|---|---|---|
{rows}

An image depends on its own seed and temperature alone: not on the other rows
of a request, nor on other requests.

`status` tells of every row whether it was served:

| | |
|---|---|
{codes}

A row that was not holds zeros in place of integers, NaN in place of other
numbers and empty files."""


def _list(specs: Mapping[str, str]) -> str:
    """Tensors as text; of a tensor per group the first and the last."""
    parts = []
    for name, text in specs.items():
        _, _, number = name.rpartition("_")
        if number.isdigit() and int(number) > 0:
            following = f"{name[: -len(number)]}{int(number) + 1}"
            if following in specs:
                if parts[-1] != "...":
                    parts.append("...")
                continue
        parts.append(f"`{name}` {text}")
    return ", ".join(parts)


def _shape(shape) -> str:
    if shape is None:
        return "[B] or [B, L]"
    return f"[{', '.join(['B', *map(str, shape[1:])])}]"
