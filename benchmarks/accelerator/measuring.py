"""Times of compiled programs, and where the time goes."""

from __future__ import annotations

import collections
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np

__all__ = ["described", "measure", "profile"]

_WARM_UP = 3
_LEAST, _MOST = 3, 200
# What is kept of the results of a step.
_KEPT = (
    "total_loss",
    "reconstruction_nll",
    "kl",
    "gradient_norm",
    "loss_scale",
    "skipped",
)
_TELLING = ("kind", "case", "batch_size", "precision", "recompute", "unrolled")
_TELLING += ("masked", "groups", "parameters", "operations")
Row = dict[str, Any]


def described(compiled) -> Row:
    """What is known of a program before it runs."""
    description = compiled.program.description
    memory = compiled.memory()
    return {
        **{name: description[name] for name in _TELLING if name in description},
        "known_loops": compiled.program.known_loops,
        "trace_seconds": round(compiled.trace_seconds, 2),
        "compile_seconds": round(compiled.compile_seconds, 2),
        "peak_gb": round(memory["peak"] / 1e9, 4),
        **{
            f"{name}_gb": round(memory[name] / 1e9, 4)
            for name in ("argument", "output", "alias", "temp")
        },
    }


def stepper(compiled, values: dict):
    """A function that runs the program once more, and gives its results."""
    state = {name: jax.device_put(value) for name, value in values.items()}
    jax.block_until_ready(state)
    seeds = []
    if "seed" in state:
        seeds = [jax.device_put(np.array([0, i], np.int32)) for i in range(16)]
    taken = 0

    def step():
        nonlocal state, taken
        seed = {"seed": seeds[taken % len(seeds)]} if seeds else {}
        taken += 1
        results, state = compiled({**state, **seed}, {})
        return results

    return step


def measure(compiled, values: dict, seconds: float) -> Row:
    """Runs a program again and again.

    Args:
      compiled: what `Program.compile` gives.
      values: of its inputs, by name.
      seconds: how long to run, after warming up.
    """
    description = compiled.program.description
    step = stepper(compiled, values)
    first, began = [], time.perf_counter()
    for i in range(_WARM_UP):
        results = jax.device_get(step())
        first.append(_kept(results))
        if not i:
            first_seconds = time.perf_counter() - began
    blocking = []
    while len(blocking) < _LEAST or (
        sum(blocking) < 0.4 * seconds and len(blocking) < _MOST
    ):
        began = time.perf_counter()
        jax.block_until_ready(step())
        blocking.append(time.perf_counter() - began)
    # Back to back: the host is ahead of the device.
    count = int(min(max(_LEAST, 0.6 * seconds / min(blocking)), _MOST))
    began = time.perf_counter()
    for _ in range(count):
        results = step()
    jax.block_until_ready(results)
    queued = (time.perf_counter() - began) / count
    last = _kept(jax.device_get(results))
    batch_size = description["batch_size"]
    row = {
        "queued_ms": round(1e3 * queued, 3),
        "blocking_ms": round(1e3 * statistics.median(blocking), 3),
        "images_per_second": round(batch_size / queued, 1),
        "first_seconds": round(first_seconds, 2),
        "steps": _WARM_UP + len(blocking) + count,
        "first": first,
        "last": last,
        "finite": all(
            bool(np.isfinite(v))
            for kept in (*first, last)
            for v in kept.values()
        ),
    }
    if description["kind"] != "sample":
        flop = 3 * description["forward_flop"] * batch_size
        row["tflop_per_second"] = round(flop / queued / 1e12, 3)
    return row


def _kept(results: dict) -> dict[str, float]:
    """Scalars of the results, and the means of images."""
    kept = {name: float(results[name]) for name in _KEPT if name in results}
    if "mean" in results:
        kept["mean"] = float(results["mean"].astype("float64").mean())
    return kept


def profile(compiled, values: dict, steps: int = 3, most: int = 40) -> Row:
    """Where the device's time goes: its kernels, the longest first."""
    step = stepper(compiled, values)
    for _ in range(_WARM_UP):
        jax.block_until_ready(step())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                results = step()
            jax.block_until_ready(results)
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        totals, counts, lines = collections.Counter(), collections.Counter(), []
        for plane in data.planes:
            if not plane.name.startswith("/device:"):
                continue
            for line in plane.lines:
                events = list(line.events)
                lines.append([plane.name, line.name, len(events)])
                if not line.name.startswith("Stream"):
                    continue
                for event in events:
                    totals[event.name] += event.duration_ns
                    counts[event.name] += 1
    return {
        "profiled_steps": steps,
        "lines": lines,
        "busy_ms": round(sum(totals.values()) / steps / 1e6, 3),
        "launches": sum(counts.values()) / steps,
        "kernels": [
            [name[:120], round(total / steps / 1e6, 4), counts[name] / steps]
            for name, total in totals.most_common(most)
        ],
    }
