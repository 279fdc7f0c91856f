"""What the machine can do at best, in this process."""

import math
import time

import tensorflow as tf

from nvae_tf.distribute.cores import available_cores

__all__ = ["matmul_rate", "moving_rate", "side_by_side"]

_MATMUL_SIZE = 2048
# Of tensors that are multiplied, to see how fast bytes move, and how often.
_MOVED_BYTES = (2**19, 2**21, 2**23)
_MOVES = 32


def side_by_side() -> int:
    """How many operations it takes to use all cores."""
    cores = available_cores()
    threads = tf.config.threading.get_intra_op_parallelism_threads() or cores
    return max(1, cores // threads)


def matmul_rate(repeats: int = 10) -> float:
    """FLOP per second of float32 products of two 2048 x 2048 matrices.

    Where an operation has not all cores, so many products run side by side
    that they are in use.

    Args:
      repeats: the best of so many counts.
    """
    factors = [
        tf.random.stateless_uniform([_MATMUL_SIZE] * 2, [0, i])
        for i in range(side_by_side())
    ]
    seconds = _fastest(
        lambda: [tf.linalg.matmul(a, a) for a in factors], repeats
    )
    return len(factors) * 2 * _MATMUL_SIZE**3 / seconds


def moving_rate(repeats: int = 10) -> float:
    """Bytes per second, read and written, of multiplying by element.

    Of tensors of the size that suits the caches best, side by side as those of
    `matmul_rate`.

    Args:
      repeats: see `matmul_rate`.
    """
    return max(_moving_rate(size, repeats) for size in _MOVED_BYTES)


def _moving_rate(size: int, repeats: int) -> float:
    ones = tf.ones([size // 4])
    pairs = [(ones + i, ones * (1 - 2**-20)) for i in range(side_by_side())]

    def multiply():
        products = []
        for a, b in pairs:
            for _ in range(_MOVES):
                a *= b
            products.append(a)
        return products

    return len(pairs) * 3 * size * _MOVES / _fastest(multiply, repeats)


def _fastest(run, repeats: int) -> float:
    """The least seconds that a graph took for all of its tensors."""
    run = tf.function(run, autograph=False)
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        for tensor in run():
            tensor.numpy()
        best = min(best, time.perf_counter() - began)
    return best
