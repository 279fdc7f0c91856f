"""The cores of this machine, and how a process uses them and its heap."""

import ctypes
import os
import sys

__all__ = ["available_cores", "share_cores", "share_heaps"]

# Of <malloc.h>, on Linux.
_M_ARENA_MAX = -8
_ARENA_VARIABLES = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")

# Multiplications of a convolution from which on two threads pay for it.
_SMALL_WORK = 2**26


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux: containers, taskset.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_cores(work: int) -> None:
    """Divides the cores among the operations of a training step.

    Two operations usually run side by side: the two gradients of a
    convolution.  While they are small, half of the cores for each beats all
    cores for one after the other (docs/developers/performance.md).
    `TF_NUM_INTRAOP_THREADS` in the environment goes before.  To be called
    before TensorFlow's first operation.

    Args:
      work: multiplications of a typical convolution.
    """
    import tensorflow as tf

    if "TF_NUM_INTRAOP_THREADS" in os.environ or work >= _SMALL_WORK:
        return
    threads = max(1, available_cores() // 2)
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        # Operations have run: whoever ran them has chosen.
        return


def share_heaps() -> None:
    """One heap for every two cores, where the C library is GNU's.

    It keeps eight for each core otherwise, and free memory of one cannot be
    used by another (docs/developers/memory.md).  `MALLOC_ARENA_MAX` and
    `GLIBC_TUNABLES` in the environment go before.
    """
    if not sys.platform.startswith("linux"):
        return
    if any(name in os.environ for name in _ARENA_VARIABLES):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, max(1, available_cores() // 2))
