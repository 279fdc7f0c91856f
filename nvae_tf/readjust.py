"""Re-adjusting batch normalisation for sampling.

The moving statistics are those of training, where latents come from the
posterior.  At a temperature below 1 the prior's draws look different; the
authors let the statistics settle on them before they sample colour images.
"""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from nvae_tf.errors import UserError
from nvae_tf.layers import Mode
from nvae_tf.model import NVAE

__all__ = ["BATCH_SIZE", "STEPS", "readjust_batch_norm"]

STEPS = 500
BATCH_SIZE = 16


def readjust_batch_norm(
    model: NVAE,
    temperature,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Lets the decoder's moving statistics settle on draws from the prior.

    Changes the model's moving means and variances; the encoder's stay.

    Args:
      model: the model.
      temperature: see `NVAE.decode`.
      steps: passes in training mode.
      batch_size: images per pass.
      seed: of the draws.
      progress: wraps the steps, to show how far they are.

    Raises:
      UserError: if a statistic is not finite afterwards; the model is then
        as it was.
    """
    statistics = {
        name: variable
        for name, variable in model.named_variables().items()
        if name.endswith(("/mean", "/variance"))
    }
    before = {name: v.numpy() for name, v in statistics.items()}
    temperature = tf.constant(temperature, tf.float32)

    @tf.function(autograph=False)
    def one_pass(number):
        out = model.decode(
            seed=tf.stack([seed, number]),
            temperature=temperature,
            batch_size=batch_size,
            mode=Mode.TRAINING,
        )
        model.apply_updates(out.updates)

    for number in progress(range(steps)):
        one_pass(tf.constant(number))
    for name, variable in statistics.items():
        if not np.all(np.isfinite(variable.numpy())):
            for other, value in before.items():
                statistics[other].assign(value)
            raise UserError(
                f"After re-adjustment the statistic {name} is not finite: the "
                "model does not bear batch statistics at this temperature. "
                "Choose another --temperature, or leave --readjust_bn away."
            )
