"""Starts the local processes of a run: `nvae train --num_processes=N`.

Every process runs the same command, with `TF_CONFIG` telling it who it is.
The first one's output is the command's; what the others print goes to files.
No TensorFlow here: the devices are left to the processes.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from nvae_tf.core.errors import RESUME_STATUS, UserError
from nvae_tf.core.files import open_own
from nvae_tf.distribute import cluster, machine
from nvae_tf.distribute.cores import available_cores

__all__ = [
    "end_with_launcher",
    "launch",
    "launched",
    "processes_to_launch",
]

# Holds the descriptor that tells of the launcher's end.
_MARK = "NVAE_TF_LAUNCHED"
_POLL_SECONDS = 0.2
# What the rest gets to end by itself once a process has failed.
_GRACE_SECONDS = 10.0
# And what the first one then gets to write a large checkpoint.
_SAVING_SECONDS = 1800.0
_TAIL_LINES = 20


def launched() -> bool:
    """Whether this process was started by `launch`."""
    return _MARK in os.environ


def end_with_launcher() -> None:
    """Has this process stop once the one that launched it is gone.

    Killed itself, that one could tell nobody; and who starts the command again
    would find the workdir in use.
    """
    if launched():
        descriptor = int(os.environ[_MARK])
        threading.Thread(target=_follow, args=[descriptor], daemon=True).start()


def _follow(descriptor: int) -> None:
    # Nothing is ever written: it ends with the process that could.
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def processes_to_launch() -> int:
    """How many a run wants that does not say: one for each GPU of this machine.

    One where something else has started the processes.

    Raises:
      UserError: if the environment describes a cluster that cannot be.
    """
    found = cluster.find()
    started = found is not None and len(found.addresses) > 1
    if started or os.environ.get("TPU_NAME"):
        return 1
    return max(1, len(machine.chosen_gpus()))


def launch(num_processes: int, workdir, command: Sequence[str]) -> int:
    """Runs a command in several processes and waits for them.

    SIGTERM and SIGINT are passed on.  If a process fails, the others are
    ended: without it they could only wait.

    Args:
      num_processes: how many, one device each.
      workdir: of the run; the processes but the first log to files there.
      command: of each process.

    Returns:
      An exit status: 0 if all succeeded; `RESUME_STATUS` if the same command
      should be started again; else that of the first process that failed.

    Raises:
      UserError: if the logs cannot be written, or there are GPUs, but too few.
    """
    gpus = machine.chosen_gpus()
    if 0 < len(gpus) < num_processes:
        raise UserError(
            f"--num_processes={num_processes} is more than the "
            f"{len(gpus)} GPUs here, and each process drives one: lower it "
            "(or set CUDA_VISIBLE_DEVICES=-1 to train on CPUs)."
        )
    ports = _free_ports(num_processes)
    logs = pathlib.Path(workdir) / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written to: {error.strerror}."
        ) from error
    paths = {i: logs / f"worker_{i}.log" for i in range(1, num_processes)}
    with contextlib.ExitStack() as stack:
        outputs = {i: stack.enter_context(_open_log(paths[i])) for i in paths}
        alive, ours = os.pipe()
        stack.callback(os.close, ours)
        processes = []
        for i in range(num_processes):
            output = outputs.get(i)
            process = subprocess.Popen(
                list(command),
                env={**_environment(i, ports, gpus), _MARK: str(alive)},
                pass_fds=[alive],
                stdout=output,
                stderr=output,
                # A Ctrl-C reaches them through this process alone.
                start_new_session=True,
            )
            processes.append(process)
        os.close(alive)
        with _forwarding(processes):
            status = _wait(processes)
    for i, process in enumerate(processes):
        _explain(i, process.returncode, paths.get(i))
    return status


def _open_log(path: pathlib.Path) -> BinaryIO:
    try:
        return open(path, "ab", opener=open_own)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written to: {error}. Choose another --workdir."
        ) from error


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _environment(
    index: int, ports: Sequence[int], gpus: Sequence[str]
) -> dict[str, str]:
    """What process `index` finds around it."""
    workers = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": index}
    cores = max(1, available_cores() // len(ports))
    return {
        # Else the processes of a machine without GPUs would share its cores
        # as if each had them all.
        "TF_NUM_INTRAOP_THREADS": str(cores),
        "OMP_NUM_THREADS": str(cores),
        **os.environ,
        "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task}),
        **({"CUDA_VISIBLE_DEVICES": gpus[index]} if gpus else {}),
    }


@contextlib.contextmanager
def _forwarding(processes) -> Iterator[None]:
    def forward(number, _):
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {n: signal.signal(n, forward) for n in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _wait(processes) -> int:
    """Until all have ended; the first failure ends the others."""
    first = None
    deadline = None
    mortal = processes
    while any(process.poll() is None for process in processes):
        time.sleep(_POLL_SECONDS)
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code not in (None, 0)]
        if failed and first is None:
            # One that was killed lets others fail in the same moment.
            first = next((code for code in failed if code < 0), failed[0])
            # One that saved and stopped was asked to: so were the others.
            is_stop = first == RESUME_STATUS
            grace = 6 if is_stop else 1
            deadline = time.monotonic() + grace * _GRACE_SECONDS
            if is_stop:
                # The first process may be writing a checkpoint.
                mortal = processes[1:]
            else:
                for process in processes:
                    if process.poll() is None:
                        process.terminate()
        if deadline is not None and time.monotonic() > deadline:
            for process in mortal:
                if process.poll() is None:
                    process.kill()
            is_over = len(mortal) == len(processes)
            deadline = None if is_over else time.monotonic() + _SAVING_SECONDS
            mortal = processes
    codes = [process.wait() for process in processes]
    if first is None:
        first = next((code for code in codes if code), 0)
    # Killed from outside, by the system's memory keeper for example: what was
    # saved is good.
    return RESUME_STATUS if first < 0 else first


def _explain(index: int, code: int, log: pathlib.Path | None) -> None:
    if code in (0, RESUME_STATUS):
        return
    how = f"signal {-code}" if code < 0 else f"status {code}"
    print(f"Process {index} ended with {how}.", file=sys.stderr)
    if log is not None and code not in (-signal.SIGTERM, -signal.SIGKILL):
        lines = log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        print("\n".join([f"From {log}:", *lines]), file=sys.stderr)
