"""Asking a server again that was busy or away."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from nvae_tf.core.errors import ClientError

__all__ = ["RetryableError", "with_retries"]

T = TypeVar("T")


class RetryableError(ClientError):
    """A request that may succeed later: the server is busy or away."""


def with_retries(
    attempt: Callable[[float], T],
    *,
    timeout: float,
    retries: int,
    pause: float = 0.1,
) -> T:
    """Calls until it works, the retries are used up or the time is over.

    Args:
      attempt: takes the seconds that are left; raises `RetryableError` if
        another attempt makes sense.
      timeout: seconds for all attempts and the pauses between them.
      retries: attempts after the first.
      pause: seconds before the second; each further one doubles it.

    Returns:
      What `attempt` returned.

    Raises:
      ClientError: what the last attempt raised.
    """
    deadline = time.monotonic() + timeout
    for i in range(retries + 1):
        try:
            return attempt(max(deadline - time.monotonic(), 0.001))
        except RetryableError:
            # Jitter, or else all clients of a busy server return at once.
            wait = pause * 2**i * random.uniform(0.5, 1.0)
            if i == retries or time.monotonic() + wait >= deadline:
                raise
            time.sleep(wait)
    raise AssertionError("unreachable")
