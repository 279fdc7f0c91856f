"""Working ahead in background threads."""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from typing import TypeVar

__all__ = ["map_ahead"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def map_ahead(
    function: Callable[[_In], _Out],
    items: Iterable[_In],
    num_threads: int,
    ahead: int = 2,
) -> Generator[_Out, None, None]:
    """Like `map`, but some results are computed before they are asked for.

    Results come in the order of `items`.  An error of `function` is raised
    where its result would have come.  Closing or dropping the generator
    cancels what has not begun.

    Args:
      function: called from `num_threads` threads at once.
      items: may be endless; taken from the caller's thread.
      num_threads: 0 computes each result when it is asked for.
      ahead: results waiting, per thread.

    Yields:
      The results.
    """
    if not num_threads:
        yield from map(function, items)
        return
    pool = futures.ThreadPoolExecutor(num_threads, "nvae_tf_data")
    pending: collections.deque[futures.Future[_Out]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > num_threads * ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Not waiting: what runs is short, and the interpreter joins it at
        # exit.
        pool.shutdown(wait=False, cancel_futures=True)
