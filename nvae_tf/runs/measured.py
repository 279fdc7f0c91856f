"""What the evaluations in a workdir have found, ready for a model's card."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from nvae_tf.core.json_files import read_json_lines

__all__ = ["metrics_of"]

# What a number depends on.
_SETTINGS = (
    "num_images",
    "num_importance_samples",
    "seed",
    "features",
    "num_samples",
    "num_real",
    "temperature",
    "readjust_bn",
)
# What tells evaluations of samples apart.
_SAMPLES = ("features", "split", "temperature", "readjust_bn", "num_samples")


def metrics_of(
    workdir: str | os.PathLike, step: int, ema: bool
) -> list[dict[str, Any]]:
    """What is known of one state of a model.

    The estimate of -log p(x) is there for every K.  Of evaluations with the
    same K, or of samples drawn in the same way, the latest counts.

    Args:
      workdir: of the run.
      step: of the checkpoint.
      ema: whether the weights were the average.

    Returns:
      For each number a dict: its "type" and "name", its "value", the "split"
      of the data that it is about and the "settings" that it depends on.
    """
    folder = pathlib.Path(workdir)
    found = [
        *_likelihoods(_records(folder / "evaluation.jsonl", step, ema)),
        *_sample_quality(_records(folder / "sample_quality.jsonl", step, ema)),
    ]
    return [metric for metric in found if metric is not None]


def _likelihoods(records: list[dict[str, Any]]) -> Iterator[dict | None]:
    by_split: dict[str, dict[int, dict[str, Any]]] = {}
    for record in records:
        k = record.get("num_importance_samples")
        if type(k) is int and k > 0:
            by_split.setdefault(record["split"], {})[k] = record
    for by_k in by_split.values():
        # The bound is a mean over the draws: of the most it is the surest.
        most = by_k[max(by_k)]
        yield _metric("nelbo", "NELBO, nats", most)
        yield _metric("bits_per_dim", "NELBO, bits/dim", most)
        for k, record in sorted(by_k.items()):
            name = f"-log p(x), K = {k:,}"
            yield _metric("nll", f"{name}, nats", record)
            yield _metric("nll_bits_per_dim", f"{name}, bits/dim", record)


def _sample_quality(records: list[dict[str, Any]]) -> Iterator[dict | None]:
    latest = {json.dumps([r.get(k) for k in _SAMPLES]): r for r in records}
    for record in latest.values():
        if "fid" in record:
            yield _metric("fid", "FID", record)
        else:
            # Of another network than published ones.
            yield _metric("frechet_distance", "Frechet distance", record)
        yield _metric("kid", "KID", record)
        yield _metric("precision", "precision", record)
        yield _metric("recall", "recall", record)


def _metric(kind: str, name: str, record: Mapping[str, Any]) -> dict | None:
    """A number of a record; None where there is none."""
    value = record.get(kind)
    if type(value) not in (int, float) or not math.isfinite(value):
        return None
    settings = {k: record[k] for k in _SETTINGS if record.get(k) is not None}
    if "features" in settings:
        # Where a network lay is nobody's business.
        path = pathlib.PurePath(str(settings["features"]))
        settings["features"] = path.name
    error = record.get(f"{kind}_standard_error")
    if error is not None:
        settings["standard_error"] = error
    return {
        "type": kind,
        "name": name,
        "value": value,
        "split": record["split"],
        "settings": settings,
    }


def _records(path: pathlib.Path, step: int, ema: bool) -> list[dict[str, Any]]:
    """The records of one state."""
    return [
        record
        for record in read_json_lines(path)
        if (record.get("step"), record.get("ema")) == (step, ema)
        and isinstance(record.get("split"), str)
    ]
