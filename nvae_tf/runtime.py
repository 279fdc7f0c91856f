"""Settings of a process that save it memory and start-up time.

Commands call `prepare` before anything imports TensorFlow, `settle` once it is
imported, and make a large function's first call in `trimmed_heap`; see
docs/memory.md for what that saves.  Used as a library, nvae_tf leaves its
process alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.abc
import os
import sys
import threading
from collections.abc import Iterator

__all__ = ["forget_loading", "prepare", "settle", "trimmed_heap"]

# TensorFlow and the versions of Keras import these if they are installed, for
# features that are not used here: a third of the time and a fifth of the memory
# of importing them.
_EXTRAS = frozenset({"matplotlib", "pandas", "scipy", "sklearn"})
_IMPORTERS = frozenset({"keras", "tensorflow", "tf_keras"})

# Of <malloc.h> and <sys/mman.h>, on Linux.
_M_ARENA_MAX = -8
_MADV_DONTNEED = 4
_ARENA_VARIABLES = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
_TRIM_SECONDS = 0.5


class _WithoutExtras(importlib.abc.MetaPathFinder):
    """Hides from TensorFlow the packages that it can do without."""

    def find_spec(self, fullname, path=None, target=None):
        """Raises ImportError if it asks for one; leaves all else alone."""
        del path, target
        importer, _, _ = _importer().partition(".")
        if fullname in _EXTRAS and importer in _IMPORTERS:
            raise ModuleNotFoundError(f"{fullname} is hidden from {importer}")


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

    - TensorFlow imports no package that it can do without.
    - The C library keeps one heap for every two cores instead of eight for
      each: free memory of one cannot be used by another.  `MALLOC_ARENA_MAX`
      and `GLIBC_TUNABLES` in the environment go before.
    """
    if any(isinstance(finder, _WithoutExtras) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _WithoutExtras())
    libc = _glibc()
    if libc and not any(name in os.environ for name in _ARENA_VARIABLES):
        libc.mallopt(_M_ARENA_MAX, max(1, (os.cpu_count() or 1) // 2))


def settle() -> None:
    """Ends the loading of TensorFlow, before the first operation.

    - See `forget_loading`.
    - Graphs are optimised without looking for what could be computed
      beforehand.  In a training step that is next to nothing, and the search
      takes a quarter of the time of all optimisers.
    """
    import tensorflow as tf

    forget_loading()
    tf.config.optimizer.set_experimental_options({"constant_folding": False})


def _glibc():
    """The GNU C library, or None where there is another."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None


@contextlib.contextmanager
def trimmed_heap():
    """Keeps giving the heap's free pages back, for a function's first call.

    TensorFlow allocates and frees some hundred megabytes in small pieces while
    it optimises a graph, and then allocates tensors elsewhere.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    done = threading.Event()

    def trim() -> None:
        while not done.wait(_TRIM_SECONDS):
            libc.malloc_trim(0)

    thread = threading.Thread(target=trim, name="trim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


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
        for start, end in list(_unchanged_libraries("/proc/self/smaps")):
            libc.madvise(
                ctypes.c_void_p(start),
                ctypes.c_size_t(end - start),
                _MADV_DONTNEED,
            )


def _unchanged_libraries(smaps: str) -> Iterator[tuple[int, int]]:
    """Yields the addresses of read-only parts of libraries.

    Those that loading has changed are left out: they are in memory only.

    Args:
      smaps: path of the kernel's list of what a process has mapped.
    """
    with open(smaps, encoding="utf-8") as lines:
        for line in lines:
            first, *rest = line.split()
            if not first.endswith(":"):
                start, end = (int(x, 16) for x in first.split("-"))
                is_code = "w" not in rest[0] and ".so" in rest[-1]
                changed = 0
            elif first in ("Anonymous:", "Swap:"):
                changed += int(rest[0])
            elif first == "VmFlags:" and is_code and not changed:
                yield start, end
