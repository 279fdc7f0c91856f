"""What programs print, and who reads it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from collections.abc import Iterator

from nvae_tf.core.errors import PIPE_STATUS, USER_ERROR_STATUS

__all__ = ["printing_may_fail"]

# Why a disk takes no more.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def printing_may_fail() -> Iterator[None]:
    """Ends the program, without a traceback, where nobody takes its output.

    A reader that leaves, `| head`, needs no word; a full disk does.

    Raises:
      SystemExit: with `PIPE_STATUS`, if what reads standard output has ended;
        with `USER_ERROR_STATUS` and a sentence, if that is a file on a disk
        that is full.
    """
    try:
        try:
            yield
        finally:
            # Here rather than at the end of the process, which would complain.
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_left():
            # Another pipe, or a connection.
            raise
        _print_nowhere()
        sys.exit(PIPE_STATUS)
    except OSError as error:
        if error.errno not in _FULL or not _takes_no_more():
            # Another file.
            raise
        _print_nowhere()
        print(
            "error: Standard output, where the results go, cannot be written: "
            f"{error.strerror}.",
            file=sys.stderr,
        )
        sys.exit(USER_ERROR_STATUS)


def _print_nowhere() -> None:
    """Lets what is left in the buffer, and what follows, go to nobody."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _takes_no_more() -> bool:
    """Whether standard output is where writing fails."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _is_left() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        # Not a file of the system's.
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
