"""What every fuzzer holds a reader to, and how long it goes on.

A reader is given thousands of inputs, mutated real ones and some built from
the grammar of their format.  It must return, or raise a `UserError` with one
short line that can be printed: no other exception, no hang, no memory that
grows with what a file claims.

The environment says how much: `NVAE_TF_FUZZ_BUDGET` inputs over all readers,
and `NVAE_TF_FUZZ_SEED` to draw others than the same ones every time.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from nvae_tf.core.errors import UserError

__all__ = ["COUNTS", "fuzz", "hold", "scratch", "table"]

BUDGET = int(os.environ.get("NVAE_TF_FUZZ_BUDGET", "1000"))
SEED = os.environ.get("NVAE_TF_FUZZ_SEED")
# Reader -> what came of its inputs -> how many.
COUNTS: dict[str, collections.Counter] = {}

_SECONDS_OF_WORK = 10.0
_SECONDS = 600.0
_GROWTH_BYTES = 2**28
_MESSAGE_LENGTH = 500


class _LateError(BaseException):
    """Not an Exception: readers may catch those."""


def fuzz(reader: str, share: float, **strategies: Any) -> Callable:
    """Makes a test of a reader from a function that feeds it one input.

    Args:
      reader: name, for the counts.
      share: of the budget.
      **strategies: of the function's arguments.
    """

    def decorate(function: Callable) -> Callable:
        COUNTS.setdefault(reader, collections.Counter())
        test = given(**strategies)(function)
        test = settings(
            max_examples=max(10, round(share * BUDGET)),
            # Nothing is kept between runs, or beside the tests.
            database=None,
            derandomize=SEED is None,
            deadline=None,
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )(test)
        if SEED is not None:
            test = seed(int(SEED))(test)
        test.reader = reader
        return test

    return decorate


def hold(reader: str, read: Callable, *arguments: Any) -> Any:
    """Reads one input; fails if it is neither read nor refused as it should.

    Returns:
      What was read, None if it was refused.
    """
    before, start = _peak(), time.process_time()
    result = None
    try:
        with _in_time():
            result = read(*arguments)
        outcome = "read"
    except UserError as error:
        outcome = "refused"
        _check_message(str(error), arguments)
    COUNTS[reader][outcome] += 1
    COUNTS[reader]["microseconds"] += round(1e6 * (time.process_time() - start))
    grown = _peak() - before
    assert grown < _GROWTH_BYTES, f"took {grown:,} bytes"
    return result


@contextlib.contextmanager
def scratch() -> Iterator[pathlib.Path]:
    """A folder that is empty again for every input."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def limited_memory(more: int = 2**32) -> Iterator[None]:
    """Within, this process cannot get much more memory than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    status = pathlib.Path("/proc/self/statm")
    if not status.exists():  # There the limit would mean something else.
        yield
        return
    pages = int(status.read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def table(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What became of the inputs, a line per reader and one of all.

    Args:
      counts: reader -> "read", "refused", "bad" and "microseconds".
    """
    total: collections.Counter = collections.Counter()
    rows = []
    for name, of_reader in [*sorted(counts.items()), ("in all", total)]:
        found = collections.Counter(of_reader)
        tried = found["read"] + found["refused"]
        rows.append(
            f"{name:26} {tried:9,} tried: {found['bad']} bad; "
            f"{found['read']:,} read, {found['refused']:,} refused, "
            f"{found['microseconds'] / max(tried, 1) / 1000:.2f} ms each"
        )
        total.update(of_reader)
    return rows


def _check_message(message: str, arguments: tuple) -> None:
    paths = sum(
        2 * len(str(a)) for a in arguments if isinstance(a, pathlib.Path)
    )
    assert message, "says nothing"
    assert len(message) <= _MESSAGE_LENGTH + paths, message
    assert message.isprintable(), ascii(message)


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def ring(signum: int, frame: object) -> None:
        raise _LateError(f"took too long ({signal.Signals(signum).name})")

    alarms = (
        # Of this process: the machine may be busy with others.
        (signal.SIGVTALRM, signal.ITIMER_VIRTUAL, _SECONDS_OF_WORK),
        (signal.SIGALRM, signal.ITIMER_REAL, _SECONDS),
    )
    before = {number: signal.signal(number, ring) for number, _, _ in alarms}
    try:
        for _, timer, seconds in alarms:
            signal.setitimer(timer, seconds)
        yield
    finally:
        for number, timer, _ in alarms:
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
