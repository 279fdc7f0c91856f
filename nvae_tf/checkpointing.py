"""Saved state: written aside, moved into place, verified when read.

A checkpoint is a folder named after its step::

    checkpoints/00001400/tensors.safetensors   all arrays
    checkpoints/00001400/state.json            plain state, and checksums

It appears under its name only when complete.  The arrays can be read without
TensorFlow, by any program that reads safetensors.
"""

import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from nvae_tf.errors import CheckpointError

__all__ = ["Checkpoint", "CheckpointStore", "DamagedCheckpointError"]

_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_DAMAGED = "damaged"
_WRITING = ".writing-"
_LOG = logging.getLogger(__name__)


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose content is not what was written."""


class Checkpoint(NamedTuple):
    """What was saved.

    Attributes:
      step: optimiser steps taken.
      tensors: arrays by name.
      state: plain values, as JSON holds them.
    """

    step: int
    tensors: dict[str, np.ndarray]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one workdir.

    Args:
      directory: where they are; created on the first save.
      keep: how many of the latest stay.
    """

    def __init__(self, directory, keep: int = 3):
        self.directory = pathlib.Path(directory)
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(
            int(entry.name)
            for entry in self.directory.iterdir()
            if entry.is_dir() and entry.name.isdecimal()
        )

    def save(
        self,
        step: int,
        tensors: Mapping[str, np.ndarray],
        state: Mapping[str, Any],
    ) -> pathlib.Path:
        """Writes a checkpoint, then removes those that are too old.

        Raises:
          CheckpointError: if it cannot be written, for lack of space for
            example; earlier checkpoints stay as they are.
        """
        target = self.directory / f"{step:08d}"
        aside = self.directory / f"{_WRITING}{step:08d}"
        try:
            self._clean_up()
            aside.mkdir(parents=True)
            safetensors.numpy.save_file(
                {k: np.asarray(v, order="C") for k, v in tensors.items()},
                aside / _TENSORS,
            )
            _sync(aside / _TENSORS)
            _write_state(aside, step, _checksum(aside / _TENSORS), state)
            _sync(aside)
            if target.exists():
                # Aside first: at no moment are both absent.
                os.replace(target, self.directory / f"{_WRITING}old")
            os.replace(aside, target)
            _sync(self.directory)
            self._clean_up()
        except (OSError, safetensors.SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(
                f"Cannot write the checkpoint {target}: {error}. Earlier "
                "checkpoints are intact; make room or fix the permissions and "
                "start the same command again."
            ) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.directory / f"{old:08d}", ignore_errors=True)
        return target

    def update_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Replaces the plain state of a checkpoint; its arrays stay.

        Raises:
          CheckpointError: if it cannot be written; the old state stays.
        """
        folder = self.directory / f"{step:08d}"
        try:
            content = json.loads((folder / _STATE).read_bytes())
            _write_state(folder, step, content["sha256"], state)
        except OSError as error:
            raise CheckpointError(
                f"Cannot write the state of the checkpoint {folder}: {error}. "
                "Make room or fix the permissions and start the same command "
                "again."
            ) from error

    def _clean_up(self) -> None:
        """Removes what an interrupted save left."""
        for leftover in self.directory.glob(f"{_WRITING}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def restore(self, step: int) -> Checkpoint:
        """Reads one checkpoint and verifies it.

        Raises:
          CheckpointError: if it is missing or damaged.
        """
        folder = self.directory / f"{step:08d}"
        try:
            content = json.loads((folder / _STATE).read_bytes())
            if (
                content["step"] != step
                or content["state_sha256"] != _state_checksum(content["state"])
                or content["sha256"] != _checksum(folder / _TENSORS)
            ):
                raise DamagedCheckpointError(
                    f"The checkpoint {folder} is damaged: a checksum is wrong."
                )
            tensors = safetensors.numpy.load_file(folder / _TENSORS)
            return Checkpoint(step, tensors, content["state"])
        except (
            FileNotFoundError,
            ValueError,
            KeyError,
            TypeError,
            safetensors.SafetensorError,
        ) as error:
            raise DamagedCheckpointError(
                f"The checkpoint {folder} is damaged: {error}."
            ) from error
        except OSError as error:
            # The disk's or the network's fault: nothing is said about the
            # checkpoint, so it is not put aside.
            raise CheckpointError(
                f"The checkpoint {folder} cannot be read: {error}."
            ) from error

    def restore_latest(self, discard: bool = False) -> Checkpoint | None:
        """The newest checkpoint that is intact; None if there is none at all.

        Args:
          discard: move damaged checkpoints out of the way (a run that goes
            on will come by their steps again).

        Raises:
          CheckpointError: if there are checkpoints, but none is intact.
        """
        problems = []
        for step in reversed(self.steps()):
            try:
                return self.restore(step)
            except DamagedCheckpointError as error:
                problems.append(error)
                _LOG.warning("%s Falling back to the one before.", error)
                if discard:
                    folder = self.directory / f"{step:08d}"
                    aside = folder.with_name(f"{folder.name}.{_DAMAGED}")
                    shutil.rmtree(aside, ignore_errors=True)
                    os.replace(folder, aside)
        if problems:
            raise CheckpointError(
                f"No checkpoint in {self.directory} is intact. "
                f"{problems[0]} Restore one from a backup, or start a new "
                "workdir."
            )
        return None


def _write_state(folder, step: int, checksum: str, state) -> None:
    """Writes state.json whole or not at all."""
    content = {
        "step": step,
        "sha256": checksum,
        "state_sha256": _state_checksum(state),
        "state": dict(state),
    }
    aside = folder / f"{_STATE}.writing"
    _write(aside, json.dumps(content, indent=1).encode())
    os.replace(aside, folder / _STATE)


def _state_checksum(state) -> str:
    text = json.dumps(state, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: pathlib.Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: pathlib.Path) -> None:
    """Makes a file, or the names in a folder, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
