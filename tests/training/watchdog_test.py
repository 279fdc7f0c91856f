"""The watchdog: what hangs ends with a status, what works does not."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from nvae_tf.core.errors import RESUME_STATUS
from nvae_tf.training.watchdog import STACKS_FILE, Watchdog

_LIMIT = 0.5


def _start(folder, body):
    """A process that runs `body` under a watchdog."""
    program = f"""\
import sys, threading, time
from nvae_tf.training.watchdog import Watchdog

def hang():
    time.sleep(60)

with Watchdog({_LIMIT}, sys.argv[1]) as dog:
{textwrap.indent(textwrap.dedent(body), "    ")}
"""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(folder, body):
    process = _start(folder, body)
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


def test_process_that_hangs_ends_with_the_status_to_resume(tmp_path):
    status, _, errors = _run(tmp_path, 'dog.beat("step 7")\nhang()')
    assert status == RESUME_STATUS == 75
    assert "No progress" in errors
    assert "after step 7" in errors
    assert "in hang" in errors
    assert "in hang" in (tmp_path / STACKS_FILE).read_text()


def test_stacks_of_all_threads_are_written(tmp_path):
    status, _, errors = _run(
        tmp_path,
        """
        def waits_for_data():
            time.sleep(60)
        threading.Thread(target=waits_for_data, daemon=True).start()
        hang()
        """,
    )
    assert status == RESUME_STATUS
    for text in (errors, (tmp_path / STACKS_FILE).read_text()):
        assert "in hang" in text
        assert "in waits_for_data" in text


def test_workdir_that_cannot_be_written_to_does_not_keep_the_process(tmp_path):
    status, _, errors = _run(tmp_path / "gone", "hang()")
    assert status == RESUME_STATUS
    assert "in hang" in errors


def test_progress_and_long_work_that_was_announced_are_left_alone(tmp_path):
    status, out, errors = _run(
        tmp_path,
        f"""
        for i in range(20):
            time.sleep({_LIMIT / 10})
            dog.beat(f"step {{i}}")
        with dog.allowing(20):
            time.sleep({3 * _LIMIT})
        print("alive")
        """,
    )
    assert (status, out, errors) == (0, "alive\n", "")
    assert not (tmp_path / STACKS_FILE).exists()


def test_more_time_is_not_all_time(tmp_path):
    status, _, errors = _run(tmp_path, "with dog.allowing(3):\n    hang()")
    assert status == RESUME_STATUS
    assert "in hang" in errors


def test_time_in_which_the_process_was_stopped_does_not_count(tmp_path):
    process = _start(
        tmp_path,
        """
        print("ready", flush=True)
        for i in range(40):
            time.sleep(0.05)
            dog.beat()
        """,
    )
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3 * _LIMIT)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(timeout=60) == 0
    process.communicate()


def test_no_limit_starts_no_thread(tmp_path):
    before = threading.active_count()
    with Watchdog(0, tmp_path) as dog:
        dog.beat()
        assert threading.active_count() == before


def test_thread_ends_with_the_block(tmp_path):
    def names():
        return [thread.name for thread in threading.enumerate()]

    def fail():
        assert "watchdog" in names()
        raise KeyError

    with pytest.raises(KeyError), Watchdog(60, tmp_path):
        fail()
    assert "watchdog" not in names()
