"""A file that one process holds, so that another keeps out."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import time
from collections.abc import Iterator

from nvae_tf.core.files import open_own, process_runs

__all__ = ["HeldElsewhereError", "exclusive", "wait_for_others"]

_LOG = logging.getLogger(__name__)
# What `flock` raises where another process has the lock; NFS says EACCES.
_IN_USE = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_HOLDER = re.compile(r"(\S{1,255}) (\d{1,10})")
# `wait_for_others` waits no longer: writing takes no such time.
_PATIENCE_SECONDS = 5.0


class HeldElsewhereError(Exception):
    """Another process has the lock.

    Attributes:
      holder: "process 123 on HOST", as far as that is known; may be empty.
    """

    def __init__(self, holder: str):
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def exclusive(path: str | os.PathLike) -> Iterator[None]:
    """Holds a lock while the block runs; it ends with the process, too.

    On file systems without locks (some NFS and Lustre mounts) what the last
    holder wrote into the file stands in: it keeps out other processes of the
    same machine, which can be looked for, but not those of other machines.

    Args:
      path: of the file, which is made if need be and stays.  Never a link, so
        that a folder from elsewhere cannot direct what is written.

    Raises:
      HeldElsewhereError: if another process holds the lock.
      OSError: if the file cannot be opened, or is no file of its own.
    """
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _IN_USE:
                raise HeldElsewhereError(_holder(descriptor)[0]) from error
            _check_note(descriptor, path, error)
        _note(descriptor, f"{socket.gethostname()} {os.getpid()}\n")
        try:
            yield
        finally:
            _note(descriptor, "\n")
    finally:
        os.close(descriptor)


def wait_for_others(descriptor: int) -> None:
    """Keeps other writers out of an open file until it is closed.

    For what is written at once: one who holds the lock for longer than that
    takes is not waited for, and file systems without locks do without.

    Args:
      descriptor: of the file.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _IN_USE:
                return
        time.sleep(0.005)


def _note(descriptor: int, line: str) -> None:
    """Writes the first line, which alone counts: nothing is truncated."""
    # Without room on the disk the lock holds all the same.
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, line.encode(), 0)


def _holder(descriptor: int) -> tuple[str, str, int]:
    """Who wrote into the file last: in words, host and process."""
    text = os.pread(descriptor, 512, 0).decode("utf-8", "replace")
    match = _HOLDER.fullmatch(text.partition("\n")[0])
    if match is None:
        return "", "", 0
    host, process = match[1], int(match[2])
    return f"process {process} on {host}", host, process


def _check_note(descriptor: int, path, problem: OSError) -> None:
    """Raises HeldElsewhereError if the note's writer runs on this machine."""
    words, host, process = _holder(descriptor)
    if (
        host == socket.gethostname()
        and process not in (0, os.getpid())
        and process_runs(process)
    ):
        raise HeldElsewhereError(words) from problem
    other = f"{words} may hold it; " if words else ""
    _LOG.warning(
        "%s cannot be locked (%s): %smake sure that no other process works "
        "there.",
        path,
        problem.strerror,
        other,
    )
