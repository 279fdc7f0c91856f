"""Models into folders that can be handed on, and out of them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from nvae_tf.config import Config
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs import pretrained_folder
from nvae_tf.runs.model_places import locate
from nvae_tf.runs.workdir import assign_tensors, read_tensors, require_weights

__all__ = ["load", "save"]

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
    # Rounding to TF32 is for training, where it is asked for.
    model.compute_in(config.dtype_policy)
    assign_tensors(
        model.named_variables(_PREFIX),
        stored,
        origin,
        unless_finite=pretrained_folder.AGAIN,
    )
    return model, config, {"step": None, "ema": False, **facts}
