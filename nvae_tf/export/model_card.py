"""What goes with an export for people (README.md) and programs (JSON)."""

import datetime
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from nvae_tf import __version__
from nvae_tf.export.runners import Runner
from nvae_tf.export.source import Source

__all__ = ["describe", "signature_table", "write_card"]


def describe(
    source: Source, temperature: float, precision: str = "float32"
) -> dict[str, Any]:
    """The facts about an export, ready for JSON.

    Args:
      source: what is exported.
      temperature: what it is meant to be sampled at.
      precision: "float32" or "float16".
    """
    config = source.config.to_dict()
    # Where the data lay is nobody's business.
    for key in ("path", "data_dir"):
        config["data"][key] = pathlib.PurePath(config["data"][key]).name
    model = source.config.model
    nelbo = source.info.get("nelbo")
    return {
        "name": source.config.name,
        "nvae_tf_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(
            timespec="seconds"
        ),
        "step": source.info.get("step"),
        "nelbo": nelbo,
        "bits_per_dim": None
        if nelbo is None
        else nelbo / (math.log(2) * model.num_dimensions),
        "temperature": temperature,
        "batch_norm": source.batch_norm,
        "weights": source.weights,
        "source_options": dict(source.options),
        "precision": precision,
        "image_shape": [model.image_size] * 2 + [model.image_channels],
        "num_bits": model.num_bits,
        "likelihood": model.likelihood,
        "latent_shapes": [list(shape) for shape in model.latent_shapes],
        "config": config,
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
    (folder / "README.md").write_text(_card(facts, signatures))


def _card(facts: Mapping, signatures: Mapping) -> str:
    config = facts["config"]
    data = config["data"]
    height, width, channels = facts["image_shape"]
    nelbo = (
        "not measured"
        if facts["nelbo"] is None
        else f"{facts['nelbo']:.2f} nats, {facts['bits_per_dim']:.4f} "
        "bits per dimension (upper bound on the negative log-likelihood)"
    )
    step = "unknown" if facts["step"] is None else f"{facts['step']}"
    bias = _BIAS.format(temperature=facts["temperature"])
    rows = "\n".join(
        f"| `{name}` | {_list(sides['inputs'])} | {_list(sides['outputs'])} |"
        for name, sides in signatures.items()
    )
    latents = ", ".join(
        "x".join(map(str, shape)) for shape in facts["latent_shapes"]
    )
    return f"""\
# {facts["name"]}

A generative model of images: an NVAE (Vahdat & Kautz, 2020, arXiv 2007.03898),
exported by nvae_tf {facts["nvae_tf_version"]} on {facts["created"]}.

| | |
|---|---|
| data | {_data(data)} |
| images | {height} x {width}, {channels} channel(s), \
{facts["num_bits"]} bit(s) per channel |
| likelihood | {facts["likelihood"]} |
| held-out NELBO | {nelbo} |
| training step | {step} |
| weights | {facts["weights"]} |
| batch normalisation | {facts["batch_norm"]} |
| temperature | meant to be sampled at {facts["temperature"]:g} |
| architecture | {config["model"]["architecture"]}, \
{len(facts["latent_shapes"])} latent groups, top-down: {latents} |

`metadata.json` holds the whole configuration.

## Signatures

Every input and output has the batch, B, as its first axis.  `temperature` is
[B], one per image, or [B, {len(facts["latent_shapes"])}], one per image and \
latent group; requests that a server
may merge into one batch must all use the same form.  Images are 0 to 255;
binary models see 128 and above as 1.

| | inputs | outputs |
|---|---|---|
{rows}

{bias}"""


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


def _data(data: Mapping) -> str:
    name = data["name"] or data["path"]
    binarized = ", binarised" if data["binarize"] else ""
    return f"{data['source']}{f' ({name})' if name else ''}{binarized}"


def _shape(shape) -> str:
    if shape is None:
        return "[B] or [B, L]"
    return f"[{', '.join(['B', *map(str, shape[1:])])}]"


_BIAS = """\
An image depends on its own seed and temperature alone: not on the other rows
of a request, nor on other requests.

## Limits and bias

The model imitates its training data: what is rare there is rare or distorted
here, and what is unfairly represented there stays so.  Temperatures below 1,
such as {temperature:g}, favour the typical further.  Images of people, should
it make any, show nobody, but can resemble somebody in the training data.  Do
not use them to deceive, nor scores to judge anything about a person.

## Licence

The program that made this export is under the Apache License 2.0.  The weights
are derived from the training data: that data's terms apply to them.  State them
here before you pass the export on.
"""
