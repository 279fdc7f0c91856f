"""What this machine has, as far as it tells: memory and GPUs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from typing import NamedTuple

__all__ = ["Gpu", "chosen_gpus", "driver_gpus", "memory_bytes"]

_CGROUP = pathlib.Path("/sys/fs/cgroup")
_PATIENCE_SECONDS = 20.0


class Gpu(NamedTuple):
    """A GPU that NVIDIA's driver sees.

    Attributes:
      name: of the model.
      memory: bytes; None if it does not tell.
    """

    name: str
    memory: int | None


def memory_bytes() -> int | None:
    """What this process may use of the machine's memory; None if unknown."""
    limits = []
    # Not every system knows these names.
    with contextlib.suppress(OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    # A container may have less than its machine, where there are containers.
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int((_CGROUP / file).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits, default=None)


def driver_gpus() -> list[Gpu]:
    """The GPUs that `nvidia-smi` lists, whether or not TensorFlow uses them.

    Raises:
      FileNotFoundError: if there is no such program.
      OSError: if it fails; the text is what it says.
    """
    command = [
        "nvidia-smi",
        "--query-gpu=memory.total,name",
        "--format=csv,noheader,nounits",
    ]
    try:
        output = subprocess.run(
            command,
            capture_output=True,
            check=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
        ).stdout
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()
        raise OSError(said or f"status {error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no answer in {_PATIENCE_SECONDS:g} s") from error
    gpus = []
    for line in output.splitlines():
        memory, comma, name = line.partition(",")
        if comma:
            known = memory.strip().isdecimal()
            gpus.append(
                Gpu(name.strip(), int(memory) * 2**20 if known else None)
            )
    return gpus


def chosen_gpus() -> list[str]:
    """The GPUs that this process is to use, as CUDA_VISIBLE_DEVICES names them.

    All of the driver's where it is not set; [] without a driver.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        try:
            return [str(i) for i in range(len(driver_gpus()))]
        except OSError:
            return []
    # What comes after a -1 does not count.
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return names[: names.index("-1")] if "-1" in names else names
