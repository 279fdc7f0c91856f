"""One checkpoint: a folder with all that was saved.

::

    tensors.safetensors   all arrays
    state.json            metadata: plain values, and checksums

The arrays can be read without TensorFlow, by any program that reads
safetensors.

`state.json` also tells what decides how long the checkpoint stays (see
`nvae_tf.runs.retention`), so that a store that is opened again goes on as
before.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from nvae_tf.core.errors import CheckpointError
from nvae_tf.core.files import sync, write_bytes
from nvae_tf.core.json_files import read_json
from nvae_tf.core.reading import sha256, shown
from nvae_tf.runs.retention import Note

__all__ = [
    "Checkpoint",
    "DamagedCheckpointError",
    "read",
    "read_note",
    "replace_metadata",
    "write",
]

_TENSORS = "tensors.safetensors"
_STATE = "state.json"


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose content is not what was written."""


class Checkpoint(NamedTuple):
    """What was saved.

    Attributes:
      step: optimiser steps taken.
      tensors: arrays by name.
      metadata: plain values, as JSON holds them.
    """

    step: int
    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]


def write(folder: pathlib.Path, checkpoint: Checkpoint, note: Note) -> None:
    """Writes a checkpoint into an empty folder.

    Args:
      folder: that exists.
      checkpoint: what to save.
      note: what decides how long it stays.

    Raises:
      OSError: if it cannot be written.
      SafetensorError: likewise.
    """
    step, tensors, metadata = checkpoint
    path = folder / _TENSORS
    safetensors.numpy.save_file(
        {k: np.asarray(v, order="C") for k, v in tensors.items()}, path
    )
    sync(path)
    _write_state(folder, step, sha256(path), metadata, note)
    # safetensors makes files for their owner's eyes only.
    shutil.copymode(folder / _STATE, path)
    sync(folder)


def replace_metadata(
    folder: pathlib.Path, step: int, metadata: Mapping[str, Any], note: Note
) -> None:
    """Replaces all of a checkpoint but its arrays, whole or not at all.

    Args:
      folder: of the checkpoint.
      step: of the checkpoint.
      metadata: what takes the place of the old.
      note: what decides how long it stays.

    Raises:
      OSError: if it cannot be written; the old stays.
      ValueError: if the old is damaged.
    """
    checksum = _read_state(folder)["sha256"]
    _write_state(folder, step, checksum, metadata, note)


def read(folder: pathlib.Path, step: int) -> Checkpoint:
    """Reads and verifies the checkpoint in a folder.

    Args:
      folder: of the checkpoint.
      step: that it must be of.

    Raises:
      DamagedCheckpointError: if it is missing, or not what was written.
      CheckpointError: if the disk does not give it.
    """
    try:
        content = _read_state(folder)
        if (
            content["step"] != step
            or content["state_sha256"] != _metadata_checksum(content["state"])
            or content["sha256"] != sha256(folder / _TENSORS)
        ):
            raise DamagedCheckpointError(
                f"The checkpoint {folder} is damaged: a checksum is wrong."
            )
        tensors = _load(folder / _TENSORS)
        return Checkpoint(step, tensors, content["state"])
    except (FileNotFoundError, ValueError) as error:
        raise DamagedCheckpointError(
            f"The checkpoint {folder} is damaged: {shown(str(error), 200)}."
        ) from error
    except OSError as error:
        # The disk's or the network's fault: nothing is said about the
        # checkpoint, so it is not put aside.
        raise CheckpointError(
            f"The checkpoint {folder} cannot be read: {error}."
        ) from error


def read_note(folder: pathlib.Path) -> Note:
    """The note in a checkpoint; the default if it has none to read."""
    try:
        return Note.from_dict(_read_state(folder)["retention"])
    except (OSError, ValueError, KeyError):
        return Note()


def _read_state(folder: pathlib.Path) -> dict[str, Any]:
    """All of state.json, of which nothing is known but the kinds."""
    content = read_json(folder / _STATE, finite=False)
    kinds = {"step": int, "sha256": str, "state_sha256": str, "state": dict}
    for name, kind in kinds.items():
        if type(content.get(name)) is not kind:
            raise ValueError(f"{_STATE} has no {name} of the right kind")
    return content


def _write_state(
    folder, step: int, checksum: str, metadata, note: Note
) -> None:
    """Writes state.json whole or not at all."""
    content = {
        "step": step,
        "sha256": checksum,
        "state_sha256": _metadata_checksum(metadata),
        "retention": dataclasses.asdict(note),
        "state": dict(metadata),
    }
    text = json.dumps(content, indent=1)
    write_bytes(folder / _STATE, text.encode(), error=None)


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is no such file.
    """
    try:
        return safetensors.numpy.load_file(path)
    except OSError:
        raise
    # Among others an AttributeError, for numbers that NumPy has not.
    except Exception as error:
        raise ValueError(f"{_TENSORS}: {error}") from error


def _metadata_checksum(metadata) -> str:
    text = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
