"""Progress of long work, for a person or for a log file."""

import sys

import tqdm

__all__ = ["progress"]

_LOG_SECONDS = 20.0


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
