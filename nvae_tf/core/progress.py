"""Long work in front of a person: how far it is, and how to stop it."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import tqdm

from nvae_tf.core.errors import INTERRUPTED_STATUS, RESUME_STATUS

__all__ = ["StopRequest", "progress", "run_command", "stop_requests"]

_LOG_SECONDS = 20.0
_STATUS = {signal.SIGTERM: RESUME_STATUS, signal.SIGINT: INTERRUPTED_STATUS}


def progress(iterable=None, **kwargs) -> tqdm.tqdm:
    """A progress bar; where nobody watches, a line now and then.

    Args:
      iterable: what to go through, or None to update by hand.
      **kwargs: of `tqdm.tqdm`.
    """
    watched = sys.stderr.isatty()
    return tqdm.tqdm(
        iterable,
        dynamic_ncols=watched,
        mininterval=0.2 if watched else _LOG_SECONDS,
        maxinterval=10.0 if watched else _LOG_SECONDS,
        **kwargs,
    )


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


def run_command(command: list[str]) -> int:
    """Runs a command, which is asked to end when this one is.

    Args:
      command: the program and its arguments.

    Returns:
      Its exit status.

    Raises:
      SystemExit: if this one was.
    """
    with stop_requests() as stop, subprocess.Popen(command) as process:
        while process.poll() is None and not stop():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        # Ctrl-C in a terminal reaches both; a second request would not wait.
        if stop.status == RESUME_STATUS:
            process.terminate()
        process.wait()
    if stop():
        raise SystemExit(stop.status)
    return process.returncode
