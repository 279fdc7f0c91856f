"""Models from folders, and into them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

from nvae_tf.api.companion import companion_of, keep_config
from nvae_tf.authors import reference_import
from nvae_tf.config import Config
from nvae_tf.core.errors import ConfigError, UserError
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs import (
    model_card,
    model_places,
    pretrained,
    pretrained_folder,
)
from nvae_tf.runs.measured import metrics_of
from nvae_tf.runs.workdir import Workdir, load_model
from nvae_tf.training import new_run

__all__ = [
    "from_pretrained",
    "load",
    "pretrained_models",
    "save",
    "save_pretrained",
]


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
      The model, its weights loaded; its `config` is the `ModelConfig`.  It
      computes in what the run trained in, but for TF32; commands compute in
      float32, as it does after `model.compute_in("float32")`.

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
        info = {}
    else:
        options = {} if ema is None else {"ema": ema}
        model, config, info = load_model(
            path, checkpoint=str(checkpoint), **options
        )
        info["metrics"] = metrics_of(path, info["step"], info["ema"])
        # It can be saved with the run's configuration, and train on.
        model.compute_in(config.dtype_policy)
    keep_config(model, config, info)
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
    config = _config_of(model, config)
    folder = Workdir(path)
    new_run.require_new(folder)
    train_step = new_run.fresh_train_step(model, config)
    new_run.warm_up(train_step)
    new_run.write_run(folder, train_step, config, kind="save")


def from_pretrained(place: str | os.PathLike[str]) -> NVAE:
    """A model that comes with the project, from a folder or from the hub.

    Examples:
      >>> nvae_tf.save_pretrained(model, "shared")
      >>> shared = nvae_tf.from_pretrained("shared")

      And `nvae_tf.from_pretrained("hf://user/repo@main")`.

    Args:
      place: a name of `pretrained_models()`, a folder that `save_pretrained`
        or `nvae export pretrained` wrote, or hf://user/repo[@revision] of
        Hugging Face's hub, which needs the extra `hub`.

    Returns:
      The model, its weights loaded, in float32 however they are stored.  It
      computes as one of `load` does.

    Raises:
      UserError: if there is none such, or it is damaged.
    """
    model, config, info = pretrained.load(place)
    model.compute_in(config.dtype_policy)
    keep_config(model, config, info)
    return model


def save_pretrained(
    model: NVAE,
    folder: str | os.PathLike[str],
    config: Config | None = None,
    *,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    card: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a folder to hand on: configuration, weights and a model card.

    The card has what the evaluations of the run found that the model was
    loaded from: load the weights that are to be saved, with `load(path, ema=,
    checkpoint=)`.

    Examples:
      >>> nvae_tf.save_pretrained(
      ...     model, "half", dtype="float16", card={"license": "cc-by-sa-3.0"}
      ... )

    Args:
      model: whose weights and statistics to write.
      folder: to make; `from_pretrained` and every `--model` take it.
      config: of the run; by default that of the run the model was loaded from.
      dtype: of the stored weights.  Statistics of batch normalisation stay in
        float32.
      card: what only people know: any of "name", "license" (an SPDX
        identifier), "datasets" (a list) and "description" (Markdown).
      overwrite: take the place of such a folder; never of another.

    Raises:
      ConfigError: if the configuration describes another model.
      UserError: if the folder exists or cannot be written, or a weight is
        not finite or out of the range of `dtype`.
    """
    config = _config_of(model, config)
    info = dict(companion_of(model).info)
    info.update(_card_values(card or {}))
    pretrained.save(
        model, config, folder, info, dtype=dtype, overwrite=overwrite
    )


def pretrained_models() -> dict[str, pretrained_folder.Stored]:
    """The models that come with the project, by name.

    Examples:
      >>> sorted(nvae_tf.pretrained_models())
      ['cartoon-faces', 'fashion-mnist', 'mnist', 'mnist-classes']

    Returns:
      For each its folder, configuration, facts (licence and metrics among
      them), number of parameters and bytes.

    Raises:
      UserError: if one is damaged.
    """
    return {
        name: pretrained_folder.describe(path)
        for name, path in model_places.shipped().items()
    }


def _card_values(card: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return model_card.card_values(card)
    except ValueError as error:
        raise UserError(f"The card is none: {error}.") from error


def _config_of(model: NVAE, config: Config | None) -> Config:
    """The configuration to save a model with.

    Raises:
      ConfigError: if it is of another model.
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
    if config.dtype_policy != model.dtype_policy.name:
        raise ConfigError(
            f"precision is {config.precision!r}, but the model computes in "
            f"{model.dtype_policy.name!r}: make it with "
            "NVAE(config.model, dtype=config.dtype_policy)."
        )
    return config
