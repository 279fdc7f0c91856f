"""What a run does when its steps fail: it goes back, a few times, or stops.

A step whose gradient is of no use changes nothing (see `TrainStep`).  After
many of them in a row the run returns to its last good checkpoint and goes on
with other data and noise and, if the configuration says so, with a lower
learning rate and a higher lambda.  If that has not helped a few times, it
stops and says what is wrong.

How often it went back must not be forgotten by going back, so it is not a part
of the checkpoints alone but kept in `recovery.json` beside them::

    rollbacks    one record for each, see `Rollback`
    unfinished   whether the last one is still to be carried out
    stopped      why the run was given up, if it was
"""

import dataclasses
import enum
import json
import logging
import math
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

from nvae_tf.config import TrainConfig
from nvae_tf.config.schedules import Coefficients
from nvae_tf.core.errors import CheckpointError, UserError
from nvae_tf.core.files import write_bytes
from nvae_tf.core.json_files import read_json
from nvae_tf.runs.checkpointing import Checkpoint, CheckpointStore
from nvae_tf.training.diagnosis import non_finite

__all__ = ["Recovery", "Rollback", "Verdict", "rollbacks_from"]

_LOG = logging.getLogger(__name__)
# From the largest loss scale down to 1, one for each skipped step.
_MOST_HALVINGS = 24
_START = -1


class Verdict(enum.StrEnum):
    """What to do after a step."""

    GO_ON = "go on"
    ROLL_BACK = "roll back"
    STOP = "stop"


@dataclasses.dataclass(frozen=True)
class Rollback:
    """One return to an earlier checkpoint.

    Attributes:
      failed_at: step that the run had reached.
      target: step of the checkpoint that it went back to; -1 for the start,
        if there was none.
      learning_rate: what the learning rate was multiplied by.
      regularization: what lambda was multiplied by.
      diagnosis: what was wrong, in words.
    """

    failed_at: int
    target: int
    learning_rate: float
    regularization: float
    diagnosis: str


def rollbacks_from(records: Any) -> tuple[Rollback, ...]:
    """What `Recovery.rollbacks` gave.

    Raises:
      ValueError: if it is something else.
    """
    try:
        found = tuple(Rollback(**record) for record in records)
    except TypeError as error:
        raise ValueError(f"A rollback is not whole ({error})") from error
    for rollback in found:
        factors = (rollback.learning_rate, rollback.regularization)
        if (
            type(rollback.failed_at) is not int
            or type(rollback.target) is not int
            or any(type(f) not in (int, float) for f in factors)
            or not all(math.isfinite(f) and f > 0 for f in factors)
        ):
            raise ValueError("A rollback has a value of the wrong kind")
    return found


class Recovery:
    """The setbacks of one run, and what follows from them.

    Args:
      path: of `recovery.json`; read if it is there.
      config: of the training.
      writes: whether this process keeps the file and the checkpoints: one of
        several that train together does; all of them decide alike.

    Attributes:
      history: the `Rollback`s so far.

    Raises:
      CheckpointError: if the file is not what was written.
    """

    def __init__(self, path, config: TrainConfig, *, writes: bool = True):
        self.path = pathlib.Path(path)
        self.config = config
        self.writes = writes
        self.history: tuple[Rollback, ...] = ()
        self._unfinished = False
        self._stopped: dict[str, Any] | None = None
        if self.path.exists():
            self._read()

    @property
    def learning_rate(self) -> float:
        """What all rollbacks together multiply the learning rate by."""
        return math.prod(r.learning_rate for r in self.history)

    @property
    def regularization(self) -> float:
        """Likewise lambda."""
        return math.prod(r.regularization for r in self.history)

    def adjust(self, coefficients: Coefficients) -> Coefficients:
        """The schedules' coefficients, as the rollbacks changed them."""
        return coefficients._replace(
            learning_rate=coefficients.learning_rate * self.learning_rate,
            regularization=coefficients.regularization * self.regularization,
        )

    def seed(self, seed: int) -> int:
        """The seed of data order and noise: another one after each rollback.

        Args:
          seed: of the run, 0 to `2**31 - 1`.
        """
        count = len(self.history)
        if not count:
            return seed
        return zlib.crc32(f"rollback {count}".encode(), seed) & 0x7FFFFFFF

    def verdict(
        self, skipped_in_a_row: int, loss_scale: float = 1.0
    ) -> Verdict:
        """What to do after a step.

        Args:
          skipped_in_a_row: the latest steps that changed nothing.
          loss_scale: of float16; while it is above 1, every overflow halves
            it, and a row of them is nothing unusual.
        """
        limit = self.config.skips_before_rollback
        if loss_scale > 1:
            limit += _MOST_HALVINGS
        if skipped_in_a_row < limit:
            return Verdict.GO_ON
        if len(self.history) < self.config.max_rollbacks:
            return Verdict.ROLL_BACK
        return Verdict.STOP

    def rollbacks(self) -> list[dict[str, Any]]:
        """The history as JSON holds it; checkpoints keep it, too."""
        return [dataclasses.asdict(rollback) for rollback in self.history]

    def resume(self, store: CheckpointStore) -> None:
        """Carries out a rollback that the last process only decided.

        To be called before the run restores its latest checkpoint.
        """
        if self._unfinished:
            self._finish(store)

    def adopt(self, saved: list[Mapping[str, Any]] | None) -> None:
        """Takes over the history of a restored checkpoint if it is longer.

        It is if the file was lost on the way, as when only the checkpoints
        were moved to another workdir.

        Args:
          saved: what `rollbacks` gave when the checkpoint was saved.

        Raises:
          ValueError: if it is something else.
        """
        if saved and len(saved) > len(self.history):
            self.history = rollbacks_from(saved)
            self._write()

    def roll_back(
        self, store: CheckpointStore, step: int, diagnosis: object
    ) -> Checkpoint | None:
        """Goes back to the last good checkpoint.

        If the run failed again before it saved a new one, it goes back one
        further than the last time, as long as there is one.

        Args:
          store: of the run; later checkpoints are abandoned.
          step: that was reached.
          diagnosis: what is wrong.

        Returns:
          What to go on from; None to begin anew, if nothing good was saved.
        """
        checkpoint = _last_good(store)
        tried = self.history[-1].target if self.history else _START
        if checkpoint is not None and checkpoint.step <= tried:
            checkpoint = _last_good(store, before=tried) or checkpoint
        rollback = Rollback(
            failed_at=step,
            target=_START if checkpoint is None else checkpoint.step,
            learning_rate=self.config.rollback_learning_rate,
            regularization=self.config.rollback_regularization,
            diagnosis=str(diagnosis),
        )
        self.history += (rollback,)
        # The decision first: a process that ends in between is followed by
        # one that carries it out, instead of one that decides again.
        self._unfinished = True
        self._write()
        self._finish(store)
        _LOG.warning(
            "The steps up to step %d had to be skipped; going back to step %d "
            "(rollback %d of at most %d). %s",
            step,
            max(rollback.target, 0),
            len(self.history),
            self.config.max_rollbacks,
            diagnosis,
        )
        return checkpoint

    def give_up(
        self,
        store: CheckpointStore,
        step: int,
        skipped_in_a_row: int,
        diagnosis: object,
    ) -> UserError:
        """Leaves the run at its last good checkpoint.

        Args:
          store: of the run; checkpoints after the good one are abandoned.
          step: that was reached.
          skipped_in_a_row: how many steps up to it changed nothing.
          diagnosis: what is wrong.

        Returns:
          What to raise.
        """
        checkpoint = _last_good(store)
        if checkpoint is not None and self.writes:
            store.abandon_after(checkpoint.step)
        self._stopped = {"step": step, "diagnosis": str(diagnosis)}
        self._write()
        start = 0 if checkpoint is None else checkpoint.step
        return UserError(
            f"{skipped_in_a_row} steps in a row, up to step {step}, had a "
            "gradient that is not finite or too long, after going back "
            f"{len(self.history)} times. {diagnosis} Start the command again "
            "with a lower --config.train.learning_rate or a higher "
            "--config.train.regularization, or with more "
            "--config.train.max_rollbacks: it goes on from step "
            f"{start}. All rollbacks are in {self.path}."
        )

    def _finish(self, store: CheckpointStore) -> None:
        if self.writes:
            store.abandon_after(self.history[-1].target)
        self._unfinished = False
        self._write()

    def _read(self) -> None:
        try:
            content = read_json(self.path)
            self.history = rollbacks_from(content["rollbacks"])
            self._unfinished = bool(content["unfinished"] and self.history)
            self._stopped = content["stopped"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path} is damaged: {error}. Restore it from a backup, "
                "or remove it: the run then counts its rollbacks from 0."
            ) from error

    def _write(self) -> None:
        if self.writes:
            content = {
                "rollbacks": self.rollbacks(),
                "unfinished": self._unfinished,
                "stopped": self._stopped,
            }
            text = json.dumps(content, indent=1) + "\n"
            write_bytes(self.path, text.encode())


def _last_good(
    store: CheckpointStore, before: int | None = None
) -> Checkpoint | None:
    """The newest good checkpoint that holds finite numbers only."""
    while True:
        checkpoint = store.restore_latest(before=before, only_good=True)
        if checkpoint is None or not non_finite(checkpoint.tensors):
            return checkpoint
        before = checkpoint.step
