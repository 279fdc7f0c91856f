"""How the coefficients of training change (paper appendix A).

Functions of plain numbers, computed on the host in double precision.
"""

import math
import typing

from nvae_tf.config import TrainConfig

__all__ = [
    "Coefficients",
    "coefficients",
    "kl_beta",
    "learning_rate",
    "regularization",
]


class Coefficients(typing.NamedTuple):
    """What one step is told.

    Attributes:
      beta: coefficient of the KL term.
      regularization: lambda, of the spectral and BN terms.
      learning_rate: of the optimiser.
    """

    beta: float
    regularization: float
    learning_rate: float


def coefficients(
    config: TrainConfig, step: int, steps_per_epoch: int
) -> Coefficients:
    """All coefficients of a step, counted from 0."""
    beta = kl_beta(config, step, steps_per_epoch * config.epochs)
    return Coefficients(
        beta,
        regularization(config, beta),
        learning_rate(config, step, steps_per_epoch),
    )


def kl_beta(config: TrainConfig, step: int, total_steps: int) -> float:
    """KL warm-up: linear over a portion of training, after a short pause."""
    grown = (step - config.kl_const_portion * total_steps) / (
        config.kl_anneal_portion * total_steps
    )
    return max(min(grown, 1.0), config.kl_const_coeff)


def regularization(config: TrainConfig, beta: float) -> float:
    """lambda: constant, or from one value to another on a log scale."""
    if config.regularization_init is None:
        return config.regularization
    return math.exp(
        (1 - beta) * math.log(config.regularization_init)
        + beta * math.log(config.regularization)
    )


def learning_rate(
    config: TrainConfig, step: int, steps_per_epoch: int
) -> float:
    """Linear warm-up per step, then a cosine per epoch."""
    warmup_steps = config.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return config.learning_rate * step / warmup_steps
    epoch = step // steps_per_epoch
    span = max(1, config.epochs - config.warmup_epochs - 1)
    progress = min(1.0, (epoch - config.warmup_epochs) / span)
    low, high = config.min_learning_rate, config.learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2
