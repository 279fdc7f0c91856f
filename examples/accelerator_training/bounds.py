"""Bounds out of log importance weights; needs NumPy alone."""

from __future__ import annotations

import numpy as np

__all__ = ["curve"]

_DRAW_COUNTS = (1, 10, 100, 1000)


def curve(log_weights: np.ndarray) -> dict[int, np.ndarray]:
    """Importance-weighted bounds on -log p(x), by the number of draws.

    Those of fewer draws than there are are means over disjoint ones.

    Args:
      log_weights: `[K, N]`, nats.

    Returns:
      float64 `[N]`, nats, by number of draws.
    """
    weights = np.asarray(log_weights, np.float64)
    total = len(weights)
    bounds = {}
    for count in sorted({c for c in _DRAW_COUNTS if c < total} | {total}):
        blocks = weights[: total // count * count].reshape(
            -1, count, weights.shape[1]
        )
        sums = np.logaddexp.reduce(blocks, axis=1)
        bounds[count] = (np.log(count) - sums).mean(axis=0)
    return bounds
