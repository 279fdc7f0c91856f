"""The workdir of a run that began in the authors' program."""

from __future__ import annotations

import pathlib

from nvae_tf.authors.reference_import import (
    ReferenceCheckpoint,
    assign_state,
    reference_slots,
)
from nvae_tf.authors.reference_optimizer import Moments, moments_from_reference
from nvae_tf.config import Config
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs.workdir import Workdir
from nvae_tf.training import new_run
from nvae_tf.training.train_step import TrainStep

__all__ = ["write_run"]


def write_run(
    folder: Workdir,
    checkpoint: ReferenceCheckpoint,
    config: Config,
    *,
    weights_only: bool = False,
) -> str:
    """Writes a workdir to go on from, see `nvae_tf.training.new_run`.

    Args:
      folder: to write to; must not hold a run.
      checkpoint: what to take over.
      config: of the run; its model is the checkpoint's.
      weights_only: begin with epoch 0 and a fresh optimiser.

    Returns:
      What was taken over, for people.

    Raises:
      CheckpointError: if the tensors are not those of the configuration.
      UserError: if the folder holds a run or cannot be written to.
    """
    new_run.require_new(folder)
    train_step = _train_step(checkpoint, config)
    moments = None
    if not weights_only:
        moments = moments_from_reference(
            checkpoint.optimizer,
            checkpoint.state_dict,
            reference_slots(train_step.model),
            train_step.optimizer.parameters,
            checkpoint.path,
        )
    _prepare(train_step, checkpoint, moments)
    epoch = 0 if weights_only else checkpoint.epoch
    new_run.write_run(
        folder,
        train_step,
        config,
        kind="import",
        epoch=epoch,
        origin={
            "file": pathlib.Path(checkpoint.path).name,
            "epoch": checkpoint.epoch,
            "global_step": checkpoint.global_step,
            "weights_only": weights_only,
        },
    )
    return _summary(checkpoint, config, moments, epoch)


def _train_step(checkpoint: ReferenceCheckpoint, config: Config) -> TrainStep:
    """All state of training, the weights being the checkpoint's."""
    model = NVAE(config.model, seed=None, dtype=config.dtype_policy)
    assign_state(model, checkpoint.state_dict, checkpoint.path)
    return new_run.fresh_train_step(model, config)


def _prepare(
    train_step: TrainStep,
    checkpoint: ReferenceCheckpoint,
    moments: Moments | None,
) -> None:
    """Sets what the next step starts from."""
    if moments is not None:
        train_step.optimizer.m.assign(moments.m)
        train_step.optimizer.u.assign(moments.u)
        train_step.scalars["updates"].assign(moments.updates)
        if train_step.scales_loss and checkpoint.loss_scale:
            train_step.scalars["loss_scale"].assign(checkpoint.loss_scale)
    # Their program does not save these; it estimates them anew as well.
    new_run.warm_up(train_step)


def _summary(checkpoint, config, moments, epoch) -> str:
    optimizer = (
        "fresh"
        if moments is None
        else f"moments of {moments.updates:,} updates taken over"
    )
    lines = [
        f"Weights      {len(checkpoint.state_dict):,} tensors taken over",
        f"Optimiser    {optimizer}",
        f"Position     epoch {epoch} of {config.train.epochs}, counted from 0 "
        f"(their step {checkpoint.global_step:,})",
    ]
    if epoch >= config.train.epochs:
        lines.append(
            "             complete; to train longer raise --config.train.epochs"
        )
    return "\n".join(lines)
