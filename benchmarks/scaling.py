"""Start and images per second of a training run in one and more processes.

    python -m benchmarks.scaling --processes=1,2

trains the case `small` with `train.py --num_processes=N` on N cores, with one
thread of computation in each process, and takes the times at which the records
of its steps appear in metrics.jsonl.  With all its costs, then: reading data,
reducing gradients and statistics, writing metrics.  Every process has the
whole batch size, so that perfect scaling is N times the images per second.  The
start goes from that of the command to the record of the first step.
"""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from benchmarks import cases, results
from nvae_tf.core.errors import UserError

__all__ = ["Steps", "images_per_second", "run", "timed_steps"]

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_CASE = "small"
_CONFIG = "configs/mnist.py:small"
_POLL_SECONDS = 0.005
_WARM_UP_STEPS = 5
# A run may take so long until its first step, and from then on to its end.
_PATIENCE_SECONDS = 900
_STOP_SECONDS = 120
_STEPS_PER_EPOCH = 1000


class Steps(NamedTuple):
    """When a run took its steps.

    Attributes:
      start: seconds from the start of the command to its first step; None if
        it took none.
      times: at which steps ended after the first few, seconds of a clock.
      printed: what the command printed.
    """

    start: float | None
    times: list[float]
    printed: str


def run(store: results.Results, processes, seconds: float = 30.0) -> None:
    """Measures numbers of processes, and prints and keeps the results.

    Args:
      store: where to keep them; names are "CASE N".
      processes: numbers of them.
      seconds: how long to count the steps of each.
    """
    # Processes cannot be kept to cores on every system.
    cores = sorted(getattr(os, "sched_getaffinity", lambda _: ())(0))
    rows = []
    one = None
    for count in processes:
        result = {"error": f"{count} processes need as many cores"}
        if count <= len(cores):
            result = _measure(cores[:count], seconds)
        store.add("scaling", f"{_CASE} {count}", result)
        if "error" in result:
            rows.append([count, result["error"], "", ""])
            continue
        rate = result["images_per_second"]
        if count == 1:
            one = rate
        efficiency = f"{rate / (count * one):.1%}" if one else ""
        start = f"{result['start_seconds']:.1f}"
        rows.append([count, f"{rate:.1f}", efficiency, start])
        print(*rows[-1], flush=True)
    columns = ["processes", "images/s", "efficiency", "start s"]
    print(results.table(columns, rows))


def images_per_second(times: Sequence[float], batch_size: int) -> float:
    """The rate that the median time between two steps comes to.

    Args:
      times: at which steps ended, in order, seconds.
      batch_size: images per step, of all processes.
    """
    between = [b - a for a, b in itertools.pairwise(times)]
    return batch_size / statistics.median(between)


def timed_steps(
    command: Sequence[str],
    metrics: pathlib.Path,
    cores: Sequence[int],
    seconds: float,
) -> Steps:
    """Runs a training on some cores until its steps are timed.

    Args:
      command: that trains, with a record of every step.
      metrics: the file of these records.
      cores: that it may use.
      seconds: how long to look at its steps, once it has warmed up.
    """
    with tempfile.TemporaryFile("w+") as log, _on_cores(cores):
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "TF_NUM_INTRAOP_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            },
        )
        try:
            first, times = _watch(process, metrics, seconds)
        finally:
            _stop(process)
        log.seek(0)
        start = None if first is None else first - began
        return Steps(start, times, log.read())


def _measure(cores: Sequence[int], seconds: float) -> dict:
    case = cases.case(_CASE)
    with tempfile.TemporaryDirectory() as folder:
        images = pathlib.Path(folder, "images.npy")
        _write_images(images, case, _STEPS_PER_EPOCH * len(cores))
        workdir = pathlib.Path(folder, "run")
        command = [
            sys.executable,
            "train.py",
            f"--config={_CONFIG}",
            f"--workdir={workdir}",
            f"--num_processes={len(cores)}",
            f"--config.train.batch_size={case.batch_size}",
            "--config.train.log_every=1",
            "--config.data.source=array",
            f"--config.data.path={images}",
        ]
        steps = timed_steps(command, workdir / "metrics.jsonl", cores, seconds)
    if len(steps.times) < 2:
        lines = steps.printed.strip().splitlines() or ["no output"]
        return {"error": f"too few steps to be timed: {lines[-1]}"}
    batch_size = case.batch_size * len(cores)
    return {
        "processes": len(cores),
        "batch_size": batch_size,
        "start_seconds": steps.start,
        "steps": len(steps.times) - 1,
        "images_per_second": images_per_second(steps.times, batch_size),
    }


@contextlib.contextmanager
def _on_cores(cores: Sequence[int]):
    """Processes started in the meantime may use these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _watch(
    process, metrics: pathlib.Path, seconds: float
) -> tuple[float | None, list[float]]:
    """When the first record of a step appeared, and those after a few."""
    first = None
    times: list[float] = []
    seen = 0
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        steps = _count_steps(metrics)
        now = time.monotonic()
        if steps == seen:
            continue
        if first is None:
            first = now
            deadline = now + _PATIENCE_SECONDS
        times += [now] * (steps - max(seen, _WARM_UP_STEPS))
        seen = steps
        if len(times) > 2 and now - times[0] > seconds:
            break
    return first, times


def _count_steps(metrics: pathlib.Path) -> int:
    """Records of training steps written so far."""
    try:
        lines = metrics.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    return sum(
        json.loads(line)["kind"] == "train"
        for line in lines
        if line.endswith(b"\n")
    )


def _stop(process: subprocess.Popen) -> None:
    """Asks a run to stop, which passes it on to its other processes."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()


def _write_images(path: pathlib.Path, case: cases.Case, batches: int) -> None:
    """Noise in the shape of the case's images, before padding."""
    import numpy as np

    c = case.model
    shape = (c.image_size, c.image_size, c.image_channels)
    random = np.random.default_rng(0)
    np.save(
        path,
        random.integers(0, 256, (batches * case.batch_size, *shape), np.uint8),
    )


def _main(_) -> None:
    values = flags.FLAGS
    for count in values.processes:
        if not count.isdecimal() or not int(count):
            raise UserError(
                f"--processes={count} must be positive numbers, such as 1,2."
            )
    run(
        results.from_flags(),
        [int(count) for count in values.processes],
        values.seconds,
    )


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_list("processes", ["1", "2"], "Numbers of processes.")
    flags.DEFINE_float("seconds", 30.0, "How long to count the steps of each.")
    results.define_folder()
    command_line.run(_main)
