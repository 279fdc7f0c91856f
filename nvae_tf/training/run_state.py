"""All that a run is at one of its steps, and how it is saved and restored."""

import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from nvae_tf.config import Config
from nvae_tf.core.errors import CheckpointError, UserError
from nvae_tf.distribute import replicas
from nvae_tf.distribute.devices import Devices
from nvae_tf.model.averaging import WeightAverage
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.runs.background import BackgroundStore
from nvae_tf.runs.checkpointing import Checkpoint, CheckpointStore
from nvae_tf.runs.retention import Retention
from nvae_tf.runs.run_metadata import (
    damaged,
    require_run_metadata,
    run_metadata,
)
from nvae_tf.runs.workdir import Workdir, assign_tensors, read_tensors
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.recovery import Recovery, Verdict, rollbacks_from
from nvae_tf.training.step_metrics import StepMetrics
from nvae_tf.training.train_step import TrainStep

__all__ = ["RunState", "SavePoint"]

_LOG = logging.getLogger(__name__)


class SavePoint(NamedTuple):
    """Where a run is.

    Attributes:
      step: optimiser steps taken.
      metrics_offset: bytes of metrics.jsonl up to there.
    """

    step: int
    metrics_offset: int


class RunState:
    """Model, optimiser and history of one run, and its checkpoints.

    Of several processes the first one writes, and chooses what all restore.

    Args:
      config: of the run.
      workdir: its folder.
      devices: of the run.
      steps_per_epoch: as long as the data are what they are.

    Raises:
      UserError: if a step of several replicas is to be compiled.

    Attributes:
      images_per_step: of all replicas and passes.
      model: the `NVAE`.
      average: of its weights, None if the run keeps none.
      train_step: the `TrainStep`.
      saves: where checkpoints are written, beside the training; a context.
      recovery: what steps that failed have led to.
      last_evaluation: numbers for the checkpoint, None before the first.
      evaluation_due: whether the model as it is has yet to be evaluated.
    """

    def __init__(
        self,
        config: Config,
        workdir: Workdir,
        devices: Devices,
        steps_per_epoch: int,
    ):
        self.config = config
        self.workdir = workdir
        self.devices = devices
        self.steps_per_epoch = steps_per_epoch
        train, checkpoint = config.train, config.checkpoint
        if config.jit_compile and devices.num_replicas > 1:
            raise UserError(
                "--config.jit_compile is for one device: what the "
                f"{devices.num_replicas} replicas of this run tell each other "
                "cannot be compiled. Set it to False."
            )
        self.images_per_step = (
            train.batch_size * devices.num_replicas * train.accumulate
        )
        with devices.strategy.scope():
            self.model = NVAE(
                config.model,
                seed=train.seed,
                unroll=devices.shares_graph,
                recompute=config.recompute,
                # The same in all processes, however many models each has
                # made: loops of another name would not meet.
                name="nvae",
            )
            self.model.compute_in(config.precision)
            self.average = (
                WeightAverage(self.model, train.ema_decay)
                if train.ema_decay
                else None
            )
            self.train_step = TrainStep(
                self.model,
                Adamax(self.model.trainable_variables, train.weight_decay),
                SpectralRegularizer(self.model, train.seed),
                average=self.average,
                max_gradient_norm=train.max_gradient_norm,
                jit_compile=config.jit_compile,
            )
        self.saves = BackgroundStore(
            workdir.checkpoints(
                Retention(
                    checkpoint.keep,
                    checkpoint.keep_every_hours,
                    checkpoint.keep_best,
                )
            )
        )
        self.recovery = self._read_recovery()
        self.last_evaluation: dict | None = None
        self.evaluation_due = False

    @property
    def checkpoints(self) -> CheckpointStore:
        """What is saved, once the last save is over.

        Raises:
          CheckpointError: if it failed.
        """
        return self.saves.settled()

    def restore(self) -> SavePoint | None:
        """Sets all state to the latest checkpoint that is intact.

        Returns:
          Where it was saved; None if there is none.

        Raises:
          UserError: if it belongs to other data or another configuration.
          CheckpointError: if there are checkpoints, but none is intact.
        """
        if self.devices.is_chief:
            self.recovery.resume(self.checkpoints)
        checkpoint = self._choose(
            self.checkpoints.restore_latest(discard=True)
            if self.devices.is_chief
            else None
        )
        if checkpoint is None:
            return None
        save_point = self._take_over(checkpoint)
        if self.devices.is_chief:
            _LOG.info("Resuming from step %d.", save_point.step)
        return save_point

    def save(self, save_point: SavePoint) -> None:
        """Begins to write a checkpoint, in the process that writes.

        It is one to go back to if the last step was not skipped.

        Args:
          save_point: where the run is.

        Raises:
          CheckpointError: if the one before could not be written.
        """
        if self.devices.is_chief:
            self.saves.save(
                save_point.step,
                read_tensors(self.train_step.named_variables()),
                self._plain(save_point),
                good=not np.any(self.train_step.scalars["skipped_in_a_row"]),
            )

    def note(
        self, save_point: SavePoint, *, nelbo: float | None = None
    ) -> None:
        """Replaces the plain part of the checkpoint of a step.

        Args:
          save_point: where the run is.
          nelbo: held-out, by which the best checkpoint is known.

        Raises:
          CheckpointError: if it cannot be written.
        """
        if self.devices.is_chief:
            self.checkpoints.update_metadata(
                save_point.step, self._plain(save_point), score=nelbo
            )

    def verdict(self, result: StepMetrics) -> Verdict:
        """What to do after a step; the same in all processes."""
        return self.recovery.verdict(
            int(result.skipped_in_a_row), float(result.loss_scale)
        )

    def roll_back(self, step: int, diagnosis: object) -> SavePoint:
        """Goes back to the last good checkpoint.

        Args:
          step: that was reached.
          diagnosis: what is wrong.

        Returns:
          Where it was saved.

        Raises:
          CheckpointError: if there is none.
        """
        checkpoint = None
        if self.devices.is_chief:
            checkpoint = self.recovery.roll_back(
                self.checkpoints, step, diagnosis
            )
        checkpoint = self._choose(checkpoint)
        if not self.devices.is_chief:
            self.recovery = self._read_recovery()
        if checkpoint is None:
            raise CheckpointError(
                f"Training failed at step {step}, and {self.workdir.path} "
                f"holds no checkpoint to go back to. {diagnosis} Start the "
                "same command again: the run begins anew with other data "
                "and noise."
            )
        return self._take_over(checkpoint)

    def give_up(
        self, step: int, result: StepMetrics, diagnosis: object
    ) -> UserError:
        """Leaves the run at its last good checkpoint; returns what to raise."""
        return self.recovery.give_up(
            self.checkpoints, step, int(result.skipped_in_a_row), diagnosis
        )

    def _read_recovery(self) -> Recovery:
        return Recovery(
            self.workdir.path / "recovery.json",
            self.config.train,
            writes=self.devices.is_chief,
        )

    def _choose(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """What the first process has, in every process."""
        if self.devices.num_workers == 1:
            return checkpoint
        step = self._from_chief(-1 if checkpoint is None else checkpoint.step)
        if step >= 0 and checkpoint is None:
            checkpoint = self.checkpoints.restore(step)
        return checkpoint

    def _from_chief(self, number: int) -> int:
        """The first process's number, in every process."""
        strategy = self.devices.strategy
        own = tf.constant(number if self.devices.is_chief else 0, tf.int64)

        @tf.function(autograph=False)
        def share(own):
            return strategy.run(replicas.total, (own,))

        shared = strategy.experimental_local_results(share(own))[0]
        # Every replica of the first process has added it.
        return int(shared) // self.devices.local_replicas

    def _take_over(self, checkpoint: Checkpoint) -> SavePoint:
        """Sets all state to a checkpoint's."""
        metadata = checkpoint.metadata
        step = checkpoint.step
        require_run_metadata(metadata, self.workdir.path)
        try:
            rollbacks_from(metadata.get("rollbacks") or [])
        except ValueError as error:
            raise damaged("rollbacks", self.workdir.path) from error
        checked = ["seed", "model"]
        if metadata["steps_per_epoch"] is None:
            # Imported: its program counted its own steps, but epochs are
            # epochs.
            step = metadata["position"][0] * self.steps_per_epoch
        else:
            checked += ["steps_per_epoch", "position"]
            self._require_same_step(metadata)
        save_point = SavePoint(step, metadata["metrics_offset"])
        expected = self._plain(save_point)
        for name in checked:
            # Through JSON: tuples come back as lists.
            now = json.loads(json.dumps(expected[name]))
            if metadata.get(name) != now:
                raise UserError(
                    f"{self.workdir.path} was trained with {name} "
                    f"{metadata.get(name)}, but it is {now} now: the images "
                    "or the configuration were changed. Restore them, or "
                    "choose another --workdir."
                )
        assign_tensors(
            self.train_step.named_variables(),
            checkpoint.tensors,
            f"The checkpoint of step {checkpoint.step} in {self.workdir.path}",
        )
        self.recovery.adopt(metadata.get("rollbacks"))
        self.last_evaluation = metadata["evaluation"]
        self.evaluation_due = metadata["evaluation_due"]
        return save_point

    def _require_same_step(self, metadata: Mapping[str, Any]) -> None:
        """Raises UserError if a step takes another number of images now.

        With the same number, a step takes the same images on any number of
        replicas.
        """
        # Earlier versions did not say, and had the batch size stay.
        was = metadata.get("images_per_step", self.images_per_step)
        if was == self.images_per_step:
            return
        train, count = self.config.train, self.devices.num_replicas
        batch_size, rest = divmod(was, count * train.accumulate)
        raise UserError(
            f"{self.workdir.path} was trained with {was} images per step; "
            f"{count} replica{'s' * (count != 1)} x train.batch_size "
            f"{train.batch_size} x train.accumulate {train.accumulate} are "
            f"{self.images_per_step}. "
            + (
                "Choose a number of processes and a train.accumulate whose "
                "product divides it."
                if rest
                else f"Set --config.train.batch_size={batch_size}."
            )
        )

    def _plain(self, save_point: SavePoint) -> dict:
        """The part of a checkpoint that is not arrays."""
        return run_metadata(
            self.config,
            steps_per_epoch=self.steps_per_epoch,
            position=divmod(save_point.step, self.steps_per_epoch),
            images_per_step=self.images_per_step,
            metrics_offset=save_point.metrics_offset,
            evaluation=self.last_evaluation,
            evaluation_due=self.evaluation_due,
            rollbacks=self.recovery.rollbacks(),
        )
