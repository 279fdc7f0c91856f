"""The training loop: steps, evaluation, checkpoints, and what goes wrong."""

import collections
import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from nvae_tf import datasets, replicas, runtime, schedules
from nvae_tf.config import Config
from nvae_tf.devices import Devices, open_devices
from nvae_tf.diagnosis import Diagnosis, diagnose
from nvae_tf.errors import UserError
from nvae_tf.evaluation import ACTIVE_NATS, Evaluation
from nvae_tf.launcher import RESUME_STATUS
from nvae_tf.layers import Mode
from nvae_tf.metrics import MetricsWriter
from nvae_tf.profiling import StepProfiler
from nvae_tf.progress import progress
from nvae_tf.recovery import Verdict
from nvae_tf.regularizers import FIRST_STEP_ROUNDS, ROUNDS
from nvae_tf.run_state import Place, RunState
from nvae_tf.schedules import Coefficients
from nvae_tf.train_step import StepMetrics
from nvae_tf.validation import Validator
from nvae_tf.watchdog import Watchdog
from nvae_tf.workdir import Workdir

__all__ = ["RESUME_STATUS", "Trainer", "train"]

_LOG = logging.getLogger(__name__)
# The graph of the first step is made and optimised before it runs, and other
# processes may take longer to start.
_START_FACTOR = 4.0
# What a collective operation raises when a process it waits for is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.CancelledError,
)


def train(
    config: Config,
    workdir,
    strategy: str = "one_device",
    *,
    profile_steps: int = 0,
) -> Evaluation | None:
    """Trains a run to its end, from wherever it was.

    Args:
      config: of the run.
      workdir: its folder; what is there is resumed.  Several processes share
        it.
      strategy: see `open_devices`.
      profile_steps: how many steps to profile, see `nvae_tf.profiling`.

    Returns:
      The last evaluation, None if the run was at its end before.

    Raises:
      UserError: if configuration, data or workdir do not allow it, or if
        steps fail again and again.
      SystemExit: with `RESUME_STATUS` if the same command should be started
        again: after SIGTERM, the state being saved, or when another process
        was lost.
    """
    runtime.share_cores(config.model.convolution_work(config.train.batch_size))
    devices = open_devices(strategy)
    folder = Workdir(workdir)
    with contextlib.ExitStack() as stack:
        if devices.is_chief:
            stack.enter_context(folder.locked())
        changed = folder.check_config(config)
        watchdog = stack.enter_context(
            Watchdog(60 * config.train.watchdog_minutes, folder.path)
        )
        try:
            with watchdog.allowing(_START_FACTOR):
                run = Trainer(config, folder, devices, watchdog)
            if devices.is_chief:
                folder.write_config(config)
            return run.run(changed, profile_steps)
        except _LOST as error:
            if devices.num_workers == 1:
                raise
            print(
                f"Another process of this run was lost ({error}). Start the "
                "same command to go on from the last checkpoint.",
                file=sys.stderr,
            )
            sys.exit(RESUME_STATUS)


class _Attempt(NamedTuple):
    """A step: what it was given and what it gave.

    Attributes:
      images: float32 `[B, H, W, C]` of this process, one for each pass.
      coefficients: floats.
      seeds: int32 `[2]`, one for each pass.
      result: of all replicas.
    """

    images: list
    coefficients: Coefficients
    seeds: list
    result: StepMetrics


class Trainer:
    """One run, as one of its processes sees it.

    All processes take the same steps, each with its share of every batch, and
    come to the same decisions from what all know; the first one writes.

    Args:
      config: of the run.
      workdir: its folder.
      devices: of the run; by default one.
      watchdog: that is told of progress; by default none.
    """

    def __init__(
        self,
        config: Config,
        workdir: Workdir,
        devices: Devices | None = None,
        watchdog: Watchdog | None = None,
    ):
        self.config = config
        self.workdir = workdir
        self.devices = devices or open_devices()
        self.watchdog = watchdog or Watchdog(0, workdir.path)
        self.source = datasets.open_source(config, "train")
        self.steps_per_epoch = self._count_steps()
        self.state = RunState(
            config, workdir, self.devices, self.steps_per_epoch
        )
        self.validator = Validator(config, self.state, self.devices)
        self.step = 0
        self._stop_requested = False
        self._stops = False
        # The last two: the one before the last has certainly been computed.
        self._attempts: collections.deque[_Attempt] = collections.deque(
            maxlen=2
        )

    def _count_steps(self) -> int:
        """Steps per epoch."""
        train = self.config.train
        batches = datasets.num_batches(
            self.source,
            training=True,
            batch_size=train.batch_size * self.devices.local_replicas,
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

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch

    def run(
        self, changed: Sequence[str] = (), profile_steps: int = 0
    ) -> Evaluation | None:
        """Trains to the end; see `train`.

        Args:
          changed: what is new in the configuration since the last start.
          profile_steps: how many steps to profile.
        """
        place = self._start()
        self.step = place.step
        if self._is_complete():
            _LOG.info("%s is complete: %d steps.", self.workdir.path, self.step)
            return None
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._signals())
            self._metrics = None
            if self.devices.is_chief:
                writer = MetricsWriter(self.workdir, place.metrics_offset)
                self._metrics = stack.enter_context(contextlib.closing(writer))
            if changed and self._metrics:
                _LOG.warning(
                    "Changed since the last start: %s", "; ".join(changed)
                )
                self._metrics.event(self.step, "config", changed=list(changed))
            self._profiler = stack.enter_context(
                StepProfiler(
                    self.workdir.tensorboard_path,
                    profile_steps if self.devices.is_chief else 0,
                )
            )
            self._bar = stack.enter_context(
                progress(
                    total=self.total_steps,
                    initial=self.step,
                    unit="step",
                    desc=self.config.name,
                    disable=not self.devices.is_chief,
                )
            )
            self._rate = _Rate(
                self.config.train.batch_size
                * self.config.train.accumulate
                * self.devices.num_replicas
            )
            self._open_batches()
            stack.callback(lambda: self._batches.close())
            return self._loop()

    def _start(self) -> Place:
        """Sets all state, from a checkpoint or for the first step."""
        with self.watchdog.allowing(_START_FACTOR):
            place = self.state.restore()
            if place is None:
                self._prepare_first_step()
                place = Place(0, 0)
                # What a run goes back to that fails before its first epoch
                # ends.
                self.state.save(place)
            return place

    def _prepare_first_step(self) -> None:
        """Data-dependent initialisation and the first power iterations."""
        model, train_step = self.state.model, self.state.train_step
        if any(
            getattr(layer, "data_dependent", False)
            for _, layer in model.leaves()
        ):
            batches = self._batches_from(0)
            first = self.devices.per_replica(next(batches).images)
            batches.close()
            if not train_step.initialize_from(first, self._seed(0)):
                raise UserError(
                    f"model.architecture {self.config.model.architecture!r} "
                    "starts from the spread of its first batch, and the "
                    "coarsest scale has one value per channel only: raise "
                    "--config.train.batch_size."
                )
        train_step.spectral.warm_up(
            model.read_params(Mode.TRAINING), FIRST_STEP_ROUNDS - ROUNDS
        )
        if self.state.average:
            self.state.average.restart()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
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

    def _loop(self) -> Evaluation | None:
        """Takes the steps that are left; saves before it evaluates."""
        evaluation = None
        first_step = self.step
        while not self._is_complete():
            if self.devices.num_workers == 1:
                self._stops = self._stop_requested
            if self._stops:
                self._stop()
            if self.state.evaluation_due:
                evaluation = self._evaluate() or evaluation
            elif self.step == first_step:
                with self.watchdog.allowing(_START_FACTOR):
                    self._advance()
            else:
                self._advance()
        return evaluation

    def _is_complete(self) -> bool:
        return self.step >= self.total_steps and not self.state.evaluation_due

    def _stop(self) -> None:
        """Saves, if the step is not saved yet, and ends the process."""
        if self.step not in self.state.checkpoints.steps():
            self._save()
        if self.devices.is_chief:
            print(
                f"Stopped at step {self.step}; the state is saved. Start the "
                "same command to go on.",
                file=sys.stderr,
            )
        sys.exit(RESUME_STATUS)

    def _advance(self) -> None:
        """Takes a step; logs, saves or goes back."""
        with self._profiler.step(self.step):
            attempt = self._take_step()
        self.step += 1
        self._attempts.append(attempt)
        self._rate.tick()
        self._bar.update()
        self.watchdog.beat(f"step {self.step}")
        if self.step % self.config.train.log_every == 0:
            self._log(attempt)
        saves = self._is_saved(self.step)
        earlier = self._attempts[0].result
        # The last step is waited for only where there is a reason to.
        if saves or self.state.verdict(earlier) != Verdict.GO_ON:
            verdict = self.state.verdict(attempt.result)
            if verdict != Verdict.GO_ON:
                self._recover(verdict, attempt)
                return
        self._stops = bool(earlier.stop_requests)
        self.state.evaluation_due = self._is_evaluated(self.step)
        if saves:
            self._save()

    def _take_step(self) -> _Attempt:
        count = self.config.train.accumulate
        coefficients = self.state.recovery.adjust(
            schedules.coefficients(
                self.config.train, self.step, self.steps_per_epoch
            )
        )
        tensors = Coefficients(
            *[tf.constant(c, tf.float32) for c in coefficients]
        )
        stop = tf.constant(float(self._stop_requested))
        images = [next(self._batches).images for _ in range(count)]
        placed = [self.devices.per_replica(x) for x in images]
        seeds = [self._seed(self.step * count + i) for i in range(count)]
        train_step = self.state.train_step
        if count == 1:
            result = train_step(placed[0], tensors, seed=seeds[0], stop=stop)
        else:
            result = train_step.accumulated(placed, tensors, seeds, stop)
        return _Attempt(images, coefficients, seeds, result)

    def _open_batches(self) -> None:
        self._batches = self._batches_from(self.step)

    def _batches_from(self, step: int):
        """Batches from a step on, `train.accumulate` for each step."""
        train = self.config.train
        epoch, rest = divmod(step, self.steps_per_epoch)
        return datasets.batches(
            self.source,
            self.config,
            training=True,
            batch_size=train.batch_size * self.devices.local_replicas,
            seed=self.state.recovery.seed(train.seed),
            position=datasets.Position(epoch, rest * train.accumulate),
            shard_index=self.devices.worker,
            num_shards=self.devices.num_workers,
            batches_per_step=train.accumulate,
        )

    def _seed(self, number: int):
        """Of the noise of one pass."""
        seed = self.state.recovery.seed(self.config.train.seed)
        return tf.constant([seed, number], tf.int32)

    def _is_evaluated(self, step: int) -> bool:
        epoch, rest = divmod(step, self.steps_per_epoch)
        every = self.config.evaluation.every_epochs
        return not rest and (epoch % every == 0 or step == self.total_steps)

    def _is_saved(self, step: int) -> bool:
        every = self.config.checkpoint.every_steps or self.steps_per_epoch
        return (
            step % every == 0
            or step == self.total_steps
            or self._is_evaluated(step)
        )

    def _recover(self, verdict: Verdict, attempt: _Attempt) -> None:
        """Goes back to where all was well, or gives up."""
        self.watchdog.beat()
        diagnosis = self._diagnose(attempt)
        if verdict == Verdict.STOP:
            raise self.state.give_up(self.step, attempt.result, diagnosis)
        failed_at = self.step
        place = self.state.roll_back(failed_at, diagnosis)
        self.step = place.step
        if self._metrics:
            self._metrics.rewind(place.metrics_offset)
            self._metrics.event(
                self.step,
                "rollback",
                failed_at=failed_at,
                diagnosis=str(diagnosis),
            )
            # A process that goes on from here keeps the record.
            self.state.note(self._place())
        self._attempts.clear()
        self._batches.close()
        self._open_batches()
        self._rate.restart()
        self._bar.n = self.step
        self._bar.refresh()

    def _diagnose(self, attempt: _Attempt) -> Diagnosis:
        """What is wrong with a step, as far as this process's share tells."""
        diagnosis = Diagnosis()
        for images, seed in zip(attempt.images, attempt.seeds, strict=True):
            for index, part in self.devices.local_parts(images).items():
                own = seed
                if self.devices.num_replicas > 1:
                    own = replicas.own_seed(seed, index)
                diagnosis = diagnose(
                    self.state.train_step, part, attempt.coefficients, own
                )
                if diagnosis.found:
                    return diagnosis
        return diagnosis

    def _log(self, attempt: _Attempt) -> None:
        values: dict[str, Any] = {
            k: v.numpy() for k, v in attempt.result._asdict().items()
        }
        channels = values.pop("kl_per_channel")
        del values["skipped_in_a_row"], values["stop_requests"]
        values |= {
            **attempt.coefficients._asdict(),
            "active_latents": (channels > ACTIVE_NATS).sum(axis=1),
        }
        if self._metrics:
            # Not the rate: a resumed run writes the same records again.
            self._metrics.scalars(self.step, "train", values)
        self._bar.set_postfix(
            nelbo=f"{values['nelbo']:.2f}",
            kl=f"{values['kl']:.2f}",
            rec=f"{values['reconstruction_nll']:.2f}",
            img_s=f"{self._rate.images_per_second():.0f}",
            **({"skipped": values["skipped"]} if values["skipped"] else {}),
            refresh=False,
        )

    def _evaluate(self) -> Evaluation | None:
        """Measures and draws; None if a stop was requested on the way."""
        settings = self.config.evaluation
        is_last = self.step == self.total_steps
        validation = self.validator.measure(
            settings.final_importance_samples
            if is_last
            else settings.num_importance_samples,
            should_stop=lambda: self._stop_requested,
            on_pass=lambda _: self.watchdog.beat(),
        )
        if validation is None:
            return None
        evaluation, averaged = validation
        self.state.last_evaluation = {
            "step": self.step,
            **validation.summary(),
        }
        self.state.evaluation_due = False
        if self._metrics:
            self._metrics.scalars(self.step, "evaluation", evaluation._asdict())
            if averaged:
                self._metrics.scalars(
                    self.step, "evaluation_ema", averaged._asdict()
                )
            self.validator.draw(self.step, self._metrics, validation)
            self.state.note(self._place(), nelbo=evaluation.nelbo)
        self._rate.restart()
        self._bar.set_description(
            f"{self.config.name} (epoch {self.step // self.steps_per_epoch}: "
            f"held-out NELBO {evaluation.nelbo:.2f})",
            refresh=is_last,
        )
        return evaluation

    def _place(self) -> Place:
        return Place(self.step, self._metrics.offset())

    def _save(self) -> None:
        if self._metrics:
            self.state.save(self._place())


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
