"""Temperatures of the latent groups, as users write them.

Everywhere in Python a temperature is a number, `[L]` for one per latent group,
top-down, or `[B, L]`; `[B, 1]` for one per image.  One axis always means
groups.  Exported graphs alone differ, where every first axis is the batch.
"""

import math
from collections.abc import Sequence

import numpy as np

from nvae_tf.config import ModelConfig
from nvae_tf.core.errors import ConfigError, UserError

__all__ = ["as_rows", "parse_temperatures", "take_rows"]


def as_rows(
    temperature,
    num_groups: int,
    num_images: int,
    error: type[UserError] = ConfigError,
) -> np.ndarray:
    """A temperature for every image and group.

    Args:
      temperature: a number, `[L]`, `[B, L]` or `[B, 1]`; B may be 1.
      num_groups: L.
      num_images: B.
      error: what is raised.

    Returns:
      float32 `[B, L]`, or `[1, L]` if all images have the same.

    Raises:
      UserError: `error`, if it has another shape or is no number from 0 up.
    """
    try:
        # What float32 cannot hold becomes infinite, and is refused below.
        with np.errstate(over="ignore"):
            t = np.asarray(temperature, np.float32)
    except (TypeError, ValueError) as problem:
        raise error(
            f"A temperature must be numbers, not {temperature!r}."
        ) from problem
    match t.shape:
        case () | (_,):
            fits = t.shape in ((), (num_groups,))
        case (rows, columns):
            fits = rows in (1, num_images) and columns in (1, num_groups)
        case _:
            fits = False
    if not fits:
        raise error(
            f"The temperature has shape {list(t.shape)}, but the model has "
            f"{num_groups} latent groups and is to draw {num_images} images: "
            f"give a number, [{num_groups}] for one per latent group, "
            f"top-down, [{num_images}, 1] for one per image, or "
            f"[{num_images}, {num_groups}]."
        )
    if not np.all(np.isfinite(t) & (t >= 0)):
        raise error("A temperature must be finite and not negative.")
    return np.broadcast_to(t, [t.shape[0] if t.ndim == 2 else 1, num_groups])


def take_rows(temperature: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of some images what `as_rows` gave for all: `[len(rows) or 1, L]`."""
    return temperature if len(temperature) == 1 else temperature[rows]


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
