"""The training loop: steps, evaluation, pictures, checkpoints, resume."""

import contextlib
import dataclasses
import json
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from nvae_tf import datasets, schedules
from nvae_tf.config import Config
from nvae_tf.errors import UserError
from nvae_tf.evaluation import (
    ACTIVE_NATS,
    Evaluation,
    Evaluator,
)
from nvae_tf.illustrator import Illustrator
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
_MAX_SKIPPED_IN_A_ROW = 10


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
        changed = folder.check_config(config)
        run = Trainer(config, folder)
        folder.write_config(config)
        return run.run(changed)


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
        self._evaluation_due = False
        self._stop_requested = False
        # A held-out image that the model cannot take is better known now than
        # after an epoch.
        batches = self._held_out_batches()
        next(batches)
        batches.close()

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch

    def run(self, changed: Sequence[str] = ()) -> Evaluation | None:
        """Trains to the end; see `train`.

        Args:
          changed: what is new in the configuration since the last start.
        """
        step, offset = self._restore()
        if step >= self.total_steps and not self._evaluation_due:
            _LOG.info("%s is complete: %d steps.", self.workdir.path, step)
            return None
        metrics = MetricsWriter(self.workdir, offset)
        if changed:
            _LOG.warning("Changed since the last start: %s", "; ".join(changed))
            metrics.event(step, "config", changed=list(changed))
        try:
            with self._signals():
                return self._loop(step, metrics)
        finally:
            metrics.close()

    @contextlib.contextmanager
    def _signals(self):
        """SIGTERM and the first Ctrl-C save and stop; the second aborts."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request_stop(number, _):
            self._stop_requested = True
            signal.signal(number, signal.SIG_DFL)

        numbers = (signal.SIGTERM, signal.SIGINT)
        previous = {n: signal.signal(n, request_stop) for n in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _restore(self) -> tuple[int, int]:
        """Sets all state; returns step and length of the metrics file."""
        checkpoint = self.checkpoints.restore_latest(discard=True)
        if checkpoint is None:
            self._prepare_first_step()
            return 0, 0
        state = checkpoint.state
        expected = self._state(checkpoint.step, 0)
        for name in ("steps_per_epoch", "position", "seed", "model"):
            # Through JSON: tuples come back as lists.
            now = json.loads(json.dumps(expected[name]))
            if state.get(name) != now:
                raise UserError(
                    f"{self.workdir.path} was trained with {name} "
                    f"{state.get(name)}, but it is {now} now: the images or "
                    "the configuration were changed. Restore them, or choose "
                    "another --workdir."
                )
        assign_tensors(
            self.train_step.named_variables(), checkpoint, self.workdir.path
        )
        self.last_evaluation = state["evaluation"]
        self._evaluation_due = state["evaluation_due"]
        _LOG.info("Resuming from step %d.", checkpoint.step)
        return checkpoint.step, state["metrics_offset"]

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
            if not all(
                np.all(np.isfinite(x)) for x in tf.nest.flatten(out.updates)
            ):
                raise UserError(
                    f"model.architecture {self.config.model.architecture!r} "
                    "starts from the spread of its first batch, and the "
                    "coarsest scale has one value per channel only: raise "
                    "--config.train.batch_size."
                )
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

    def _loop(self, step: int, metrics: MetricsWriter) -> Evaluation | None:
        """Takes the steps that are left; saves before it evaluates."""
        config = self.config
        every = config.checkpoint.every_steps or self.steps_per_epoch
        evaluation = None
        with (
            contextlib.closing(self._batches(step)) as batches,
            progress(
                total=self.total_steps,
                initial=step,
                unit="step",
                desc=config.name,
            ) as bar,
        ):
            rate = _Rate(config.train.batch_size)
            while True:
                if self._evaluation_due:
                    evaluation = self._evaluate(step, metrics, bar)
                    rate.restart()
                if self._stop_requested or step >= self.total_steps:
                    break
                result, coefficients = self._take_step(step, batches)
                step += 1
                rate.tick()
                bar.update()
                if step % config.train.log_every == 0:
                    self._log(step, result, coefficients, rate, metrics, bar)
                self._evaluation_due = self._is_evaluated(step)
                if (
                    self._evaluation_due
                    or self._stop_requested
                    or step % every == 0
                    or step == self.total_steps
                ):
                    self._save(step, metrics)
        if self._stop_requested and (
            step < self.total_steps or self._evaluation_due
        ):
            print(
                f"Stopped at step {step}; the state is saved. Start the same "
                "command to go on.",
                file=sys.stderr,
            )
            sys.exit(RESUME_STATUS)
        return evaluation

    def _take_step(self, step: int, batches):
        coefficients = schedules.coefficients(
            self.config.train, step, self.steps_per_epoch
        )
        result = self.train_step(
            next(batches).images,
            schedules.Coefficients(
                *[tf.constant(c, tf.float32) for c in coefficients]
            ),
            seed=self._seed(step),
        )
        return result, coefficients

    def _is_evaluated(self, step: int) -> bool:
        epoch, rest = divmod(step, self.steps_per_epoch)
        every = self.config.evaluation.every_epochs
        return not rest and (epoch % every == 0 or step == self.total_steps)

    def _log(
        self, step, result: StepMetrics, coefficients, rate, metrics, bar
    ) -> None:
        values = {k: v.numpy() for k, v in result._asdict().items()}
        channels = values.pop("kl_per_channel")
        in_a_row = values.pop("skipped_in_a_row")
        values |= {
            **coefficients._asdict(),
            "active_latents": (channels > ACTIVE_NATS).sum(axis=1),
        }
        # Not the rate: a resumed run writes the same records again.
        metrics.scalars(step, "train", values)
        if in_a_row >= _MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{in_a_row} steps in a row, up to step {step}, had a gradient "
                f"that is not finite (loss {values['total_loss']}, "
                f"reconstruction {values['reconstruction_nll']}, KL "
                f"{values['kl']}). Start the command again with a lower "
                "--config.train.learning_rate or a higher --config.train."
                "regularization: it goes on from the last checkpoint."
            )
        bar.set_postfix(
            nelbo=f"{values['nelbo']:.2f}",
            kl=f"{values['kl']:.2f}",
            rec=f"{values['reconstruction_nll']:.2f}",
            img_s=f"{rate.images_per_second():.0f}",
            **({"skipped": values["skipped"]} if values["skipped"] else {}),
            refresh=False,
        )

    def _evaluate(self, step, metrics, bar) -> Evaluation | None:
        """Measures and draws; None if a stop was requested on the way."""
        settings = self.config.evaluation
        is_last = step == self.total_steps
        samples = (
            settings.final_importance_samples
            if is_last
            else settings.num_importance_samples
        )
        batches = progress(
            self._held_out_batches(),
            total=datasets.num_batches(
                self.held_out,
                training=False,
                batch_size=self._evaluation_batch_size(),
            ),
            desc=f"evaluating, K={samples}",
            unit="batch",
            leave=False,
        )
        evaluation = self.evaluator(
            batches, samples, should_stop=lambda: self._stop_requested
        )
        if evaluation is None:
            return None
        self.last_evaluation = {
            "nelbo": float(evaluation.nelbo),
            "nll": float(evaluation.nll),
            "bits_per_dim": float(evaluation.bits_per_dim),
        }
        metrics.scalars(step, "evaluation", evaluation._asdict())
        if math.isfinite(evaluation.nelbo):
            self._illustrate(step, metrics)
        self._evaluation_due = False
        self.checkpoints.update_state(step, self._state(step, metrics.offset()))
        bar.set_description(
            f"{self.config.name} (epoch {step // self.steps_per_epoch}: "
            f"held-out NELBO {evaluation.nelbo:.2f})",
            refresh=is_last,
        )
        return evaluation

    def _evaluation_batch_size(self) -> int:
        config = self.config
        return config.evaluation.batch_size or config.train.batch_size

    def _held_out_batches(self):
        return datasets.batches(
            self.held_out,
            self.config,
            training=False,
            batch_size=self._evaluation_batch_size(),
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
            self._state(step, metrics.offset()),
        )

    def _state(self, step: int, metrics_offset: int) -> dict:
        """The plain part of a checkpoint."""
        return {
            "steps_per_epoch": self.steps_per_epoch,
            "position": divmod(step, self.steps_per_epoch),
            "seed": self.config.train.seed,
            "model": dataclasses.asdict(self.config.model),
            "metrics_offset": metrics_offset,
            "evaluation": self.last_evaluation,
            "evaluation_due": self._evaluation_due,
        }


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
