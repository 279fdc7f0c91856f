"""The processes of a run, as what started them describes them.

`TF_CONFIG` is set by Kubernetes operators, and by `launcher` for the processes
of one machine; Slurm's srun sets variables of its own.  No TensorFlow here: a
description that cannot be right is told of before it is loaded.
"""

from __future__ import annotations

import os
import re
import zlib
from typing import NamedTuple

from nvae_tf.core.errors import UserError
from nvae_tf.core.json_files import parse_json

__all__ = ["Cluster", "find"]

_FIRST_PORT = 12321
# Slurm may give one node to several steps at once: each has ports of its own,
# below those that systems hand out.
_STEP_PORTS = 64
_MAX_STEPS = 256
# Of the names of jobs that train, the chief's comes first.
_JOBS = ("chief", "worker")


class Cluster(NamedTuple):
    """The processes of a run.

    Attributes:
      addresses: of their servers, "host:port".
      index: which of them this process is; 0 speaks for all.
      run: what tells it from other runs on the same machines, where something
        does.
    """

    addresses: tuple[str, ...]
    index: int
    run: str = ""


def find() -> Cluster | None:
    """What the environment describes; None if it describes nothing.

    Raises:
      UserError: if what it describes cannot be, or this process is none of
        those described.
    """
    return _from_tf_config() or _from_slurm()


def _from_tf_config() -> Cluster | None:
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return None
    try:
        place = parse_json(text)
        if "cluster" not in place:
            return None
        jobs, task = place["cluster"], place.get("task", {})
        addresses = {job: jobs.get(job, []) for job in _JOBS}
        for job, listed in addresses.items():
            if not isinstance(listed, list) or not all(
                isinstance(address, str) for address in listed
            ):
                raise ValueError(f"its {job}s are no list of addresses")
        if not any(addresses.values()):
            return None
        kind, index = task.get("type"), int(task.get("index", 0))
        if kind not in _JOBS or not 0 <= index < len(addresses[kind]):
            raise ValueError(f"it lists no {kind} {index}, which this task is")
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            "TF_CONFIG in the environment is not a description of a cluster "
            f"of chief and workers: {error}. Unset or correct it."
        ) from error
    before = len(addresses["chief"]) if kind == "worker" else 0
    together = (*addresses["chief"], *addresses["worker"])
    return Cluster(together, before + index)


def _from_slurm() -> Cluster | None:
    number = _slurm_number("SLURM_PROCID")
    if number is None:
        return None
    tasks = _slurm_number("SLURM_STEP_NUM_TASKS")
    if tasks is None:
        if (_slurm_number("SLURM_NTASKS") or 1) > 1:
            raise UserError(
                f"Slurm has given this job {os.environ['SLURM_NTASKS']} tasks, "
                "but the command was started once, outside of them: put srun "
                "in front of it (or choose --num_processes, or "
                "--strategy=one_device)."
            )
        return None
    places = []
    hosts = _hosts(os.environ.get("SLURM_STEP_NODELIST", ""))
    counts = _counts(os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if len(hosts) != len(counts) or sum(counts) != tasks or number >= tasks:
        raise UserError(
            "Slurm's variables contradict each other: SLURM_PROCID is "
            f"{number}, SLURM_STEP_NUM_TASKS {tasks}, and "
            "SLURM_STEP_TASKS_PER_NODE and SLURM_STEP_NODELIST tell of "
            f"{sum(counts)} tasks, and of {len(counts)} and {len(hosts)} "
            "nodes. Start the command by srun, and set none of them."
        )
    for node, count in enumerate(counts):
        places += [(node, local) for local in range(count)]
    own = (_slurm_number("SLURM_NODEID"), _slurm_number("SLURM_LOCALID"))
    if None not in own and own != places[number]:
        raise UserError(
            f"Slurm has task {number} on node {own[0]} of the step, where the "
            f"first nodes' tasks come first it would be on {places[number][0]}:"
            " start the command by srun --distribution=block."
        )
    run = ".".join(
        os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")
    )
    first = _FIRST_PORT + _STEP_PORTS * (zlib.crc32(run.encode()) % _MAX_STEPS)
    return Cluster(
        tuple(f"{hosts[node]}:{first + local}" for node, local in places),
        number,
        f"slurm {run}",
    )


def _slurm_number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None


def _hosts(text: str) -> list[str]:
    """`"a[08-10,12],b"` -> a08, a09, a10, a12, b."""
    hosts = []
    # At the commas that are not in brackets.
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        names = [""]
        for plain, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", part):
            names = [
                name + piece
                for name in names
                for piece in ([plain] if plain else _numbers(ranges))
            ]
        hosts += names
    return hosts


def _numbers(text: str) -> list[str]:
    """`"08-10,12"` -> 08, 09, 10, 12."""
    numbers = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if dash and first.isdecimal() and last.isdecimal():
            width = len(first)
            numbers += [
                f"{i:0{width}}" for i in range(int(first), int(last) + 1)
            ]
        else:
            numbers.append(part)
    return numbers


def _counts(text: str) -> list[int]:
    """`"2(x3),1"` -> 2, 2, 2, 1."""
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts
