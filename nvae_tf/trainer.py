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

import tensorflow as tf

from nvae_tf import datasets, replicas, schedules
from nvae_tf.averaging import WeightAverage
from nvae_tf.checkpointing import Checkpoint
from nvae_tf.config import Config
from nvae_tf.devices import Devices, open_devices
from nvae_tf.errors import UserError
from nvae_tf.evaluation import (
    ACTIVE_NATS,
    Evaluation,
    Evaluator,
)
from nvae_tf.illustrator import Illustrator
from nvae_tf.launcher import RESUME_STATUS
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

_LOG = logging.getLogger(__name__)
_IMAGES = 32
_MAX_SKIPPED_IN_A_ROW = 10
# What a collective operation raises when a process it waits for is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.CancelledError,
)


def train(
    config: Config, workdir, strategy: str = "one_device"
) -> Evaluation | None:
    """Trains a run to its end, from wherever it was.

    Args:
      config: of the run.
      workdir: its folder; what is there is resumed.  Several processes share
        it.
      strategy: see `open_devices`.

    Returns:
      The last evaluation, None if the run was at its end before.

    Raises:
      UserError: if configuration, data or workdir do not allow it.
      SystemExit: with `RESUME_STATUS` if the same command should be started
        again: after SIGTERM, the state being saved, or when another process
        was lost.
    """
    devices = open_devices(strategy)
    folder = Workdir(workdir)
    with contextlib.ExitStack() as stack:
        if devices.is_chief:
            stack.enter_context(folder.locked())
        changed = folder.check_config(config)
        run = Trainer(config, folder, devices)
        if devices.is_chief:
            folder.write_config(config)
        try:
            return run.run(changed)
        except _LOST as error:
            if devices.num_workers == 1:
                raise
            print(
                f"Another process of this run was lost ({error}). Start the "
                "same command to go on from the last checkpoint.",
                file=sys.stderr,
            )
            sys.exit(RESUME_STATUS)


class Trainer:
    """One run, as one of its processes sees it.

    All processes take the same steps, each with its share of every batch, and
    come to the same decisions from what all know; the first one writes.

    Args:
      config: of the run.
      workdir: its folder.
      devices: of the run; by default one.
    """

    def __init__(
        self,
        config: Config,
        workdir: Workdir,
        devices: Devices | None = None,
    ):
        self.config = config
        self.workdir = workdir
        self.devices = devices or open_devices()
        self.source = datasets.open_source(config, "train")
        self.held_out = datasets.open_source(config, "validation")
        train = config.train
        self.steps_per_epoch = self._count_steps()
        with self.devices.strategy.scope():
            self.model = NVAE(
                config.model,
                seed=train.seed,
                # A reduction over replicas cannot sit in a loop.
                unroll=self.devices.num_replicas > 1,
                dtype=config.precision,
            )
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

    def _count_steps(self) -> int:
        """Steps per epoch."""
        train = self.config.train
        batches = datasets.num_batches(
            self.source,
            training=True,
            batch_size=self._local_batch(train.batch_size),
            num_shards=self.devices.num_workers,
        )
        if batches < train.accumulate:
            raise UserError(
                f"{self.source.name} has {len(self.source)} images, too few "
                f"for one step: train.batch_size {train.batch_size} on "
                f"{self.devices.num_replicas} devices, train.accumulate "
                f"{train.accumulate} times. Lower one of them."
            )
        return batches // train.accumulate

    def _local_batch(self, size: int) -> int:
        """Images of a pass in this process, from those per replica."""
        return size * self.devices.local_replicas

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
        with contextlib.ExitStack() as stack:
            metrics = None
            if self.devices.is_chief:
                writer = MetricsWriter(self.workdir, offset)
                metrics = stack.enter_context(contextlib.closing(writer))
            if changed and metrics:
                _LOG.warning(
                    "Changed since the last start: %s", "; ".join(changed)
                )
                metrics.event(step, "config", changed=list(changed))
            stack.enter_context(self._signals())
            return self._loop(step, metrics)

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
        checkpoint = self._read_checkpoint()
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
                    f"{state.get(name)}, but it is {now} now: the images, the "
                    "number of devices or the configuration were changed. "
                    "Restore them, or choose another --workdir."
                )
        assign_tensors(
            self.train_step.named_variables(), checkpoint, self.workdir.path
        )
        self.last_evaluation = state["evaluation"]
        self._evaluation_due = state["evaluation_due"]
        if self.devices.is_chief:
            _LOG.info("Resuming from step %d.", checkpoint.step)
        return checkpoint.step, state["metrics_offset"]

    def _read_checkpoint(self) -> Checkpoint | None:
        """The latest that is intact: the first process chooses for all."""
        checkpoint = None
        if self.devices.is_chief:
            checkpoint = self.checkpoints.restore_latest(discard=True)
        if self.devices.num_workers == 1:
            return checkpoint
        step = -1 if checkpoint is None else checkpoint.step
        step = self._from_chief(step)
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

    def _prepare_first_step(self) -> None:
        """Data-dependent initialisation and the first power iterations."""
        if any(
            getattr(layer, "data_dependent", False)
            for _, layer in self.model.leaves()
        ):
            batches = self._batches(0)
            first = self.devices.per_replica(next(batches).images)
            batches.close()
            if not self.train_step.initialize_from(first, self._seed(0)):
                raise UserError(
                    f"model.architecture {self.config.model.architecture!r} "
                    "starts from the spread of its first batch, and the "
                    "coarsest scale has one value per channel only: raise "
                    "--config.train.batch_size."
                )
        self.train_step.spectral.warm_up(
            self.model.read_params(Mode.TRAINING), FIRST_STEP_ROUNDS - ROUNDS
        )
        if self.average:
            self.average.restart()

    def _batches(self, step: int):
        """Batches from a step on, `train.accumulate` for each step."""
        train = self.config.train
        epoch, rest = divmod(step, self.steps_per_epoch)
        return datasets.batches(
            self.source,
            self.config,
            training=True,
            batch_size=self._local_batch(train.batch_size),
            seed=train.seed,
            position=datasets.Position(epoch, rest * train.accumulate),
            shard_index=self.devices.worker,
            num_shards=self.devices.num_workers,
            batches_per_step=train.accumulate,
        )

    def _seed(self, number: int):
        """Of the noise of one pass."""
        return tf.constant([self.config.train.seed, number], tf.int32)

    def _loop(
        self, step: int, metrics: MetricsWriter | None
    ) -> Evaluation | None:
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
                disable=not self.devices.is_chief,
            ) as bar,
        ):
            rate = _Rate(
                config.train.batch_size
                * config.train.accumulate
                * self.devices.num_replicas
            )
            result = None
            stops = False
            while True:
                if self._evaluation_due:
                    evaluation = self._evaluate(step, metrics, bar)
                    rate.restart()
                if self.devices.num_workers == 1:
                    stops = self._stop_requested
                if stops or step >= self.total_steps:
                    break
                previous = result
                result, coefficients = self._take_step(step, batches)
                # Read a step late, so that none waits for the one before.
                stops = previous is not None and bool(previous.stop_requests)
                step += 1
                rate.tick()
                bar.update()
                if step % config.train.log_every == 0:
                    self._log(step, result, coefficients, rate, metrics, bar)
                if self.devices.num_workers == 1:
                    stops = self._stop_requested
                self._evaluation_due = self._is_evaluated(step)
                if (
                    self._evaluation_due
                    or stops
                    or step % every == 0
                    or step == self.total_steps
                ):
                    self._save(step, metrics)
        if stops and (step < self.total_steps or self._evaluation_due):
            if self.devices.is_chief:
                print(
                    f"Stopped at step {step}; the state is saved. Start the "
                    "same command to go on.",
                    file=sys.stderr,
                )
            sys.exit(RESUME_STATUS)
        return evaluation

    def _take_step(self, step: int, batches):
        coefficients = schedules.coefficients(
            self.config.train, step, self.steps_per_epoch
        )
        tensors = schedules.Coefficients(
            *[tf.constant(c, tf.float32) for c in coefficients]
        )
        stop = tf.constant(float(self._stop_requested))
        count = self.config.train.accumulate
        images = [
            self.devices.per_replica(next(batches).images) for _ in range(count)
        ]
        seeds = [self._seed(step * count + i) for i in range(count)]
        if count == 1:
            result = self.train_step(
                images[0], tensors, seed=seeds[0], stop=stop
            )
        else:
            result = self.train_step.accumulated(images, tensors, seeds, stop)
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
        values.pop("stop_requests")
        values |= {
            **coefficients._asdict(),
            "active_latents": (channels > ACTIVE_NATS).sum(axis=1),
        }
        if metrics:
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
        averaged = None
        evaluation = self._measure(samples, "evaluating")
        if evaluation is None:
            return None
        if self.average:
            with self.average.in_place():
                averaged = self._measure(samples, "evaluating the average")
            if averaged is None:
                return None
        self.last_evaluation = {
            **_summary(evaluation),
            **({"average": _summary(averaged)} if averaged else {}),
        }
        self._evaluation_due = False
        if metrics:
            metrics.scalars(step, "evaluation", evaluation._asdict())
            if averaged:
                metrics.scalars(step, "evaluation_ema", averaged._asdict())
            self._illustrate(step, metrics, evaluation, averaged)
            self.checkpoints.update_state(
                step, self._state(step, metrics.offset())
            )
        bar.set_description(
            f"{self.config.name} (epoch {step // self.steps_per_epoch}: "
            f"held-out NELBO {evaluation.nelbo:.2f})",
            refresh=is_last,
        )
        return evaluation

    def _measure(self, samples: int, what: str) -> Evaluation | None:
        """Evaluates the model as it is; None if a stop was requested."""
        batches = progress(
            self._held_out_batches(),
            total=datasets.num_batches(
                self.held_out,
                training=False,
                batch_size=self._evaluation_batch_size(),
                num_shards=self.devices.num_workers,
            ),
            desc=f"{what}, K={samples}",
            unit="batch",
            leave=False,
            disable=not self.devices.is_chief,
        )
        # Several processes evaluate to the end: none of them could stop alone.
        alone = self.devices.num_workers == 1
        return self.evaluator(
            batches,
            samples,
            should_stop=lambda: alone and self._stop_requested,
        )

    def _evaluation_batch_size(self) -> int:
        """Images of a batch in this process."""
        config = self.config
        return self._local_batch(
            config.evaluation.batch_size or config.train.batch_size
        )

    def _held_out_batches(self):
        return datasets.batches(
            self.held_out,
            self.config,
            training=False,
            batch_size=self._evaluation_batch_size(),
            seed=self.config.train.seed,
            shard_index=self.devices.worker,
            num_shards=self.devices.num_workers,
        )

    def _illustrate(self, step, metrics, evaluation, averaged) -> None:
        """Draws the model, and its average beside it."""
        if math.isfinite(evaluation.nelbo):
            self._draw(step, metrics, "")
        if averaged and math.isfinite(averaged.nelbo):
            with self.average.in_place():
                self._draw(step, metrics, "ema_")

    def _draw(self, step, metrics, prefix: str) -> None:
        for temperature in self.config.evaluation.image_temperatures:
            metrics.image(
                step,
                f"{prefix}samples/temperature_{temperature}",
                self.illustrator.sample_grid(_IMAGES, temperature),
            )
        batches = self._held_out_batches()
        x = next(batches).images[:_IMAGES]
        batches.close()
        metrics.image(
            step,
            f"{prefix}reconstructions",
            self.illustrator.grid_of_pairs(self.illustrator.reconstruct(x)),
        )

    def _save(self, step: int, metrics: MetricsWriter | None) -> None:
        if metrics is None:
            return
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


def _summary(evaluation: Evaluation) -> dict[str, float]:
    """What a checkpoint remembers of an evaluation."""
    return {
        "nelbo": float(evaluation.nelbo),
        "nll": float(evaluation.nll),
        "bits_per_dim": float(evaluation.bits_per_dim),
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
