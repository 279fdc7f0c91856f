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
    "features_fingerprint",
    "num_samples",
    "num_real",
    "temperature",
    "readjust_bn",
    "pixels",
    "computed_in",
)
# What tells evaluations of samples apart, but for `computed_in`.
_SAMPLES = (
    "features",
    "features_fingerprint",
    "split",
    "temperature",
    "readjust_bn",
    "pixels",
    "num_samples",
    "num_real",
)
# What commands compute in unless they are told otherwise.
_USUAL = "float32"


def metrics_of(
    workdir: str | os.PathLike, step: int, ema: bool
) -> list[dict[str, Any]]:
    """What is known of one state of a model.

    The estimate of -log p(x) is there for every K, and what was computed in
    another precision than float32 stands beside, after it.  Of evaluations
    with the same K that of the most images counts, a quick look does not
    replace it; of several, and of samples drawn and compared in the same way,
    the latest.

    Args:
      workdir: of the run.
      step: of the checkpoint.
      ema: whether the weights were the average.

    Returns:
      For each number a dict: its "type" and "name", its "value", the "split"
      of the data that it is about and the "settings" that it depends on;
      "computed_in" is one of them where it was not float32.
    """
    folder = pathlib.Path(workdir)
    found = [
        *_likelihoods(_records(folder / "evaluation.jsonl", step, ema)),
        *_sample_quality(_records(folder / "sample_quality.jsonl", step, ema)),
    ]
    return [metric for metric in found if metric is not None]


def _likelihoods(records: list[dict[str, Any]]) -> Iterator[dict | None]:
    groups: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for record in sorted(records, key=_is_unusual):
        k = record.get("num_importance_samples")
        if type(k) is int and k > 0:
            place = record["split"], _computed_in(record)
            by_k = groups.setdefault(place, {})
            before = by_k.get(k, {})
            if _count(record, "num_images") >= _count(before, "num_images"):
                by_k[k] = record
    for by_k in groups.values():
        # The bound is a mean over images and draws: of the most it is the
        # surest.
        most = by_k[max(by_k, key=lambda k: (_count(by_k[k], "num_images"), k))]
        yield _metric("nelbo", "NELBO, nats", most)
        yield _metric("bits_per_dim", "NELBO, bits/dim", most)
        for k, record in sorted(by_k.items()):
            name = f"-log p(x), K = {k:,}"
            yield _metric("nll", f"{name}, nats", record)
            yield _metric("nll_bits_per_dim", f"{name}, bits/dim", record)


def _sample_quality(records: list[dict[str, Any]]) -> Iterator[dict | None]:
    latest = {
        json.dumps([_computed_in(r), *map(r.get, _SAMPLES)]): r for r in records
    }
    for record in sorted(latest.values(), key=_is_unusual):
        if "fid" in record:
            yield _metric("fid", "FID", record)
        else:
            # Of another network than published ones.
            yield _metric("frechet_distance", "Frechet distance", record)
        yield _metric("kid", "KID", record)
        yield _metric("precision", "precision", record)
        yield _metric("recall", "recall", record)


def _computed_in(record: Mapping[str, Any]) -> str:
    """The precision; earlier versions did not say of samples."""
    precision = record.get("computed_in")
    return precision if isinstance(precision, str) else _USUAL


def _is_unusual(record: Mapping[str, Any]) -> bool:
    return _computed_in(record) != _USUAL


def _count(record: Mapping[str, Any], name: str) -> int:
    """A number of things in a record, 0 where there is none."""
    value = record.get(name)
    return value if type(value) is int else 0


def _metric(kind: str, name: str, record: Mapping[str, Any]) -> dict | None:
    """A number of a record; None where there is none."""
    value = record.get(kind)
    if type(value) not in (int, float) or not math.isfinite(value):
        return None
    settings = {k: record[k] for k in _SETTINGS if record.get(k) is not None}
    if not _is_unusual(record):
        settings.pop("computed_in", None)
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
