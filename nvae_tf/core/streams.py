"""What programs print, and who reads it."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

from nvae_tf.core.errors import PIPE_STATUS

__all__ = ["reader_may_leave"]


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Ends the program without a word where nobody reads on: `| head`.

    Raises:
      SystemExit: with `PIPE_STATUS`, if what reads standard output has ended.
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
        # For what is left in the buffer.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        sys.exit(PIPE_STATUS)


def _is_left() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        # Not a file of the system's.
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
