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
import concurrent.futures
import json
import os
import pathlib
import re
import sys
import time

import jax

from benchmarks.accelerator import artifact, measuring, orders, rows, values
from benchmarks.accelerator.program import Program
from benchmarks.accelerator.rows import Row

__all__ = ["Bench", "worst_difference"]

# Seconds for each program, warming up included.
_TO_MEASURE = 4.0


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
        rows.tell(self.out, row)

    def left(self) -> float:
        """Seconds before the deadline."""
        return self.deadline - time.monotonic()

    def compile(self, label: str):
        """The compiled program; takes long, but not Python's lock."""
        name, options = orders.split(label)
        path = self.folder / "programs" / f"{name}.program"
        return Program(path, **options).compile()

    def prefetch(self, label: str) -> None:
        """Makes the values of a program's inputs beforehand."""
        path = self.folder / "programs" / f"{orders.split(label)[0]}.program"
        description, _ = artifact.unpack(path.read_bytes())
        self.values(description)

    def values(self, description: dict) -> dict:
        """Host arrays for all inputs, the same for a case's programs."""
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
            # What is ready then is to be measured before the deadline.
            patience = self.left() - _TO_MEASURE * len(late)
            concurrent.futures.wait(late, max(0.0, patience))
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
            row |= measuring.described(compiled)
            row |= measuring.measure(
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


def _machine() -> Row:
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
    add("--threads", type=int, default=os.cpu_count(), help="that compile")
    add("--profile", action="store_true", help="kernels of what has times")
    add("--list", action="store_true", help="only list the labels")
    given = parser.parse_args(arguments)
    deadline = time.monotonic() + given.budget
    order = orders.waves((pathlib.Path(given.folder) / "order.txt").read_text())
    done = {row["label"] for row in rows.read(given.out) if "queued_ms" in row}

    def wanted(label: str) -> bool:
        """Whether it is asked for, by the flags."""
        if (given.profile and label not in done) or (
            given.rest and label in done
        ):
            return False
        return re.search(given.only, label) is not None

    order = [[label for label in wave if wanted(label)] for wave in order]
    if given.list:
        print("\n".join(label for wave in order for label in wave))
        return 0
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # The counters of a step have 64 bits.
    jax.config.update("jax_enable_x64", True)
    bench = Bench(
        given.folder, given.out, seconds=given.seconds, deadline=deadline
    )
    bench.tell(_machine())
    if given.profile:
        for label in [label for wave in order for label in wave]:
            compiled = bench.compile(label)
            inputs = bench.values(compiled.program.description)
            bench.tell({"label": label, **measuring.profile(compiled, inputs)})
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
