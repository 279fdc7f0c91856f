"""Models into folders that can be handed on, and out of them."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from nvae_tf.config import Config
from nvae_tf.core.errors import ConfigError
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs import pretrained_folder
from nvae_tf.runs.model_places import locate
from nvae_tf.runs.workdir import assign_tensors, read_tensors, require_weights

__all__ = ["begin", "load", "require_same_architecture", "save"]

# Names as in checkpoints.
_PREFIX = "model/"


def save(
    model: NVAE,
    config: Config,
    folder: str | os.PathLike,
    info: Mapping[str, Any],
    *,
    dtype: str = "float32",
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a folder, see `pretrained_folder.write`.

    Args:
      model: whose weights and statistics to write.
      config: of its run.
      folder: to make.
      info: what is known of the weights, see `model_card.describe`.
      dtype: of the stored weights, one of `pretrained_folder.DTYPES`.
      overwrite: take the place of such a folder; never of another.

    Raises:
      CheckpointError: if it cannot be written, or a value is not finite or
        not in the range of `dtype`.
    """
    tensors = read_tensors(model.named_variables(_PREFIX))
    return pretrained_folder.write(
        folder, config, tensors, info, dtype=dtype, overwrite=overwrite
    )


def load(place: str | os.PathLike) -> tuple[NVAE, Config, dict[str, Any]]:
    """A model in float32, its run's configuration, and what is known of it.

    Args:
      place: see `locate`.

    Returns:
      The model, the configuration, and the facts: "step", which may be None,
      "ema" and more.

    Raises:
      CheckpointError: if there is none, it is damaged, or its files do not
        belong together.
      ConfigError: if its configuration is none.
    """
    folder = locate(place)
    config, stored, facts = pretrained_folder.read(folder)
    origin = str(folder / pretrained_folder.WEIGHTS)
    require_weights(config, stored, origin)
    model = NVAE(config.model, seed=None)
    # Not in the precision of the run: that is for training.
    model.compute_in("float32")
    _assign(model, stored, origin)
    return model, config, {"step": None, "ema": False, **facts}


def require_same_architecture(config: Config) -> None:
    """Checks that a run can begin with the weights of `train.initial_model`.

    Its configuration is read, not its weights.

    Args:
      config: of the run, whose classes are counted.

    Raises:
      ConfigError: if it is another model, or its configuration is none.
      CheckpointError: if there is no such model.
    """
    place = config.train.initial_model
    if not place:
        return
    given = pretrained_folder.describe(locate(place)).config.model
    asked = dataclasses.asdict(config.model)
    for key, value in dataclasses.asdict(given).items():
        if value != asked[key]:
            raise ConfigError(
                f"train.initial_model={place} has another architecture: its "
                f"model.{key} is {value!r}, that of this run {asked[key]!r}. "
                f"--config=pretrained:{place} begins with its configuration."
            )


def begin(model: NVAE, place: str) -> None:
    """Sets the weights of a new run to those of a pretrained model.

    Args:
      model: of its architecture, see `require_same_architecture`.
      place: see `locate`.

    Raises:
      CheckpointError: if the weights are damaged or do not fit.
    """
    folder = locate(place)
    _, stored, _ = pretrained_folder.read(folder)
    _assign(model, stored, str(folder / pretrained_folder.WEIGHTS))


def _assign(model: NVAE, stored: Mapping[str, np.ndarray], origin: str) -> None:
    assign_tensors(
        model.named_variables(_PREFIX),
        stored,
        origin,
        unless_finite=pretrained_folder.AGAIN,
    )
