"""Stopping long work at a good place: SIGTERM and Ctrl-C as requests."""

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["StopRequest", "stop_requests"]

# EX_TEMPFAIL: "start the same command again"; 128 + 2, as shells have it.
_STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}


class StopRequest:
    """Whether somebody asked to stop, and how.

    Attributes:
      status: the exit status that tells of it; 0 while nobody did.
    """

    def __init__(self):
        self.status = 0

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.status != 0


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within, the first SIGTERM or Ctrl-C is a request; the second ends.

    Outside of the main thread, where signals cannot be had, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number, _):
        request.status = _STATUS[number]
        signal.signal(number, signal.SIG_DFL)

    previous = {n: signal.signal(n, handle) for n in _STATUS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
