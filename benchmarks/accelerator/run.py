"""Compiles and measures the programs of a folder, with JAX and NumPy alone.

    python -m benchmarks.accelerator.run --folder=. --out=rows.jsonl

Runs where the folder's own copy of this module is found, on JAX's default
device.  A row of JSON is printed and appended for every program as soon as it
has been measured, so that the run can be stopped at any time.  What `order.txt`
names without an empty line between is compiled side by side; nothing is
measured while something compiles, but where that takes longer than the budget.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time
from typing import Any

__all__ = ["Row", "measure", "waves"]

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
_TELLING += ("shifts", "groups", "parameters", "operations")
Row = dict[str, Any]


def waves(order: str) -> list[list[str]]:
    """The labels of an order that are compiled together."""
    found = [[]]
    for line in order.splitlines():
        label = line.partition("#")[0].strip()
        if label:
            found[-1].append(label)
        elif not line.strip() and found[-1]:
            found.append([])
    return [wave for wave in found if wave]


def split(label: str) -> tuple[str, dict[str, bool]]:
    """The program of a label, and what `Program` takes."""
    name, *changes = label.split("+")
    unknown = set(changes) - {"tf32", "asked"}
    if unknown:
        raise ValueError(f"{label} asks for {', '.join(sorted(unknown))}.")
    return name, {
        "exact": "tf32" not in changes,
        "known_rounds": "asked" not in changes,
    }


def worst_difference(first: list[dict], expected: list[dict]) -> float:
    """The largest difference of results, relative to what is expected."""
    return max(
        abs(found[name] - value) / max(abs(value), 1e-6)
        for found, step in zip(first, expected, strict=True)
        for name, value in step.items()
    )


class Bench:
    """Measures programs and tells of them.

    Args:
      folder: see `prepare`.
      out: file to append rows to.
      seconds: of steps, for each program.
      deadline: of `time.monotonic`, after which nothing is begun.
    """

    def __init__(self, folder, out, *, seconds: float, deadline: float):
        self.folder = pathlib.Path(folder)
        self.out = pathlib.Path(out)
        self.seconds = seconds
        self.deadline = deadline
        path = self.folder / "expected.json"
        self.expected = json.loads(path.read_text()) if path.exists() else {}
        self._values = {}

    def tell(self, row: Row) -> None:
        """Prints and appends a row."""
        text = json.dumps(row)
        print(text, flush=True)
        with self.out.open("a") as file:
            file.write(text + "\n")

    def left(self) -> float:
        """Seconds before the deadline."""
        return self.deadline - time.monotonic()

    def compile(self, label: str):
        """The compiled program; takes long, but not Python's lock."""
        from benchmarks.accelerator.program import Program

        name, options = split(label)
        path = self.folder / "programs" / f"{name}.program"
        return Program(path, **options).compile()

    def prefetch(self, label: str) -> None:
        """Makes the values of a program's inputs beforehand."""
        from benchmarks.accelerator import artifact

        path = self.folder / "programs" / f"{split(label)[0]}.program"
        description, _ = artifact.unpack(path.read_bytes())
        self.values(description)

    def values(self, description: dict) -> dict:
        """Host arrays for all inputs, the same for a case's programs."""
        from benchmarks.accelerator import values

        made = {}
        for described in description["inputs"]:
            case = description["case"]
            key = case, json.dumps(described)
            if key not in self._values:
                self._values[key] = values.make(case, described)
            made[described["name"]] = self._values[key]
        return made

    def run(self, order: list[list[str]], threads: int) -> None:
        """Compiles and measures, wave after wave."""
        pool = concurrent.futures.ThreadPoolExecutor(threads)
        late = {}  # Those that still compile.
        for number, wave in enumerate(order):
            if self.left() <= 0:
                self.tell(
                    {"left": [w for rest in order[number:] for w in rest]}
                )
                break
            began = time.monotonic()
            late |= {pool.submit(self.compile, label): label for label in wave}
            self._prefetch(wave)
            concurrent.futures.wait(late, max(0.0, self.left()))
            ready = [future for future in late if future.done()]
            for future in ready:
                label = late.pop(future)
                row = {"label": label, "side_by_side": len(wave)}
                row["wave_seconds"] = round(time.monotonic() - began, 1)
                row["still_compiling"] = sum(not f.done() for f in late)
                self.tell(self._row(row, future))
        if late:
            self.tell({"not_compiled": list(late.values())})

    def _prefetch(self, wave: list[str]) -> None:
        for label in wave:
            try:
                self.prefetch(label)
            except (OSError, ValueError) as error:
                print(f"{label}: {error}", file=sys.stderr)

    def _row(self, row: Row, future) -> Row:
        try:
            compiled = future.result()
            row |= described(compiled)
            row |= measure(
                compiled,
                self.values(compiled.program.description),
                self.seconds,
            )
            expected = self.expected.get(row["label"].partition("+")[0])
            if expected:
                row["worst_difference"] = worst_difference(
                    [
                        {name: first[name] for name in expected[0]}
                        for first in row["first"]
                    ],
                    expected,
                )
        except (
            Exception
        ) as error:  # The others are to be measured all the same.
            row["error"] = f"{type(error).__name__}: {str(error)[:400]}"
        return row


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
    import jax
    import numpy as np

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
    import jax
    import numpy as np

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
    import jax

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


def _machine() -> Row:
    import jax

    device = jax.devices()[0]
    memory = device.memory_stats() or {}
    return {
        "machine": device.device_kind,
        "platform": device.platform,
        "platform_version": device.client.platform_version[:200],
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "memory_limit_gb": round(memory.get("bytes_limit", 0) / 1e9, 2),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _measured(out: pathlib.Path) -> set[str]:
    """The labels that a file of rows has times of."""
    if not out.exists():
        return set()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return {row["label"] for row in rows if "queued_ms" in row}


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line, and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--folder", default=".", help="that `prepare` wrote")
    add("--out", default="rows.jsonl", help="rows are appended to it")
    add("--only", default="", help="regular expression of labels")
    add("--rest", action="store_true", help="what --out has no times of")
    add("--seconds", type=float, default=1.5, help="of steps, each program")
    add("--budget", type=float, default=1e9, help="seconds in all")
    add("--threads", type=int, default=8, help="that compile")
    add("--profile", action="store_true", help="kernels instead of times")
    add("--list", action="store_true", help="only list the labels")
    given = parser.parse_args(arguments)
    deadline = time.monotonic() + given.budget
    order = waves((pathlib.Path(given.folder) / "order.txt").read_text())
    done = _measured(pathlib.Path(given.out)) if given.rest else set()
    order = [
        [w for w in wave if re.search(given.only, w) and w not in done]
        for wave in order
    ]
    if given.list:
        print("\n".join(label for wave in order for label in wave))
        return 0
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    # The counters of a step have 64 bits.
    jax.config.update("jax_enable_x64", True)
    bench = Bench(
        given.folder, given.out, seconds=given.seconds, deadline=deadline
    )
    bench.tell(_machine())
    if given.profile:
        for label in [label for wave in order for label in wave]:
            compiled = bench.compile(label)
            values = bench.values(compiled.program.description)
            bench.tell({"label": label, **profile(compiled, values)})
    else:
        bench.run([wave for wave in order if wave], given.threads)
    bench.tell({"budget_left": round(bench.left(), 1)})
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A compiler's thread cannot be stopped, and is not to be waited for.
    os._exit(status)
