"""Ends a process that makes no progress, so that it is started again.

A collective operation whose partner is gone, or an input pipeline whose disk
hangs, waits for ever and raises nothing.  A thread beside the training notices
that nothing was reported for too long, writes where every thread is, and ends
the process with the status that means "start the same command again".
"""

import contextlib
import faulthandler
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator

from nvae_tf.core.errors import RESUME_STATUS
from nvae_tf.core.files import open_own

__all__ = ["STACKS_FILE", "Watchdog"]

STACKS_FILE = "stacks.txt"
_LONGEST_NAP = 10.0


class Watchdog:
    """Watches a process from a thread of its own, as a context.

    ::

        with Watchdog(60 * config.train.watchdog_minutes, workdir) as watchdog:
            for batch in batches:
                step(batch)
                watchdog.beat()

    Time in which the whole process was stopped, by Ctrl-Z for example, does
    not count.

    Args:
      limit: seconds without a beat after which the process ends; 0 for none.
      directory: where the stacks of all threads are added to
        `STACKS_FILE`.
    """

    def __init__(self, limit: float, directory):
        self.limit = limit
        self.path = pathlib.Path(directory) / STACKS_FILE
        self._factor = 1.0
        self._beats = 0
        self._what = "the start"
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        """Starts to watch."""
        if self.limit:
            self._ended.clear()
            self.beat()
            self._thread = threading.Thread(
                target=self._watch, name="watchdog", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        """Watches no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def beat(self, what: str = "") -> None:
        """Reports progress; costs next to nothing, from any thread.

        Args:
          what: was reached, such as "step 1400", to tell when it was the last
            that was.
        """
        self._what = what or self._what
        self._beats += 1

    @contextlib.contextmanager
    def allowing(self, factor: float) -> Iterator[None]:
        """Allows more time for work that is known to be long.

        Args:
          factor: of the limit, within the block.
        """
        before = self._factor
        self._factor = factor
        self.beat()
        try:
            yield
        finally:
            self._factor = before
            self.beat()

    def _watch(self) -> None:
        nap = min(self.limit / 10, _LONGEST_NAP)
        last, beats, waited = time.monotonic(), self._beats, 0.0
        while not self._ended.wait(nap):
            now = time.monotonic()
            # A nap that took far longer is one of the whole process.
            waited += min(now - last, 2 * nap)
            last = now
            if beats != self._beats:
                beats, waited = self._beats, 0.0
            if waited > self.limit * self._factor:
                self._end(waited)

    def _end(self, waited: float) -> None:
        """Says where every thread is; returns to nobody."""
        print(
            f"No progress for {waited / 60:.3g} minutes after "
            f"{self._what}: a device, another process or the disk does not "
            "answer. Every thread's stack follows, and is in "
            f"{self.path}. Start the same command again: it goes on from the "
            "last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        # The disk may be what does not answer: it must not keep the process.
        writer = threading.Thread(target=self._write_stacks, daemon=True)
        writer.start()
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        writer.join(timeout=_LONGEST_NAP)
        # Not sys.exit: the main thread hangs and would hear nothing of it.
        os._exit(RESUME_STATUS)

    def _write_stacks(self) -> None:
        with (
            contextlib.suppress(OSError),
            open(self.path, "a", opener=open_own) as file,
        ):
            # Several processes may share the folder.
            file.write(f"Process {os.getpid()} after {self._what}:\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
