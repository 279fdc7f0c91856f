"""Saved state: written aside, moved into place, verified when read.

A checkpoint is a folder named after its step::

    checkpoints/00001400/tensors.safetensors   all arrays
    checkpoints/00001400/state.json            plain state, and the checksum

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
import safetensors.numpy

from nvae_tf.errors import CheckpointError

__all__ = ["Checkpoint", "CheckpointStore"]

_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_DAMAGED = "damaged"
_LOG = logging.getLogger(__name__)


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
        aside = self.directory / f".writing-{step:08d}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            data = safetensors.numpy.save(
                {k: np.ascontiguousarray(v) for k, v in tensors.items()}
            )
            checksum = hashlib.sha256(data).hexdigest()
            _write(aside / _TENSORS, data)
            content = {"step": step, "sha256": checksum, "state": dict(state)}
            _write(aside / _STATE, json.dumps(content, indent=1).encode())
            if target.exists():
                shutil.rmtree(target)
            os.replace(aside, target)
            _sync(self.directory)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(
                f"Cannot write the checkpoint {target}: {error.strerror}. "
                "Earlier checkpoints are intact; make room or fix the "
                "permissions and start the same command again."
            ) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.directory / f"{old:08d}", ignore_errors=True)
        return target

    def restore(self, step: int) -> Checkpoint:
        """Reads one checkpoint and verifies it.

        Raises:
          CheckpointError: if it is missing or damaged.
        """
        folder = self.directory / f"{step:08d}"
        try:
            content = json.loads((folder / _STATE).read_bytes())
            data = (folder / _TENSORS).read_bytes()
            if hashlib.sha256(data).hexdigest() != content["sha256"]:
                raise CheckpointError(
                    f"The checkpoint {folder} is damaged: the checksum of "
                    f"{_TENSORS} is wrong."
                )
            tensors = safetensors.numpy.load(data)
            return Checkpoint(content["step"], tensors, content["state"])
        except (OSError, ValueError, KeyError, TypeError) as error:
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
            except CheckpointError as error:
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


def _write(path: pathlib.Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: pathlib.Path) -> None:
    """Makes a rename in this folder outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
