"""The workdir of a run that begins with weights from elsewhere."""

from __future__ import annotations

import json
from typing import Any

from nvae_tf.config import Config
from nvae_tf.core.errors import UserError
from nvae_tf.core.files import write_bytes
from nvae_tf.model.averaging import WeightAverage
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.pure_layer import Mode
from nvae_tf.model.regularizers import (
    FIRST_STEP_ROUNDS,
    ROUNDS,
    SpectralRegularizer,
)
from nvae_tf.runs.run_metadata import run_metadata
from nvae_tf.runs.workdir import Workdir, read_tensors
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep

__all__ = ["fresh_train_step", "require_new", "warm_up", "write_run"]


def require_new(folder: Workdir) -> None:
    """Raises UserError if a workdir holds a run.

    What `write_run` has left that was ended before its last file, config.json,
    is none: it is written again.
    """
    if folder.config_path.exists() or not _is_half_written(folder):
        raise UserError(
            f"{folder.path} holds a run already; choose a new folder."
        )


def _is_half_written(folder: Workdir) -> bool:
    """Whether all checkpoints, if there are any, are of `write_run` alone."""
    store = folder.checkpoints()
    steps = store.steps()
    # One of any other step is of a run that has lost its config.json, as is
    # one that knows how many steps its epochs have.
    return not steps or (
        steps == [0]
        and store.restore(0).metadata.get("steps_per_epoch", 0) is None
    )


def fresh_train_step(model: NVAE, config: Config) -> TrainStep:
    """All state of training, as it is before the first step.

    But for the power iteration, see `warm_up`.

    Args:
      model: with the weights to begin with; it stays as it is.
      config: of the run.
    """
    train = config.train
    return TrainStep(
        model,
        Adamax(model.trainable_variables, train.weight_decay),
        SpectralRegularizer(model, train.seed),
        average=WeightAverage(model, train.ema_decay)
        if train.ema_decay
        else None,
    )


def warm_up(train_step: TrainStep) -> None:
    """Takes the power iterations that a first step begins with."""
    train_step.spectral.warm_up(
        train_step.model.read_params(Mode.TRAINING), FIRST_STEP_ROUNDS - ROUNDS
    )


def write_run(
    folder: Workdir,
    train_step: TrainStep,
    config: Config,
    *,
    kind: str,
    epoch: int = 0,
    origin: dict[str, Any] | None = None,
) -> None:
    """Writes the workdir: configuration, checkpoint and a record of both.

    The checkpoint is that of step 0, whatever the epoch: how many steps an
    epoch has depends on the images and devices that training will meet, so
    `steps_per_epoch` stays None and the position is the start of an epoch.

    Args:
      folder: to write to; must not hold a run.
      train_step: all state of training.
      config: of the run; its model is that of the train step.
      kind: of the record in metrics.jsonl, such as "import".
      epoch: that training begins with.
      origin: of weights that are imported, plain values of where from.

    Raises:
      UserError: if the folder holds a run or cannot be written to.
    """
    record = json.dumps({"step": 0, "kind": kind, **(origin or {})}) + "\n"
    with folder.locked():
        # Another process may have been faster.
        require_new(folder)
        write_bytes(folder.metrics_path, record.encode())
        folder.checkpoints().save(
            0,
            read_tensors(train_step.named_variables()),
            run_metadata(
                config,
                steps_per_epoch=None,
                position=(epoch, 0),
                metrics_offset=len(record.encode()),
                imported=origin,
            ),
        )
        # The last: without it there is no run, see `require_new`.
        folder.write_config(config)
