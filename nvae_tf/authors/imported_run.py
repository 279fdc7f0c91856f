"""The workdir of a run that began in the authors' program."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from nvae_tf.authors.reference_import import (
    ReferenceCheckpoint,
    assign_state,
    reference_slots,
)
from nvae_tf.authors.reference_optimizer import Moments, moments_from_reference
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
from nvae_tf.runs.workdir import Workdir, read_tensors
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep

__all__ = ["require_new", "write_run"]


def require_new(folder: Workdir) -> None:
    """Raises UserError if a workdir holds a run.

    What an import has left that was ended before its last file, config.json,
    is none: it is written again.
    """
    if folder.config_path.exists() or not _is_free(folder):
        raise UserError(
            f"--workdir={folder.path} holds a run already; choose a new folder."
        )


def _is_free(folder: Workdir) -> bool:
    """Whether there is no checkpoint but that of an import."""
    store = folder.checkpoints()
    steps = store.steps()
    # One of any other step is of a run that has lost its config.json.
    return not steps or (
        steps == [0] and bool(store.restore(0).state.get("imported"))
    )


def write_run(
    folder: Workdir,
    checkpoint: ReferenceCheckpoint,
    config: Config,
    *,
    weights_only: bool = False,
) -> str:
    """Writes the workdir: configuration, checkpoint and a record of both.

    The checkpoint is that of step 0, whatever the epoch: how many steps an
    epoch has depends on the images and devices that training will meet, so
    `steps_per_epoch` stays None and the position is the start of an epoch.

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
    require_new(folder)
    train_step = _train_step(checkpoint, config)
    moments = None
    if not weights_only:
        moments = moments_from_reference(
            checkpoint.optimizer,
            checkpoint.state,
            reference_slots(train_step.model),
            train_step.optimizer.parameters,
            checkpoint.path,
        )
    _prepare(train_step, checkpoint, moments)
    epoch = 0 if weights_only else checkpoint.epoch
    origin = {
        "file": pathlib.Path(checkpoint.path).name,
        "epoch": checkpoint.epoch,
        "global_step": checkpoint.global_step,
        "weights_only": weights_only,
    }
    record = json.dumps({"step": 0, "kind": "import", **origin}) + "\n"
    with folder.locked():
        # Another import may have been faster.
        require_new(folder)
        write_bytes(folder.metrics_path, record.encode())
        folder.checkpoints().save(
            0,
            read_tensors(train_step.named_variables()),
            {
                "steps_per_epoch": None,
                "position": [epoch, 0],
                "seed": config.train.seed,
                "model": dataclasses.asdict(config.model),
                "metrics_offset": len(record.encode()),
                "evaluation": None,
                "evaluation_due": False,
                "imported": origin,
            },
        )
        # The last: without it there is no run, see `require_new`.
        folder.write_config(config)
    return _summary(checkpoint, config, moments, epoch)


def _train_step(checkpoint: ReferenceCheckpoint, config: Config) -> TrainStep:
    """All state of training, the weights being the checkpoint's."""
    train = config.train
    model = NVAE(config.model, seed=None, dtype=config.precision)
    assign_state(model, checkpoint.state, checkpoint.path)
    return TrainStep(
        model,
        Adamax(model.trainable_variables, train.weight_decay),
        SpectralRegularizer(model, train.seed),
        average=WeightAverage(model, train.ema_decay)
        if train.ema_decay
        else None,
    )


def _prepare(
    train_step: TrainStep,
    checkpoint: ReferenceCheckpoint,
    moments: Moments | None,
) -> None:
    """Sets what the next step starts from."""
    if moments is not None:
        train_step.optimizer.m.assign(moments.m)
        train_step.optimizer.u.assign(moments.u)
        train_step.state["updates"].assign(moments.updates)
        if train_step.scales_loss and checkpoint.loss_scale:
            train_step.state["loss_scale"].assign(checkpoint.loss_scale)
    # Their program does not save these; it estimates them anew as well.
    train_step.spectral.warm_up(
        train_step.model.read_params(Mode.TRAINING), FIRST_STEP_ROUNDS - ROUNDS
    )


def _summary(checkpoint, config, moments, epoch) -> str:
    optimizer = (
        "fresh"
        if moments is None
        else f"moments of {moments.updates:,} updates taken over"
    )
    lines = [
        f"Weights      {len(checkpoint.state):,} tensors taken over",
        f"Optimiser    {optimizer}",
        f"Position     epoch {epoch} of {config.train.epochs}, counted from 0 "
        f"(their step {checkpoint.global_step:,})",
    ]
    if epoch >= config.train.epochs:
        lines.append(
            "             complete; to train longer raise --config.train.epochs"
        )
    return "\n".join(lines)
