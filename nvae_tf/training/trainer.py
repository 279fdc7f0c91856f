"""The training loop: steps, evaluation, checkpoints, and what goes wrong."""

import collections
import contextlib
import logging
import sys
from collections.abc import Sequence

import tensorflow as tf

from nvae_tf.config import Config, schedules
from nvae_tf.core.errors import RESUME_STATUS, UserError
from nvae_tf.core.progress import StopRequest, stop_requests
from nvae_tf.datasets import pipeline
from nvae_tf.distribute.cores import share_cores
from nvae_tf.distribute.devices import Devices, open_devices
from nvae_tf.evaluation.evaluator import Evaluation
from nvae_tf.model.pure_layer import Mode
from nvae_tf.model.regularizers import FIRST_STEP_ROUNDS, ROUNDS
from nvae_tf.runs import pretrained
from nvae_tf.runs.workdir import Workdir
from nvae_tf.training import attempts
from nvae_tf.training.attempts import Attempt
from nvae_tf.training.profiling import StepProfiler
from nvae_tf.training.recovery import Verdict
from nvae_tf.training.run_log import RunLog
from nvae_tf.training.run_state import RunState, SavePoint
from nvae_tf.training.train_batches import TrainBatches
from nvae_tf.training.validation import Validator
from nvae_tf.training.watchdog import Watchdog

__all__ = ["Trainer", "train"]

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
      profile_steps: how many steps to profile, see
        `nvae_tf.training.profiling`.

    Returns:
      The last evaluation, None if the run was at its end before.

    Raises:
      UserError: if configuration, data or workdir do not allow it, or if
        steps fail again and again.
      SystemExit: with `RESUME_STATUS` if the same command should be started
        again: after SIGTERM, the state being saved, or when another process
        was lost.
    """
    share_cores(config.model.convolution_work(config.train.batch_size))
    devices = open_devices(strategy)
    folder = Workdir(workdir)
    with contextlib.ExitStack() as stack:
        if devices.is_chief:
            stack.enter_context(folder.locked())
            _LOG.info(
                "Training on %s in %s.", devices.describe(), config.precision
            )
        config = pipeline.with_classes(config)
        changed = folder.check_config(config)
        if not folder.checkpoints().steps():
            pretrained.require_same_architecture(config)
        watchdog = stack.enter_context(
            Watchdog(60 * config.train.watchdog_minutes, folder.path)
        )
        try:
            with watchdog.allowing(_START_FACTOR):
                run = Trainer(config, folder, devices, watchdog)
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
        self.data = TrainBatches(config, self.devices)
        self.steps_per_epoch = self.data.steps_per_epoch
        self.state = RunState(
            config, workdir, self.devices, self.steps_per_epoch
        )
        self.validator = Validator(config, self.state, self.devices)
        self.step = 0
        self._stop_requested = StopRequest()
        self._stops = False
        # The last two: the one before the last has certainly been computed.
        self._attempts: collections.deque[Attempt] = collections.deque(maxlen=2)

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
        with self.state.saves:
            save_point = self._start()
            self.step = save_point.step
            if self._is_complete():
                _LOG.info(
                    "%s is complete: %d steps.", self.workdir.path, self.step
                )
                return None
            return self._go_on(save_point, changed, profile_steps)

    def _go_on(
        self, save_point: SavePoint, changed: Sequence[str], profile_steps: int
    ) -> Evaluation | None:
        """Takes the steps after `save_point`; see `run`."""
        with contextlib.ExitStack() as stack:
            # The first SIGTERM or Ctrl-C saves and stops; the second aborts.
            self._stop_requested = stack.enter_context(stop_requests())
            self._profiler = stack.enter_context(
                StepProfiler(
                    self.workdir.tensorboard_path,
                    profile_steps if self.devices.is_chief else 0,
                )
            )
            self._run_log = RunLog(
                self.config,
                self.workdir,
                self.devices,
                save_point,
                self.total_steps,
            )
            stack.callback(self._run_log.close)
            if changed:
                self._run_log.changes(self.step, changed)
            self._batches = self._batches_from(self.step)
            stack.callback(lambda: self._batches.close())
            return self._loop()

    def _start(self) -> SavePoint:
        """Sets all state, from a checkpoint or for the first step."""
        with self.watchdog.allowing(_START_FACTOR):
            save_point = self.state.restore()
            if self.devices.is_chief:
                # Not before what was restored has been found to fit it.
                self.workdir.write_config(self.config)
            if save_point is None:
                self._prepare_first_step()
                save_point = SavePoint(0, 0)
                # What a run goes back to that fails before its first epoch
                # ends.
                self.state.save(save_point)
            return save_point

    def _prepare_first_step(self) -> None:
        """Initial weights that are not random, the first power iterations."""
        model, train_step = self.state.model, self.state.train_step
        initial_model = self.config.train.initial_model
        if initial_model:
            pretrained.begin(model, initial_model)
            _LOG.info("Beginning with the weights of %s.", initial_model)
        elif any(
            getattr(layer, "data_dependent", False)
            for _, layer in model.leaves()
        ):
            batches = self._batches_from(0)
            first = self.devices.per_replica(next(batches).inputs)
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

    def _loop(self) -> Evaluation | None:
        """Takes the steps that are left; saves before it evaluates."""
        evaluation = None
        first_step = self.step
        while not self._is_complete():
            if self.devices.num_workers == 1:
                self._stops = self._stop_requested()
            if self._stops:
                self._stop()
            if self.state.evaluation_due:
                evaluation = self._evaluate() or evaluation
                continue
            is_first = self.step == first_step
            with self.watchdog.allowing(_START_FACTOR if is_first else 1.0):
                self._advance()
        return evaluation

    def _is_complete(self) -> bool:
        return self.step >= self.total_steps and not self.state.evaluation_due

    def _stop(self) -> None:
        """Saves, if the step is not saved yet, and ends the process."""
        if self.step not in self.state.checkpoints.steps():
            self._save()
        self.state.saves.settled()
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
        self._run_log.advance()
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

    def _take_step(self) -> Attempt:
        count = self.config.train.accumulate
        coefficients = self.state.recovery.adjust(
            schedules.coefficients(
                self.config.train, self.step, self.steps_per_epoch
            )
        )
        return attempts.take(
            self.state.train_step,
            self.devices,
            [next(self._batches).inputs for _ in range(count)],
            coefficients,
            [self._seed(self.step * count + i) for i in range(count)],
            stop=self._stop_requested(),
        )

    def _batches_from(self, step: int):
        return self.data.from_step(step, self._base_seed())

    def _base_seed(self) -> int:
        """Of the data's order and of all noise: another after a rollback."""
        return self.state.recovery.seed(self.config.train.seed)

    def _seed(self, number: int):
        """Of the noise of one pass."""
        return tf.constant([self._base_seed(), number], tf.int32)

    def _is_evaluated(self, step: int) -> bool:
        epoch, rest = divmod(step, self.steps_per_epoch)
        every = self.config.evaluation.every_epochs
        return not rest and (epoch % every == 0 or step == self.total_steps)

    def _is_saved(self, step: int) -> bool:
        checkpoint = self.config.checkpoint
        every = checkpoint.every_steps or (
            checkpoint.every_epochs * self.steps_per_epoch
        )
        return (
            step % every == 0
            or step == self.total_steps
            or self._is_evaluated(step)
        )

    def _recover(self, verdict: Verdict, attempt: Attempt) -> None:
        """Goes back to where all was well, or gives up."""
        self.watchdog.beat()
        diagnosis = attempts.diagnose(
            self.state.train_step, self.devices, attempt
        )
        if verdict == Verdict.STOP:
            raise self.state.give_up(self.step, attempt.result, diagnosis)
        failed_at = self.step
        save_point = self.state.roll_back(failed_at, diagnosis)
        self.step = save_point.step
        self._run_log.roll_back(save_point, failed_at, diagnosis)
        # A process that goes on from here keeps the record.
        if self.step in self.state.checkpoints.steps():
            self.state.note(self._save_point())
        else:
            # Imported: whatever the epoch, its checkpoint is that of step 0.
            self._save()
        self._attempts.clear()
        self._batches.close()
        self._batches = self._batches_from(self.step)

    def _log(self, attempt: Attempt) -> None:
        self._run_log.train(self.step, attempt)

    def _evaluate(self) -> Evaluation | None:
        """Measures and draws; None if a stop was requested on the way."""
        settings = self.config.evaluation
        is_last = self.step == self.total_steps
        validation = self.validator.measure(
            settings.final_importance_samples
            if is_last
            else settings.num_importance_samples,
            should_stop=self._stop_requested,
            on_pass=lambda _: self.watchdog.beat(),
        )
        if validation is None:
            return None
        nelbo = validation.evaluation.nelbo
        self.state.last_evaluation = {
            "step": self.step,
            **validation.summary(),
        }
        self.state.evaluation_due = False
        self._run_log.evaluation(self.step, validation)
        if self.devices.is_chief:
            self.validator.draw(self.step, self._run_log.metrics, validation)
        self.state.note(self._save_point(), nelbo=nelbo)
        epoch = self.step // self.steps_per_epoch
        self._run_log.go_on(
            f"epoch {epoch}: held-out NELBO {nelbo:.2f}", refresh=is_last
        )
        return validation.evaluation

    def _save_point(self) -> SavePoint:
        return SavePoint(self.step, self._run_log.offset())

    def _save(self) -> None:
        self.state.save(self._save_point())
