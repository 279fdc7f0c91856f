"""The order of an epoch, and the words that all random draws begin with.

Needs NumPy alone.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CROPS", "ORDER", "PIXELS", "epoch_order", "random_words"]

# Purposes of random words: no two of them share a stream.
ORDER, PIXELS, CROPS = 1, 2, 3


def epoch_order(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch of training reads the images.

    Returns:
      int64 `[num_images]`, a permutation.
    """
    # Raw bits of a counter-based generator and a stable sort: unlike
    # `Generator.permutation`, NumPy promises these never to change.
    key = random_words(seed, ORDER, epoch)
    bits = np.random.Philox(key=key).random_raw(num_images)
    return np.argsort(bits, kind="stable")


def random_words(seed: int, purpose: int, *numbers: int) -> np.ndarray:
    """uint64 `[2]` that depend on the arguments alone."""
    # SeedSequence takes no negative numbers.
    entropy = (purpose, seed % 2**64, *numbers)
    sequence = np.random.SeedSequence(entropy)
    return sequence.generate_state(2, np.uint64)
