"""Lowers functions of TensorFlow to StableHLO, with all variables arguments.

    lowered = lower_step(step, batch_size)     # TrainStep, made with
    path.write_bytes(                          # NVAE(..., device="GPU")
        artifact.pack(lowered.module, lowered.description)
    )

The file runs with JAX alone, see `program`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nvae_tf.config.schedules import Coefficients
from nvae_tf.export.stablehlo.lowering import Lowered, lower_function
from nvae_tf.model.flat import PackedVariable
from nvae_tf.model.nvae import NVAE
from nvae_tf.training.train_step import TrainStep

__all__ = [
    "Lowered",
    "lower_function",
    "lower_sampler",
    "lower_step",
    "step_function",
    "variables_by_name",
]


def lower_step(
    step: TrainStep, batch_size: int, *, with_noise: bool = False
) -> Lowered:
    """Lowers a training step.

    It takes "x", "beta", "regularization", "learning_rate" and "seed", and
    returns `StepMetrics` by name.

    Args:
      step: of a model that was made for the device (`NVAE(device=...)`).
      batch_size: images of a step.
      with_noise: take the noise of the latents, "eps_0", "eps_1", ..., instead
        of a seed.
    """
    function, arguments = step_function(step, batch_size, with_noise=with_noise)
    return lower_function(
        function, arguments, variables_by_name(step.named_variables())
    )


def step_function(
    step: TrainStep, batch_size: int, *, with_noise: bool = False
) -> tuple[Callable[..., dict[str, Any]], dict[str, tf.TensorSpec]]:
    """A training step as `lower_function` takes it: the function, arguments.

    Args:
      step: see `lower_step`.
      batch_size: likewise.
      with_noise: likewise.
    """
    config = step.model.config
    size = config.padded_size
    scalar = tf.TensorSpec([], tf.float32)
    arguments = {
        "x": tf.TensorSpec(
            [batch_size, size, size, config.image_channels], tf.float32
        ),
        "beta": scalar,
        "regularization": scalar,
        "learning_rate": scalar,
    }
    if with_noise:
        for i, shape in enumerate(config.latent_shapes):
            arguments[f"eps_{i}"] = tf.TensorSpec([batch_size, *shape])
    else:
        arguments["seed"] = tf.TensorSpec([2], tf.int32)

    def take(x, beta, regularization, learning_rate, seed=None, **noise):
        coefficients = Coefficients(beta, regularization, learning_rate)
        eps = list(noise.values()) or None
        return step(x, coefficients, seed=seed, eps=eps)._asdict()

    return take, arguments


def lower_sampler(model: NVAE, batch_size: int) -> Lowered:
    """Lowers the drawing of images.

    It takes "seed" and "temperature", and returns "mean", of the pixels'
    distributions, `[B, H, W, C]`.

    Args:
      model: made for the device.
      batch_size: images of a draw.
    """

    def sample(seed, temperature):
        logits = model.sample_logits(
            seed=seed, temperature=temperature, batch_size=batch_size
        )
        return {"mean": model.likelihood(logits).mean()}

    return lower_function(
        sample,
        {
            "seed": tf.TensorSpec([2], tf.int32),
            "temperature": tf.TensorSpec([], tf.float32),
        },
        variables_by_name(model.named_variables()),
    )


def variables_by_name(named: dict[str, Any]) -> dict[str, tf.Variable]:
    """TensorFlow's variables behind those that checkpoints name.

    Of a packed one, the variables of its parts: "name/0", "name/1", ...

    Args:
      named: Keras's, TensorFlow's and packed variables.
    """
    variables = {}
    for name, variable in named.items():
        if isinstance(variable, PackedVariable):
            for i, piece in enumerate(variable.pieces):
                variables[f"{name}/{i}"] = piece
        elif isinstance(variable, tf.Variable):
            variables[name] = variable
        else:
            variables[name] = variable.value  # Keras's holds TensorFlow's.
    return variables
