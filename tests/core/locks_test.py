"""One process at a time, on every file system; nothing else is touched."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys

import pytest

from nvae_tf.core.locks import HeldElsewhereError, exclusive

_HOLD = """\
import sys
from nvae_tf.core.locks import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def _another_process(path):
    """Another process holds the lock meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    try:
        yield process
    finally:
        process.communicate()


def _without_locks(monkeypatch, error_number):
    def flock(descriptor, operation):
        raise OSError(error_number, os.strerror(error_number))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_held_lock_keeps_another_process_out_until_it_ends(tmp_path):
    path = tmp_path / ".lock"
    with _another_process(path) as process:
        with pytest.raises(HeldElsewhereError) as caught:
            with exclusive(path):
                raise AssertionError
        holder = f"process {process.pid} on {socket.gethostname()}"
        assert caught.value.holder == holder
    with exclusive(path):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / ".lock"
    with _another_process(path) as process:
        process.kill()
        process.wait()
        with exclusive(path):
            pass


@pytest.mark.parametrize(
    "error_number", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES]
)
def test_lock_that_is_in_use_is_told_from_one_that_cannot_be(
    tmp_path, monkeypatch, error_number
):
    _without_locks(monkeypatch, error_number)
    with pytest.raises(HeldElsewhereError):
        with exclusive(tmp_path / ".lock"):
            raise AssertionError


@pytest.mark.parametrize(
    "error_number",
    [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO],
)
def test_file_system_without_locks_is_worked_on_with_a_warning(
    tmp_path, monkeypatch, caplog, error_number
):
    _without_locks(monkeypatch, error_number)
    entered = False
    with caplog.at_level(logging.WARNING):
        with exclusive(tmp_path / ".lock"):
            entered = True
    assert entered
    (record,) = caplog.records
    assert os.strerror(error_number) in record.getMessage()
    assert str(tmp_path) in record.getMessage()


def test_without_locks_a_process_of_this_machine_is_noticed(
    tmp_path, monkeypatch
):
    path = tmp_path / ".lock"
    with _another_process(path) as process:
        _without_locks(monkeypatch, errno.ENOLCK)
        with pytest.raises(HeldElsewhereError, match=str(process.pid)):
            with exclusive(path):
                raise AssertionError
    with exclusive(path):
        pass


@pytest.mark.parametrize("end", ["leaves", "is killed"])
def test_without_locks_one_that_has_ended_keeps_nobody_out(
    tmp_path, monkeypatch, end
):
    path = tmp_path / ".lock"
    with _another_process(path) as process:
        if end == "is killed":
            process.kill()
            process.wait()
    _without_locks(monkeypatch, errno.ENOLCK)
    with exclusive(path):
        pass


def test_without_locks_another_machine_is_named(tmp_path, monkeypatch, caplog):
    path = tmp_path / ".lock"
    path.write_text("node7 123\n")
    _without_locks(monkeypatch, errno.ENOLCK)
    with caplog.at_level(logging.WARNING), exclusive(path):
        pass
    assert "process 123 on node7 may hold it" in caplog.text


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"a b c\n", b"host 99999999999\n", b"x" * 5000, b"12\n"],
)
def test_content_from_elsewhere_does_no_harm(tmp_path, monkeypatch, content):
    path = tmp_path / ".lock"
    path.write_bytes(content)
    _without_locks(monkeypatch, errno.ENOLCK)
    with exclusive(path):
        pass
    assert path.stat().st_size >= len(content)


def test_link_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (tmp_path / ".lock").symlink_to(target)
    with pytest.raises(OSError, match="link"), exclusive(tmp_path / ".lock"):
        raise AssertionError
    assert target.read_bytes() == b"precious"


def test_full_disk_does_not_undo_the_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / ".lock"
    monkeypatch.setattr(os, "pwrite", full)
    with exclusive(path):
        with pytest.raises(HeldElsewhereError), exclusive(path):
            raise AssertionError
