"""A latent-variable model whose log p(x) is known in closed form.

`p(z) = N(0, I)`, `p(x|z) = N(W z, s^2 I)`, so `p(x) = N(0, W W^T + s^2 I)`;
`q(z|x)` is a Normal near the exact posterior, but not equal to it.
"""

import math

import numpy as np
import tensorflow as tf

from nvae_tf.evaluation.importance import Terms

PIXELS, LATENTS = 6, 3
NOISE = 0.6
_W = np.random.default_rng(0).normal(size=(PIXELS, LATENTS))
_PRECISION = np.eye(LATENTS) + _W.T @ _W / NOISE**2
# Mean A x and root of the covariance, both off those of the posterior.
_A = np.linalg.solve(_PRECISION, _W.T) / NOISE**2 + 0.02
_ROOT = 1.6 * np.linalg.cholesky(np.linalg.inv(_PRECISION))
_LOG_DETERMINANT = float(np.log(np.diag(_ROOT)).sum())
_W_ROOT = _W @ _ROOT
_KL_OF_SPREAD = 0.5 * ((_ROOT**2).sum() - LATENTS) - _LOG_DETERMINANT
_LOG_2_PI = math.log(2 * math.pi)


def terms(x, eps) -> Terms:
    """What an estimator takes; see `ImportanceEstimator`."""
    mean = tf.matmul(x, tf.constant(_A.T, tf.float32))
    z = mean + tf.matmul(eps, tf.constant(_ROOT.T, tf.float32))
    error = x - tf.matmul(z, tf.constant(_W.T, tf.float32))
    return Terms(
        nll=_nll(error, NOISE),
        log_p=-_nll(z, 1.0),
        log_q=-_nll(eps, 1.0) - _LOG_DETERMINANT,
        kl=(_KL_OF_SPREAD + 0.5 * tf.reduce_sum(mean**2, axis=1))[
            :, None, None
        ],
    )


def _nll(error, sigma: float):
    size = float(error.shape[1])
    return 0.5 * tf.reduce_sum((error / sigma) ** 2, axis=1) + size * (
        0.5 * _LOG_2_PI + math.log(sigma)
    )


def draw_images(count: int, seed: int = 0):
    """float32 `[count, PIXELS]`, from p(x)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, LATENTS))
    x = z @ _W.T + NOISE * rng.normal(size=(count, PIXELS))
    return tf.constant(x, tf.float32)


def batches(x, size: int):
    """Batches with weights; the last one is filled up."""
    for start in range(0, len(x), size):
        part = x[start : start + size]
        missing = size - len(part)
        yield (
            tf.pad(part, [[0, missing], [0, 0]]),
            tf.constant([1.0] * len(part) + [0.0] * missing),
        )


def _covariance():
    return _W @ _W.T + NOISE**2 * np.eye(PIXELS)


def exact_nll(x) -> np.ndarray:
    """`-log p(x)`, float64 `[N]`."""
    x = np.asarray(x, np.float64)
    square = np.einsum("ni,ni->n", x, np.linalg.solve(_covariance(), x.T).T)
    _, determinant = np.linalg.slogdet(_covariance())
    return 0.5 * (square + determinant + PIXELS * _LOG_2_PI)


def entropy() -> float:
    """Mean of `-log p(x)` over p(x)."""
    _, determinant = np.linalg.slogdet(_covariance())
    return 0.5 * (determinant + PIXELS * (1 + _LOG_2_PI))


def exact_kl(x) -> np.ndarray:
    """KL of q(z|x) from p(z), float64 `[N]`."""
    mean = np.asarray(x, np.float64) @ _A.T
    return _KL_OF_SPREAD + 0.5 * (mean**2).sum(axis=1)


def exact_nelbo(x) -> np.ndarray:
    """Expectation of the NELBO over q, float64 `[N]`."""
    x = np.asarray(x, np.float64)
    error = x - x @ _A.T @ _W.T
    spread = (_W_ROOT**2).sum()
    nll = 0.5 * ((error**2).sum(axis=1) + spread) / NOISE**2 + PIXELS * (
        0.5 * _LOG_2_PI + math.log(NOISE)
    )
    return nll + exact_kl(x)


def exact_nelbo_deviation(x) -> float:
    """Root mean square over x of the deviation of -log p(x|z) over q."""
    x = np.asarray(x, np.float64)
    error = x - x @ _A.T @ _W.T
    square = _W_ROOT.T @ _W_ROOT
    linear = error @ _W_ROOT
    # Of a quadratic form of standard Normal noise.
    variance = 2 * np.trace(square @ square) + 4 * (linear**2).sum(axis=1)
    return float(np.sqrt(variance.mean())) / (2 * NOISE**2)
