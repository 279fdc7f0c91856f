"""Loss terms: pure functions of a pass's result, per example, in nats."""

import math

import tensorflow as tf

from nvae_tf.config import ModelConfig
from nvae_tf.distribute import replicas

__all__ = [
    "balance_alphas",
    "balance_coefficients",
    "balanced_kl",
    "bits_per_dim",
    "kl_sizes",
    "log_importance_weight",
    "nll_from_weights",
    "reconstruction_nll",
]


def reconstruction_nll(likelihood, x):
    """`-log p(x|z)`, the padding left out.

    Args:
      likelihood: what `NVAE.likelihood` returned.
      x: float32 `[B, H, W, C]` in [0, 1], padded where the data is.

    Returns:
      float32 `[B]`, nats.
    """
    return -likelihood.log_prob(x)


def balance_alphas(config: ModelConfig) -> list[float]:
    """Size of every group's KL that balancing reckons with, top-down.

    `4^i / G_i` for scale i (0: coarsest), over the smallest (paper appendix
    A, "KL balancing"): larger scales have more variables, more groups share.
    """
    per_scale = [
        4**i / groups for i, groups in enumerate(config.groups_top_down)
    ]
    smallest = min(per_scale)
    return [
        alpha / smallest
        for alpha, groups in zip(per_scale, config.groups_top_down, strict=True)
        for _ in range(groups)
    ]


def kl_sizes(kl_per_group):
    """Mean of `|KL_l|` over the batch of all replicas, without gradient.

    Args:
      kl_per_group: float32 `[B, L]`, nats.

    Returns:
      float32 `[L]`.
    """
    sizes = tf.reduce_mean(tf.abs(kl_per_group), axis=0)
    return replicas.mean(tf.stop_gradient(sizes))


def balance_coefficients(sizes, alphas):
    """gamma: weights of mean 1 that favour groups with a large KL.

    `gamma_l ~ (mean |KL_l| + 0.01) / alpha_l`.

    Args:
      sizes: float32 `[L]`, see `kl_sizes`.
      alphas: `[L]`, see `balance_alphas`.

    Returns:
      float32 `[L]`.
    """
    gamma = (sizes + 0.01) / tf.constant(alphas, tf.float32)
    return gamma / tf.reduce_mean(gamma)


def balanced_kl(kl_per_group, alphas, beta, sizes=None):
    """The KL term of the training loss (paper appendix A).

    Args:
      kl_per_group: float32 `[B, L]`, nats.
      alphas: `[L]`, see `balance_alphas`.
      beta: float32 scalar, the KL warm-up's coefficient.
      sizes: `[L]`, what to balance by; None for `kl_sizes` of this batch.

    Returns:
      `(kl, gamma)`: `[B]`, `beta * sum_l gamma_l KL_l` while beta < 1, then
      the plain sum; `[L]` the weights in use.
    """
    if sizes is None:
        sizes = kl_sizes(kl_per_group)
    gamma = balance_coefficients(sizes, alphas)
    gamma = tf.where(beta < 1, gamma, tf.ones_like(gamma))
    return beta * tf.linalg.matvec(kl_per_group, gamma), gamma


def bits_per_dim(nats, config: ModelConfig):
    """Nats per image -> bits per dimension of the unpadded image."""
    return nats / (math.log(2) * config.num_dimensions)


def log_importance_weight(reconstruction, log_p, log_q):
    """`log p(x|z) + log p(z) - log q(z|x)`, nats."""
    return -reconstruction + log_p - log_q


def nll_from_weights(log_weights):
    """Importance-weighted estimate of `-log p(x)`.

    Args:
      log_weights: `[K, B]`, from K independent passes.

    Returns:
      `[B]`, nats: `-(logsumexp_k - log K)`.
    """
    count = tf.cast(tf.shape(log_weights)[0], log_weights.dtype)
    return tf.math.log(count) - tf.reduce_logsumexp(log_weights, axis=0)
