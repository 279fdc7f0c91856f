"""Commands that are run, and asked to end."""

import os
import subprocess
import sys
import time

from nvae_tf.core.errors import RESUME_STATUS

_PARENT = """
import sys
from nvae_tf.core.progress import run_command

run_command([sys.executable, "-c", sys.argv[1]])
"""
_CHILD = """
import pathlib, signal, time

def end(*_):
    time.sleep(0.5)  # What is under way is ended first.
    pathlib.Path("ended").touch()
    raise SystemExit

signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_command_is_ended_with_the_one_that_runs_it(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT, _CHILD],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == RESUME_STATUS
        assert (tmp_path / "ended").exists()
    finally:
        process.kill()
        process.wait()
