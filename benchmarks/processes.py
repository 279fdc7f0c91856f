"""Measurements in processes of their own.

Start-up, peak memory and what an earlier measurement left in caches can only
be told apart if every measurement has a process to itself.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time

__all__ = ["measured", "peak_gigabytes"]

_MARK = "result: "


# TensorFlow's pools, and those of PyTorch.
_ONE_THREAD = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def measured(
    function: str,
    *,
    interpreter: str | None = None,
    one_thread: bool = False,
    **arguments,
) -> dict:
    """Calls a function in a new process.

    Args:
      function: "module:name"; takes what follows, and `started`, the time at
        which its process was started; returns what JSON holds.
      interpreter: Python's, for another environment; None for this one.
      one_thread: compute by one, as where others have the other cores.
      **arguments: what JSON holds.

    Returns:
      The function's result, or `{"error": why there is none}`.
    """
    arguments["started"] = time.time()
    process = subprocess.run(
        [interpreter or sys.executable, "-m", "benchmarks.processes", function]
        + [json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(_ONE_THREAD if one_thread else {})},
    )
    lines = process.stdout.splitlines()
    if process.returncode == 0 and lines and lines[-1].startswith(_MARK):
        return json.loads(lines[-1].removeprefix(_MARK))
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return {"error": f"ended by {name}; was there memory enough?"}
    errors = process.stderr.strip().splitlines()
    return {"error": errors[-1] if errors else "no result"}


def peak_gigabytes() -> float:
    """The largest resident size of this process so far, in 1e9 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def _main() -> None:
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    result = function(**json.loads(sys.argv[2]))
    print(_MARK + json.dumps(result))


if __name__ == "__main__":
    _main()
