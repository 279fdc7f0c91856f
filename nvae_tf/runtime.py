"""Settings of a process that save it memory and time.

Commands call `prepare` before anything imports TensorFlow; those that train
call `share_cores` before its first operation.  docs/memory.md and
docs/performance.md say what that saves.  Used as a library, nvae_tf leaves its
process alone.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import os
import sys

__all__ = ["prepare", "share_cores"]

# TensorFlow and the versions of Keras import these if they are installed, for
# features that are not used here: a third of the time and a fifth of the memory
# of importing them.
_EXTRAS = frozenset({"matplotlib", "pandas", "scipy", "sklearn"})
_IMPORTERS = frozenset({"keras", "tensorflow", "tf_keras"})

# Of <malloc.h>, on Linux.
_M_ARENA_MAX = -8
_ARENA_VARIABLES = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
# Multiplications of a convolution from which on two threads pay for it.
_SMALL_WORK = 2**26


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


def _glibc():
    """The GNU C library, or None where there is another."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None


def share_cores(work: int) -> None:
    """Divides the cores among the operations of a training step.

    Two operations usually run side by side: the two gradients of a
    convolution.  While they are small, half of the cores for each beats all
    cores for one after the other.  `TF_NUM_INTRAOP_THREADS` in the environment
    goes before.

    Args:
      work: multiplications of a typical convolution.
    """
    import tensorflow as tf

    cores = len(os.sched_getaffinity(0))
    if "TF_NUM_INTRAOP_THREADS" in os.environ or work >= _SMALL_WORK:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // 2))
    except RuntimeError:
        # Operations have run: whoever ran them has chosen.
        return
