"""Real `train.py` processes that tests start quickly, stop and kill.

A fork server has imported TensorFlow and the trainer, but used neither; each
process is a fork of it and runs `train.py` as the command line would.
"""

import contextlib
import json
import multiprocessing
import os
import pathlib
import resource
import runpy
import signal
import subprocess
import sys
import time

import pytest

from nvae_tf.runs.workdir import Workdir

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["nvae_tf.training.trainer"])
_PROGRAM = pathlib.Path(__file__).parents[2] / "train.py"
_FAILING = pathlib.Path(__file__).parent / "failing_train.py"
_CONFIG = """\
import json
from ml_collections import ConfigDict


def get_config():
    return ConfigDict(json.loads({text!r}))
"""
# Larger than any file of the tests' runs but a checkpoint's arrays.
FILE_LIMIT = 20_000
_PATIENCE = 300.0  # Seconds; only a test that fails waits so long.


class TrainingRun:
    """One workdir and the process that trains there.

    Args:
      folder: for the workdir and the process's output.
      config: of the run.
      slow_disk: seconds that every fsync takes longer, so that there is time
        to kill a process that writes.
      flags: more of them.
    """

    def __init__(self, folder, config, slow_disk: float = 0.0, flags=()):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.workdir = Workdir(self.folder / "workdir")
        self.log = self.folder / "log.txt"
        self._config = self.folder / "config.py"
        text = json.dumps(config.to_dict())
        self._config.write_text(_CONFIG.format(text=text))
        self._slow_disk = slow_disk
        self._flags = flags
        self.process = None
        self._metrics_at_start = b""
        self._step_at_start = 0

    def start(self, *flags: str, failure: str = "") -> None:
        """Starts the same command as ever.

        Args:
          *flags: more of them, this time.
          failure: "PROCESS:STEP:HOW:PLACE", see `failing_train`; empty for
            none.
        """
        self._metrics_at_start = self.metrics()
        self._step_at_start = self.saved_step()
        self.process = start(
            _train,
            f"--config={self._config}",
            f"--workdir={self.workdir.path}",
            *self._flags,
            *flags,
            log=self.log,
            slow_disk=self._slow_disk,
            failure=failure,
        )

    def wait(self) -> int:
        """Exit status of the process, -9 if it was killed."""
        self.process.join(_PATIENCE)
        assert self.process.exitcode is not None, self.log.read_text()
        return self.process.exitcode

    def wait_until(self, condition) -> None:
        """Returns with the process stopped while the condition holds.

        The condition must hold before and after the process is stopped; it
        then cannot change.
        """
        end = time.monotonic() + _PATIENCE
        while True:
            assert self.process.is_alive(), self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            if condition():
                os.kill(self.process.pid, signal.SIGSTOP)
                _wait_until_stopped(self.process.pid)
                if condition():
                    return
                os.kill(self.process.pid, signal.SIGCONT)
            time.sleep(0.001)

    def wait_for(self, condition) -> None:
        """Returns once the condition holds; the process goes on."""
        end = time.monotonic() + _PATIENCE
        while not condition():
            assert self.process.is_alive(), self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        """Sends a signal to the stopped process and lets it go on."""
        os.kill(self.process.pid, number)
        os.kill(self.process.pid, signal.SIGCONT)

    def worker(self, index: int) -> int:
        """Process id of one of the processes that `--num_processes` started."""
        if not pathlib.Path("/proc/self/task").is_dir():
            pytest.skip("processes are found by /proc")
        (folder,) = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        for pid in (folder / "children").read_text().split():
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            if f'"index": {index}}}'.encode() in environment:
                return int(pid)
        raise AssertionError(f"There is no process {index}.")

    def metrics(self) -> bytes:
        """What metrics.jsonl holds."""
        try:
            return self.workdir.metrics_path.read_bytes()
        except FileNotFoundError:
            return b""

    def step(self) -> int:
        """The last step that is recorded."""
        lines = self.metrics().splitlines()
        with contextlib.suppress(IndexError, ValueError):
            return json.loads(lines[-1])["step"]
        return 0

    def saved_step(self) -> int:
        """Step of the latest checkpoint."""
        return max(self.workdir.checkpoints().steps(), default=0)

    def is_starting(self) -> bool:
        """Whether this process has not taken a step that is recorded."""
        return (
            self.metrics() == self._metrics_at_start
            or self.step() <= self._step_at_start
        )

    def is_writing(self) -> bool:
        """Whether a checkpoint is being written."""
        folder = self.workdir.path / "checkpoints"
        return any(folder.glob(".writing-*"))

    def is_evaluating(self) -> bool:
        """Whether a checkpoint waits for its evaluation."""
        folder = self.workdir.path / "checkpoints" / f"{self.saved_step():08d}"
        with contextlib.suppress(OSError, ValueError):
            content = json.loads((folder / "state.json").read_bytes())
            return content["state"]["evaluation_due"]
        return False

    def phase(self) -> str:
        """What the stopped process is doing."""
        if self.is_writing():
            return "writing"
        if self.is_starting():
            return "starting"
        return "evaluating" if self.is_evaluating() else "training"


def start(function, *args, **kwargs):
    """Starts a function of a module of the tests in a forked process."""
    process = _CONTEXT.Process(target=function, args=args, kwargs=kwargs)
    process.start()
    return process


def write_output_to(log) -> None:
    """Sends what this process prints, also from C++, to the end of a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _train(*flags, log, slow_disk, failure):
    write_output_to(log)
    # A file system without room, from the moment that the signal comes.
    signal.signal(
        signal.SIGUSR1,
        lambda *_: resource.setrlimit(
            resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT)
        ),
    )
    if slow_disk:
        fsync = os.fsync

        def slow_fsync(descriptor):
            time.sleep(slow_disk)
            fsync(descriptor)

        os.fsync = slow_fsync
    program = str(_PROGRAM)
    if failure:
        program = str(_FAILING)
        os.environ["NVAE_TEST_FAILURE"] = failure
        # What Python adds for a program that it starts by its name.
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(_PROGRAM.parent), os.environ.get("PYTHONPATH", "")]
        )
    sys.argv = [program, *flags]
    sys.orig_argv = [sys.executable, *sys.argv]
    runpy.run_path(program, run_name="__main__")


def _wait_until_stopped(pid: int) -> None:
    """A signal takes effect a moment later."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        # T is stopped, Z has ended.
        if _state(pid) in ("T", "t", "Z", ""):
            return
        time.sleep(0.0005)


def _state(pid: int) -> str:
    """One letter; empty where there is no such process."""
    if not pathlib.Path("/proc/self/stat").exists():
        command = ["ps", "-o", "state=", "-p", str(pid)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False
        ).stdout.strip()[:1]
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return ""
    # After the name, which is in brackets.
    return status.rpartition(")")[2].split()[0]
