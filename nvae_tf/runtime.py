"""Settings of a process that save it memory and start-up time.

Commands call `prepare` before anything imports TensorFlow, and
`forget_loading` once it is imported; see docs/memory.md for what they save.
Used as a library, nvae_tf leaves its process alone.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import importlib.abc
import os
import sys
import threading
import typing

__all__ = ["forget_loading", "prepare"]

# What Keras imports if it is installed, for features that are not used here:
# a third of the time and a fifth of the memory of importing TensorFlow.
_EXTRAS_OF_KERAS = frozenset({"matplotlib", "pandas", "sklearn"})

# Of <malloc.h> and <sys/mman.h>, on Linux.
_M_ARENA_MAX = -8
_MADV_DONTNEED = 4
_ARENA_VARIABLES = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
_TRIM_SECONDS = 0.5


class _WithoutExtras(importlib.abc.MetaPathFinder):
    """Lets Keras find none of the packages that it can do without."""

    def find_spec(self, fullname, path=None, target=None):
        """Raises ImportError if Keras asks for one; leaves others alone."""
        del path, target
        if fullname in _EXTRAS_OF_KERAS and _importer().startswith("keras."):
            raise ModuleNotFoundError(f"{fullname} is hidden from Keras")


def _importer() -> str:
    """The name of the module whose import statement is running."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and not name.startswith("importlib."):
            return name
        frame = frame.f_back
    return ""


def prepare() -> None:
    """Makes the process lean; a second call changes nothing more.

    - Keras does not import pandas, scikit-learn and matplotlib.
    - The C library keeps one heap for every two cores instead of eight for
      each: free memory of one cannot be used by another.  `MALLOC_ARENA_MAX`
      and `GLIBC_TUNABLES` in the environment go before.
    - What TensorFlow frees in small pieces while it optimises a graph, some
      hundred megabytes, goes back to the system, before tensors are allocated.
    """
    if any(isinstance(finder, _WithoutExtras) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _WithoutExtras())
    libc = _glibc()
    if libc is None:
        return
    if not any(name in os.environ for name in _ARENA_VARIABLES):
        libc.mallopt(_M_ARENA_MAX, max(1, (os.cpu_count() or 1) // 2))
    threading.Thread(
        target=_keep_trimming, args=(libc,), name="trim", daemon=True
    ).start()


def _glibc():
    """The GNU C library, or None where there is another."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None


def _keep_trimming(libc) -> None:
    while True:
        threading.Event().wait(_TRIM_SECONDS)
        libc.malloc_trim(0)


class _Mapping(typing.NamedTuple):
    """A part of a file that is in the process's memory."""

    start: int
    end: int


def forget_loading() -> None:
    """Unmaps the pages of shared libraries that only loading them has read.

    Three quarters of what is resident after TensorFlow is imported are symbol
    tables and initialisation code that nothing reads again.  The pages are
    those of the files, unchanged: what is read after all comes from the
    system's cache of files.
    """
    libc = _glibc()
    if libc is None:
        return
    with contextlib.suppress(OSError):
        for mapping in _unchanged_libraries():
            libc.madvise(
                ctypes.c_void_p(mapping.start),
                ctypes.c_size_t(mapping.end - mapping.start),
                _MADV_DONTNEED,
            )
