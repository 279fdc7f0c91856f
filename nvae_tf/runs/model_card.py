"""What goes with a model that leaves its workdir, for people and programs.

The facts are plain values, as JSON holds them: in the header of a pretrained
model's weights, in an export's `metadata.json` or its ONNX files.  The card,
README.md, is written from them: a header of YAML that Hugging Face's hub
reads, and a page.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from nvae_tf import __version__
from nvae_tf.config import Config
from nvae_tf.core.errors import UserError, one_line
from nvae_tf.core.json_files import read_json
from nvae_tf.core.reading import shown

__all__ = [
    "card",
    "card_values",
    "checked",
    "data_text",
    "describe",
    "read_card",
    "without_places",
]

_TASK = "unconditional-image-generation"
# Hugging Face's word for terms that nobody has stated.
_UNKNOWN = "unknown"
_LICENSE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.+-]{0,63}")
_CARD = ("name", "license", "datasets", "description")
_LONGEST = 10_000
_MOST = 100


def read_card(path: str | os.PathLike) -> dict[str, Any]:
    """`card_values` of a JSON file.

    Raises:
      UserError: if it cannot be read, or is none.
    """
    values = read_json(path, UserError, advice="give a file of JSON")
    try:
        return card_values(values)
    except ValueError as error:
        raise UserError(f"{path} is no card: {error}.") from error


def card_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What only people know of a model, for `describe`.

    Args:
      values: any of "name"; "license", of the weights, as an SPDX identifier
        such as "cc-by-sa-3.0"; "datasets", a list of the hub's names; and
        "description", in Markdown.

    Raises:
      ValueError: with what is wrong, in a few words.
    """
    unknown = sorted(str(key) for key in values if key not in _CARD)
    if unknown:
        raise ValueError(
            f"it has {shown(unknown[0])!r}; known are {', '.join(_CARD)}"
        )
    return checked(values)


def without_places(config: Config) -> Config:
    """A configuration that does not tell where data and models lay."""
    data, train = config.data, config.train
    initial_model = train.initial_model
    is_folder = pathlib.PurePath(initial_model).name != initial_model
    if is_folder and not initial_model.startswith("hf://"):
        initial_model = ""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            data,
            path=pathlib.PurePath(data.path).name,
            data_dir=pathlib.PurePath(data.data_dir).name,
        ),
        train=dataclasses.replace(train, initial_model=initial_model),
    )


def describe(
    config: Config, info: Mapping[str, Any], *, precision: str = "float32"
) -> dict[str, Any]:
    """The facts about a model, ready for JSON.

    Args:
      config: of its run.
      info: what is known of its weights: any of "step", "ema", "nelbo"
        (nats), "metrics" (of `nvae_tf.runs.measured.metrics_of`) and what
        `card_values` returned.
      precision: in which its weights are written.
    """
    model = config.model
    nelbo = info.get("nelbo")
    return {
        "name": info.get("name") or config.name,
        "nvae_tf_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(
            timespec="seconds"
        ),
        "license": info.get("license", ""),
        "datasets": list(info.get("datasets", ())),
        "description": info.get("description", ""),
        "step": info.get("step"),
        "ema": bool(info.get("ema")),
        "weights": "exponential average" if info.get("ema") else "as trained",
        "nelbo": nelbo,
        "bits_per_dim": None
        if nelbo is None
        else nelbo / (math.log(2) * model.num_dimensions),
        "metrics": list(info.get("metrics", ())),
        "precision": precision,
        "image_shape": [model.image_size] * 2 + [model.image_channels],
        "num_bits": model.num_bits,
        "likelihood": model.likelihood,
        "latent_shapes": [list(shape) for shape in model.latent_shapes],
        **({"num_classes": model.num_classes} if model.num_classes else {}),
    }


def checked(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that stay with a model when it is loaded, from a stranger.

    Args:
      facts: plain values of any kind; what is not known is left out.

    Raises:
      ValueError: if one has another kind than `describe` gives it.
    """
    kept = {}
    for name, is_right in _KINDS.items():
        value = facts.get(name)
        if value is None:
            continue
        if not is_right(value):
            raise ValueError(f"it says {shown(value)} under {name!r}")
        kept[name] = value
    return kept


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_text(value: object, most: int = 200) -> bool:
    return isinstance(value, str) and len(value) <= most


def _is_line(value: object) -> bool:
    return _is_text(value) and value.isprintable()


def _are(is_right, value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) <= _MOST
        and all(map(is_right, value))
    )


def _is_metric(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_line(value.get(k)) for k in ("type", "name", "split"))
        and _is_number(value.get("value"))
        and isinstance(value.get("settings"), dict)
        and len(value["settings"]) <= _MOST
        and all(
            _is_line(key) and (item is None or _is_plain(item))
            for key, item in value["settings"].items()
        )
    )


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, bool)
        or _is_number(value)
        or _is_line(value)
        or _are(_is_number, value)
    )


_KINDS = {
    "name": _is_line,
    "license": lambda v: isinstance(v, str) and (not v or _is_license(v)),
    "datasets": lambda v: _are(_is_line, v),
    "description": lambda v: _is_text(v, _LONGEST),
    "step": _is_count,
    "ema": lambda v: type(v) is bool,
    "nelbo": _is_number,
    "bits_per_dim": _is_number,
    "metrics": lambda v: _are(_is_metric, v),
    "precision": _is_line,
    "parameters": _is_count,
    "sha256": _is_line,
    "num_classes": _is_count,
}


def _is_license(value: str) -> bool:
    return _LICENSE.fullmatch(value) is not None


def card(
    facts: Mapping[str, Any], config: Config | Mapping, *parts: str
) -> str:
    """The page, with its header.

    Args:
      facts: what `describe` returned, or more.
      config: of the run, or what its `to_dict` returned.
      *parts: sections in Markdown, between what is measured and the limits.
    """
    values = config if isinstance(config, Mapping) else config.to_dict()
    sections = [
        f"# {facts['name']}",
        facts["description"].strip(),
        f"A generative model of images: an NVAE (Vahdat & Kautz, 2020, arXiv "
        f"2007.03898),\nwritten by nvae_tf {facts['nvae_tf_version']} on "
        f"{facts['created']}.",
        _table(facts, values),
        _measured(facts["metrics"], facts["precision"]),
        *(part.strip() for part in parts),
        _LIMITS.format(temperature=facts.get("temperature", 0.7)),
        _license_text(facts["license"]),
    ]
    text = "\n\n".join(section for section in sections if section)
    return f"---\n{_header(facts, values)}---\n\n{text}\n"


def _header(facts: Mapping[str, Any], config: Mapping) -> str:
    """The YAML that stands between two lines of dashes."""
    name = one_line(facts["name"], 200)
    datasets = [one_line(d, 200) for d in facts["datasets"]]
    header: dict[str, Any] = {
        "library_name": "nvae_tf",
        "pipeline_tag": _TASK,
        "license": facts["license"] or _UNKNOWN,
        "tags": ["nvae", "vae", "image-generation"],
    }
    if facts.get("num_classes"):
        header["tags"].append("class-conditional")
    if datasets:
        header["datasets"] = datasets
    task = {"type": _TASK, "name": "Unconditional Image Generation"}
    dataset = datasets[0] if datasets else one_line(data_text(config), 200)
    results = [
        {
            "task": task,
            "dataset": {"type": dataset, "name": dataset, "split": split},
            "metrics": [
                {
                    "type": metric["type"],
                    "name": metric["name"],
                    "value": metric["value"],
                    "args": _plain(metric["settings"]),
                }
                for metric in facts["metrics"]
                if metric["split"] == split
            ],
        }
        for split in dict.fromkeys(m["split"] for m in facts["metrics"])
    ]
    if results:
        header["model-index"] = [{"name": name, "results": results}]
    return yaml.dump(
        header, Dumper=_Dumper, sort_keys=False, allow_unicode=True
    )


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice: not every reader knows references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if v is not None}


def _table(facts: Mapping, config: Mapping) -> str:
    height, width, channels = facts["image_shape"]
    latents = ", ".join(
        "x".join(map(str, shape)) for shape in facts["latent_shapes"]
    )
    nelbo = (
        "not measured"
        if facts["nelbo"] is None
        else f"{facts['nelbo']:.2f} nats, {facts['bits_per_dim']:.4f} "
        "bits per dimension (upper bound on the negative log-likelihood)"
    )
    rows = {
        "data": data_text(config),
        "images": f"{height} x {width}, {channels} channel(s), "
        f"{facts['num_bits']} bit(s) per channel",
        "likelihood": facts["likelihood"],
        "held-out NELBO, in training": nelbo,
        "training step": "unknown" if facts["step"] is None else facts["step"],
        "weights": f"{facts['weights']}, {facts['precision']}",
        "architecture": f"{config['model']['architecture']}, "
        f"{len(facts['latent_shapes'])} latent groups, top-down: {latents}",
    }
    if facts.get("num_classes"):
        rows["classes"] = f"{facts['num_classes']}, of which it is told one"
    if "parameters" in facts:
        rows["weights and statistics"] = f"{facts['parameters']:,}"
    if "batch_norm" in facts:
        rows["batch normalisation"] = facts["batch_norm"]
    if "temperature" in facts:
        rows["temperature"] = f"meant to be sampled at {facts['temperature']:g}"
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _measured(metrics: Sequence[Mapping[str, Any]], precision: str) -> str:
    if not metrics:
        return ""
    note = (
        ""
        if precision == "float32"
        else f"\n\nMeasured before the weights were rounded to {precision}."
    )
    lines = [
        "## Measured",
        "",
        "| | value | split | how |",
        "|---|---|---|---|",
    ]
    for metric in metrics:
        how = ", ".join(
            f"{name.replace('_', ' ')} {_short(value)}"
            for name, value in _plain(metric["settings"]).items()
        )
        lines.append(
            f"| {metric['name']} | {_short(metric['value'])} | "
            f"{metric['split']} | {how} |"
        )
    return "\n".join(lines) + note


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def data_text(config: Mapping) -> str:
    """What a model was trained on, in a few words.

    Args:
      config: what `Config.to_dict` returned.
    """
    data = config["data"]
    name = data["name"] or pathlib.PurePath(data["path"]).name
    binarized = ", binarised" if data["binarize"] else ""
    return f"{data['source']}{f' ({name})' if name else ''}{binarized}"


def _license_text(license_name: str) -> str:
    weights = (
        f"The weights are under {license_name}."
        if license_name
        else "The weights are derived from the training data: that data's "
        "terms apply to them.\nState them here before you pass the model on."
    )
    return (
        "## Licence\n\nThe program that made this is under the Apache License "
        f"2.0.\n{weights}"
    )


_LIMITS = """\
## Limits and bias

The model imitates its training data: what is rare there is rare or distorted
here, and what is unfairly represented there stays so.  Temperatures below 1,
such as {temperature:g}, favour the typical further.  Images of people, should
it make any, show nobody, but can resemble somebody in the training data.  Do
not use them to deceive, nor scores to judge anything about a person."""
