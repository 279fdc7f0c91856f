"""Saved state: written aside, moved into place, verified when read.

A checkpoint is a folder named after its step, `checkpoints/00001400` for
example; `nvae_tf.runs.checkpoint_folder` says what is in it.  It appears under
its name only when complete, and disappears from it at once.
"""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors

from nvae_tf.core.errors import CheckpointError
from nvae_tf.core.files import remove_leftovers, sync
from nvae_tf.runs import checkpoint_folder, retention
from nvae_tf.runs.checkpoint_folder import Checkpoint, DamagedCheckpointError
from nvae_tf.runs.retention import Entry, Retention

__all__ = ["Checkpoint", "CheckpointStore", "DamagedCheckpointError"]

_DAMAGED = "damaged"
_WRITING = ".writing-"
_REMOVING = ".removing-"
_REPLACED = ".replaced-"
# 00001400, or 00001400.abandoned-1 once a run went back before it.
_NAME = re.compile(r"([0-9]{8}|[1-9][0-9]{8,17})(\.abandoned-[0-9]+)?")
_LOG = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one workdir.

    Args:
      directory: where they are; created on the first save.
      keep: how many of the latest stay, or a whole `Retention`.
      clock: seconds, by which hours of training are told.
    """

    def __init__(
        self,
        directory,
        keep: int | Retention = 3,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.directory = pathlib.Path(directory)
        self.retention = Retention(keep) if isinstance(keep, int) else keep
        self._clock = clock
        self._opened = clock()
        self._hours_before: float | None = None

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return [s for s, _, abandoned in self._folders() if not abandoned]

    def best_step(self) -> int | None:
        """Step of the checkpoint with the lowest score; None without any.

        Abandoned ones do not count: a step names one checkpoint, and it is
        the step by which evaluations, exports and pages know what they are
        of.
        """
        best = self._best()
        return None if best is None else best.step

    def save(
        self,
        step: int,
        tensors: Mapping[str, np.ndarray],
        metadata: Mapping[str, Any],
        *,
        good: bool = True,
    ) -> pathlib.Path:
        """Writes a checkpoint, then removes those that need not stay.

        Args:
          step: optimiser steps taken.
          tensors: arrays by name.
          metadata: plain values, as JSON holds them.
          good: whether training went well up to here: a run that fails goes
            back to a good one (see `restore_latest`), and only these count as
            the latest that stay.

        Raises:
          CheckpointError: if it cannot be written, for lack of space for
            example; earlier checkpoints stay as they are.
        """
        target = self.directory / f"{step:08d}"
        aside = self.directory / f"{_WRITING}{step:08d}"
        before = self.directory / f"{_REPLACED}{step:08d}"
        try:
            self._clean_up()
            entries = self._entries()
            note = self.retention.new_note(entries, self._hours(entries), good)
            aside.mkdir(parents=True)
            checkpoint_folder.write(
                aside, Checkpoint(step, tensors, metadata), note
            )
            if target.exists():
                # Aside, not away: if what follows does not happen, the
                # clean-up puts it back.
                os.replace(target, before)
            os.replace(aside, target)
            sync(self.directory)
            self._clean_up()
        except (OSError, safetensors.SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            if before.exists() and not target.exists():
                with contextlib.suppress(OSError):
                    os.replace(before, target)
            raise CheckpointError(
                f"Cannot write the checkpoint {target}: {error}. Earlier "
                "checkpoints are intact; make room or fix the permissions and "
                "start the same command again."
            ) from error
        self._prune()
        return target

    def update_metadata(
        self,
        step: int,
        metadata: Mapping[str, Any],
        *,
        score: float | None = None,
    ) -> None:
        """Replaces the metadata of a checkpoint; its arrays stay.

        Args:
          step: of the checkpoint.
          metadata: what takes the place of the old.
          score: of the checkpoint, such as its held-out NELBO: the best has
            the lowest.  None leaves it; one that is not finite is never best.

        Raises:
          CheckpointError: if it cannot be written; the old stays.
        """
        folder = self.directory / f"{step:08d}"
        note = checkpoint_folder.read_note(folder)
        if score is not None:
            known = float(score) if math.isfinite(score) else None
            note = dataclasses.replace(note, score=known)
        try:
            checkpoint_folder.replace_metadata(folder, step, metadata, note)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"Cannot write the metadata of {folder}: {error}. "
                "Make room or fix the permissions and start the same command "
                "again."
            ) from error
        self._prune()

    def abandon_after(self, step: int) -> None:
        """Takes the checkpoints after a step out of the run's way.

        A run that goes back to `step` comes by the later ones' steps again
        and must not be resumed from them.  Those that are to stay for good,
        or are the best so far, are kept under another name, which is no
        step's any more; the others are removed.
        """
        # The newest first: a run that ends on the way resumes from a
        # checkpoint whose successors are gone.
        for later in reversed(self.steps()):
            if later > step:
                folder = self.directory / f"{later:08d}"
                _move(folder, _free_name(f"{folder}.abandoned"))
        self._prune()

    def restore(self, step: int) -> Checkpoint:
        """Reads one checkpoint and verifies it.

        Raises:
          CheckpointError: if it is missing or damaged.
        """
        return checkpoint_folder.read(self.directory / f"{step:08d}", step)

    def restore_best(self) -> Checkpoint | None:
        """The checkpoint of `best_step`; None if none has a score.

        Raises:
          CheckpointError: if it is damaged.
        """
        best = self._best()
        if best is None:
            return None
        return checkpoint_folder.read(best.path, best.step)

    def restore_latest(
        self,
        discard: bool = False,
        *,
        before: int | None = None,
        only_good: bool = False,
    ) -> Checkpoint | None:
        """The newest checkpoint that is intact; None if there is none at all.

        Args:
          discard: move damaged checkpoints out of the way (a run that goes
            on will come by their steps again).
          before: only checkpoints of earlier steps than this.
          only_good: only those that were saved as good.

        Raises:
          CheckpointError: if there are checkpoints, but none is intact.
        """
        if discard and self.directory.is_dir():
            self._clean_up()
        problems = []
        for step in reversed(self.steps()):
            folder = self.directory / f"{step:08d}"
            if before is not None and step >= before:
                continue
            if only_good and not checkpoint_folder.read_note(folder).good:
                continue
            try:
                return self.restore(step)
            except DamagedCheckpointError as error:
                problems.append(error)
                _LOG.warning("%s Falling back to the one before.", error)
                if discard:
                    aside = folder.with_name(f"{folder.name}.{_DAMAGED}")
                    shutil.rmtree(aside, ignore_errors=True)
                    _move(folder, aside)
        if problems:
            raise CheckpointError(
                f"No checkpoint in {self.directory} is intact. "
                f"{problems[0]} Restore one from a backup, or start a new "
                "workdir."
            )
        return None

    def _folders(self) -> list[tuple[int, pathlib.Path, bool]]:
        """Step, folder and whether it is abandoned, oldest first."""
        if not self.directory.is_dir():
            return []
        try:
            folders = [p for p in self.directory.iterdir() if p.is_dir()]
        except OSError as error:
            raise CheckpointError(
                f"{self.directory} cannot be read: {error}."
            ) from error
        found = [(_NAME.fullmatch(p.name), p) for p in folders]
        return sorted((int(m[1]), path, bool(m[2])) for m, path in found if m)

    def _entries(self) -> list[Entry]:
        """What is on disk, oldest first."""
        return [
            Entry(*found, checkpoint_folder.read_note(found[1]))
            for found in self._folders()
        ]

    def _best(self) -> Entry | None:
        """The one with the lowest score of those that are not abandoned."""
        return retention.best([e for e in self._entries() if not e.abandoned])

    def _hours(self, entries: list[Entry]) -> float:
        """Hours of training, those of earlier processes included."""
        if self._hours_before is None:
            self._hours_before = max(
                (entry.note.hours for entry in entries), default=0.0
            )
        return self._hours_before + (self._clock() - self._opened) / 3600

    def _prune(self) -> None:
        """Removes what `retention` does not keep."""
        for entry in self.retention.superfluous(self._entries()):
            self._remove(entry.path)

    def _remove(self, folder: pathlib.Path) -> None:
        """Removes a checkpoint: at no moment a part of it has its name."""
        aside = _free_name(folder.with_name(f"{_REMOVING}{folder.name}"))
        try:
            os.replace(folder, aside)
        except OSError as error:
            _LOG.warning("Cannot remove the checkpoint %s: %s.", folder, error)
            return
        shutil.rmtree(aside, ignore_errors=True)

    def _clean_up(self) -> None:
        """Removes what an interrupted save or removal left."""
        for replaced in self.directory.glob(f"{_REPLACED}*"):
            target = self.directory / replaced.name.removeprefix(_REPLACED)
            if target.exists():
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                _move(replaced, target)
        for _, folder, _ in self._folders():
            remove_leftovers(folder)
        for prefix in (_WRITING, _REMOVING):
            for leftover in self.directory.glob(f"{prefix}*"):
                shutil.rmtree(leftover, ignore_errors=True)


def _move(folder: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.replace(folder, target)
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {folder} cannot be renamed: {error}. Fix the "
            "permissions and start the same command again."
        ) from error


def _free_name(path) -> pathlib.Path:
    """The path with the first number after it that is not taken."""
    number = 1
    while os.path.exists(f"{path}-{number}"):
        number += 1
    return pathlib.Path(f"{path}-{number}")
