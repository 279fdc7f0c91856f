"""Models from folders, and into them."""

from __future__ import annotations

import dataclasses
import os

from nvae_tf.api.companion import companion_of, keep_config
from nvae_tf.authors import reference_import
from nvae_tf.config import Config
from nvae_tf.core.errors import ConfigError, UserError
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs.workdir import Workdir, load_model
from nvae_tf.training import new_run

__all__ = ["load", "save"]


def load(
    path: str | os.PathLike[str],
    *,
    ema: bool | None = None,
    checkpoint: str | int = "latest",
) -> NVAE:
    """The model of a run, or of a checkpoint of the authors' program.

    Examples:
      >>> model = nvae_tf.load("runs/demo")
      >>> model.config.image_size, model.config.num_groups
      (28, 2)
      >>> best = nvae_tf.load("runs/demo", checkpoint="latest", ema=False)

    Args:
      path: the workdir of a run, or a file that the authors' program wrote
        with `torch.save` (PyTorch is not needed).
      ema: whether to take the exponential average of the weights; by default
        where the run keeps one, as the commands do.
      checkpoint: of a workdir: "latest", "best" (by held-out NELBO) or a step.

    Returns:
      The model, its weights loaded; its `config` is the `ModelConfig`.

    Raises:
      UserError: if there is no run, no intact checkpoint, or no average.
    """
    if os.path.isfile(path):
        if ema or checkpoint != "latest":
            raise UserError(
                f"{path} is a file of the authors' program, which holds one "
                "set of weights: leave `ema` and `checkpoint` away."
            )
        model, config = reference_import.load(path)
    else:
        options = {} if ema is None else {"ema": ema}
        model, config, _ = load_model(
            path, checkpoint=str(checkpoint), **options
        )
    keep_config(model, config)
    return model


def save(
    model: NVAE, path: str | os.PathLike[str], config: Config | None = None
) -> None:
    """Writes a workdir that `load` and every command take.

    Training can begin from it, with these weights and a fresh optimiser:
    `nvae train --config=workdir:PATH --workdir=PATH`.

    Examples:
      >>> nvae_tf.save(model, "runs/copy")
      >>> copy = nvae_tf.load("runs/copy")

    Args:
      model: whose weights to write.
      path: the folder; one that holds no run yet.
      config: of the run.  By default that of the run the model was loaded
        from, or one that knows the model and nothing of its images: these are
        then to be named where a command needs them.

    Raises:
      ConfigError: if the configuration describes another model.
      UserError: if the folder holds a run or cannot be written to.
    """
    config = config or companion_of(model).config
    if config.model != model.config:
        different = [
            field.name
            for field in dataclasses.fields(config.model)
            if getattr(config.model, field.name)
            != getattr(model.config, field.name)
        ]
        raise ConfigError(
            "The configuration describes another model: "
            f"{', '.join(f'model.{name}' for name in different)} differ."
        )
    if config.precision != model.dtype_policy.name:
        raise ConfigError(
            f"precision is {config.precision!r}, but the model computes in "
            f"{model.dtype_policy.name!r}: make it with "
            "NVAE(config.model, dtype=config.precision)."
        )
    folder = Workdir(path)
    new_run.require_new(folder)
    train_step = new_run.fresh_train_step(model, config)
    new_run.warm_up(train_step)
    new_run.write_run(folder, train_step, config, kind="save")
