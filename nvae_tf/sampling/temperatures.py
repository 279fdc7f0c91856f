"""Temperatures of the latent groups, as users write them."""

import math
from collections.abc import Sequence

import numpy as np

from nvae_tf.config import ModelConfig
from nvae_tf.core.errors import ConfigError

__all__ = ["parse_temperatures"]


def parse_temperatures(
    config: ModelConfig,
    temperature: Sequence[str] = (),
    scale_temperature: Sequence[str] = (),
) -> float | np.ndarray:
    """What `--temperature` and `--scale_temperature` say.

    Args:
      config: the architecture.
      temperature: one number, or one per group, top-down.
      scale_temperature: one number per scale, coarsest first, in place of
        `temperature`.

    Returns:
      A number where all groups have the same, otherwise float32 `[L]`.

    Raises:
      ConfigError: if they are not such numbers.
    """
    name, texts, count, unit = (
        "temperature",
        temperature,
        config.num_groups,
        "latent groups, top-down",
    )
    if scale_temperature:
        name, texts, count, unit = (
            "scale_temperature",
            scale_temperature,
            config.num_latent_scales,
            "scales, coarsest first",
        )
    values = [_number(name, text) for text in texts]
    if len(values) == 1 and not scale_temperature:
        return values[0]
    if len(values) != count:
        raise ConfigError(
            f"--{name} has {len(values)} numbers, but this model has {count} "
            f"{unit}: give one for each."
        )
    if scale_temperature:
        values = np.repeat(values, config.groups_top_down).tolist()
    if len(set(values)) == 1:
        return values[0]
    return np.array(values, np.float32)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(
            f"--{name} holds {text!r}, which is not a number from 0 up."
        )
    return value
