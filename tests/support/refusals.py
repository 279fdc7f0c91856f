"""What bad input gets: one clear sentence, soon."""

import contextlib
import time
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def refused(
    error, *parts, path="", longest: int = 500, cpu_seconds: float = 20
) -> Iterator[None]:
    """The block raises an error that a person can read.

    Args:
      error: its type, or types.
      *parts: of its message.
      path: that it names; the rest is printable.
      longest: characters of the rest.
      cpu_seconds: that the block takes at most, of this process: others may
        keep the machine busy.
    """
    start = time.process_time()
    with pytest.raises(error) as caught:
        yield
    assert time.process_time() - start < cpu_seconds
    message = str(caught.value)
    assert str(path) in message
    # The file may have any name.
    words = message.replace(str(path), "")
    assert words.isprintable()
    assert len(words) < longest
    for part in parts:
        assert part in message
