"""The training loop: steps, evaluation, pictures, checkpoints, resume."""

import logging
import signal
import sys
import time

import numpy as np
import tensorflow as tf

from nvae_tf import datasets, schedules
from nvae_tf.config import Config
from nvae_tf.errors import UserError
from nvae_tf.evaluation import Evaluation, Evaluator, Illustrator
from nvae_tf.layers import Mode
from nvae_tf.metrics import MetricsWriter
from nvae_tf.model import NVAE
from nvae_tf.optimizer import Adamax
from nvae_tf.progress import progress
from nvae_tf.regularizers import (
    FIRST_STEP_ROUNDS,
    ROUNDS,
    SpectralRegularizer,
)
from nvae_tf.train_step import StepMetrics, TrainStep
from nvae_tf.workdir import (
    Workdir,
    assign_tensors,
    read_tensors,
)

__all__ = ["RESUME_STATUS", "Trainer", "train"]

# EX_TEMPFAIL: "start the same command again".
RESUME_STATUS = 75
_LOG = logging.getLogger(__name__)
_IMAGES = 32


def train(config: Config, workdir) -> Evaluation | None:
    """Trains a run to its end, from wherever it was.

    Args:
      config: of the run.
      workdir: its folder; what is there is resumed.

    Returns:
      The last evaluation, None if the run was at its end before.

    Raises:
      UserError: if configuration, data or workdir do not allow it.
      SystemExit: with `RESUME_STATUS` after SIGTERM, the state being saved.
    """
    folder = Workdir(workdir)
    with folder.locked():
        folder.write_config(config)
        return Trainer(config, folder).run()


class Trainer:
    """One run, on one device.

    Args:
      config: of the run.
      workdir: its folder.
    """

    def __init__(self, config: Config, workdir: Workdir):
        self.config = config
        self.workdir = workdir
        self.source = datasets.open_source(config, "train")
        self.held_out = datasets.open_source(config, "validation")
        self.steps_per_epoch = datasets.num_batches(
            self.source, training=True, batch_size=config.train.batch_size
        )
        self.model = NVAE(
            config.model, seed=config.train.seed, dtype=config.precision
        )
        self.train_step = TrainStep(
            self.model,
            Adamax(self.model.trainable_variables, config.train.weight_decay),
            SpectralRegularizer(self.model, config.train.seed),
        )
        self.evaluator = Evaluator(self.model)
        self.illustrator = Illustrator(self.model)
        self.checkpoints = workdir.checkpoints(config.checkpoint.keep)
        self.last_evaluation: dict | None = None
        self._stop_requested = False

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch

    def run(self) -> Evaluation | None:
        """Trains to the end; see `train`."""
        if not self.steps_per_epoch:
            raise UserError(
                f"{self.source.name} has {len(self.source)} images, too few "
                f"for one batch of {self.config.train.batch_size}; lower "
                "--config.train.batch_size."
            )
        step, offset = self._restore()
        if step >= self.total_steps:
            _LOG.info("%s is complete: %d steps.", self.workdir.path, step)
            return None
        metrics = MetricsWriter(self.workdir, offset)
        previous = signal.signal(signal.SIGTERM, self._request_stop)
        try:
            return self._loop(step, metrics)
        finally:
            signal.signal(signal.SIGTERM, previous)
            metrics.close()

    def _request_stop(self, *_) -> None:
        self._stop_requested = True

    def _restore(self) -> tuple[int, int]:
        """Sets all state; returns step and length of the metrics file."""
        checkpoint = self.checkpoints.restore_latest(discard=True)
        if checkpoint is None:
            self._prepare_first_step()
            return 0, 0
        assign_tensors(
            self.train_step.named_variables(), checkpoint, self.workdir.path
        )
        self.last_evaluation = checkpoint.state["evaluation"]
        saved = checkpoint.state["steps_per_epoch"]
        if saved != self.steps_per_epoch:
            raise UserError(
                f"{self.workdir.path} was trained with {saved} steps per "
                f"epoch, the data now gives {self.steps_per_epoch}: the "
                "images were changed. Restore them, or choose another "
                "--workdir."
            )
        _LOG.info("Resuming from step %d.", checkpoint.step)
        return checkpoint.step, checkpoint.state["metrics_offset"]

    def _prepare_first_step(self) -> None:
        """Data-dependent initialisation and the first power iterations."""
        if any(
            getattr(layer, "data_dependent", False)
            for _, layer in self.model.leaves()
        ):
            batches = self._batches(0)
            out = self.model(
                next(batches).images,
                seed=self._seed(0),
                mode=Mode.INITIALIZATION,
            )
            batches.close()
            self.model.apply_updates(out.updates)
        self.train_step.spectral.warm_up(
            self.model.read_params(Mode.TRAINING), FIRST_STEP_ROUNDS - ROUNDS
        )

    def _batches(self, step: int):
        train = self.config.train
        return datasets.batches(
            self.source,
            self.config,
            training=True,
            batch_size=train.batch_size,
            seed=train.seed,
            position=datasets.Position(*divmod(step, self.steps_per_epoch)),
        )

    def _seed(self, step: int):
        """Of the noise of one step."""
        return tf.constant([self.config.train.seed, step], tf.int32)

    def _loop(self, step: int, metrics: MetricsWriter) -> Evaluation:
        config = self.config
        every = config.checkpoint.every_steps or self.steps_per_epoch
        batches = self._batches(step)
        evaluation = None
        with progress(
            total=self.total_steps,
            initial=step,
            unit="step",
            desc=config.name,
        ) as bar:
            rate = _Rate(config.train.batch_size)
            while step < self.total_steps:
                coefficients = schedules.coefficients(
                    config.train, step, self.steps_per_epoch
                )
                result = self.train_step(
                    next(batches).images,
                    schedules.Coefficients(
                        *[tf.constant(c, tf.float32) for c in coefficients]
                    ),
                    seed=self._seed(step),
                )
                step += 1
                rate.tick()
                bar.update()
                if step % config.train.log_every == 0:
                    self._log(step, result, coefficients, rate, metrics, bar)
                if step % self.steps_per_epoch == 0:
                    evaluation = self._end_of_epoch(step, metrics, bar)
                    rate.restart()
                if self._stop_requested:
                    self._save(step, metrics)
                    bar.close()
                    print(
                        f"Stopped by SIGTERM at step {step}; the state is "
                        "saved. Start the same command to go on.",
                        file=sys.stderr,
                    )
                    sys.exit(RESUME_STATUS)
                if step % every == 0 or step == self.total_steps:
                    self._save(step, metrics)
        batches.close()
        return evaluation

    def _log(
        self, step, result: StepMetrics, coefficients, rate, metrics, bar
    ) -> None:
        values = {k: v.numpy() for k, v in result._asdict().items()}
        channels = values.pop("kl_per_channel")
        values |= {
            **coefficients._asdict(),
            "active_latents": (channels > 0.1).sum(axis=1),
        }
        if not np.isfinite(values["total_loss"]):
            raise UserError(
                f"The loss is {values['total_loss']} at step {step} "
                f"(reconstruction {values['reconstruction_nll']}, KL "
                f"{values['kl']}). Start again from the last checkpoint in "
                f"{self.workdir.path} with a lower --config.train."
                "learning_rate or a higher --config.train.regularization."
            )
        metrics.scalars(step, "train", values)
        # Not in the file: a resumed run writes the same records again.
        bar.set_postfix(
            nelbo=f"{values['nelbo']:.2f}",
            kl=f"{values['kl']:.2f}",
            rec=f"{values['reconstruction_nll']:.2f}",
            img_s=f"{rate.images_per_second():.0f}",
            refresh=False,
        )

    def _end_of_epoch(self, step, metrics, bar) -> Evaluation | None:
        settings = self.config.evaluation
        epoch = step // self.steps_per_epoch
        is_last = step == self.total_steps
        if epoch % settings.every_epochs and not is_last:
            return None
        samples = (
            settings.final_importance_samples
            if is_last
            else settings.num_importance_samples
        )
        evaluation = self.evaluator(self._held_out_batches(), samples)
        self.last_evaluation = {
            "nelbo": float(evaluation.nelbo),
            "nll": float(evaluation.nll),
            "bits_per_dim": float(evaluation.bits_per_dim),
        }
        metrics.scalars(step, "evaluation", evaluation._asdict())
        self._illustrate(step, metrics)
        bar.set_description(
            f"{self.config.name} (epoch {epoch}: held-out NELBO "
            f"{evaluation.nelbo:.2f})",
            refresh=is_last,
        )
        return evaluation

    def _held_out_batches(self):
        return datasets.batches(
            self.held_out,
            self.config,
            training=False,
            batch_size=(
                self.config.evaluation.batch_size
                or self.config.train.batch_size
            ),
            seed=self.config.train.seed,
        )

    def _illustrate(self, step, metrics) -> None:
        for temperature in self.config.evaluation.image_temperatures:
            metrics.image(
                step,
                f"samples/temperature_{temperature}",
                self.illustrator.sample_grid(_IMAGES, temperature),
            )
        batches = self._held_out_batches()
        x = next(batches).images[:_IMAGES]
        batches.close()
        metrics.image(
            step,
            "reconstructions",
            self.illustrator.grid_of_pairs(self.illustrator.reconstruct(x)),
        )

    def _save(self, step: int, metrics: MetricsWriter) -> None:
        self.checkpoints.save(
            step,
            read_tensors(self.train_step.named_variables()),
            {
                "steps_per_epoch": self.steps_per_epoch,
                "position": divmod(step, self.steps_per_epoch),
                "seed": self.config.train.seed,
                "metrics_offset": metrics.offset(),
                "evaluation": self.last_evaluation,
            },
        )


class _Rate:
    """Images per second since the last restart."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self._steps = 0
        self._since = time.monotonic()

    def tick(self) -> None:
        self._steps += 1

    def images_per_second(self) -> float:
        elapsed = time.monotonic() - self._since
        return self._batch_size * self._steps / max(elapsed, 1e-9)
