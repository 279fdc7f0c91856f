"""Half-done evaluations in a workdir, to go on from after an interruption."""

import contextlib
import hashlib
import json
import logging
import pathlib
import time
from typing import Any

import numpy as np

from nvae_tf.core.errors import DataError
from nvae_tf.core.npz_files import read_npz, write_npz
from nvae_tf.core.reading import shown
from nvae_tf.evaluation.importance import Progress
from nvae_tf.model.nvae import NVAE

__all__ = ["FOLDER", "PartialResult", "weights_digest"]

FOLDER = "partial_evaluations"
_MOST_BYTES = 2**30
_LOG = logging.getLogger(__name__)


class PartialResult:
    """The progress of one evaluation, in a file of its own.

    The file's name follows from all that the result depends on, so an
    evaluation with other settings neither uses it nor overwrites it.

    Args:
      workdir: folder of the run.
      settings: what the result depends on; plain values, as JSON holds them,
        "split" and "num_importance_samples" among them.
      every_seconds: `save_now_and_then` writes no more often.
    """

    def __init__(
        self, workdir, settings: dict[str, Any], every_seconds: float = 30.0
    ):
        self._settings = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(self._settings.encode()).hexdigest()[:16]
        name = (
            f"{settings['split']}_K{settings['num_importance_samples']}"
            f"_{digest}.npz"
        )
        self.path = pathlib.Path(workdir) / FOLDER / name
        self._every_seconds = every_seconds
        self._saved = time.monotonic()

    def load(self) -> Progress:
        """What was saved; the start if nothing was, or it is damaged."""
        try:
            arrays = read_npz(self.path, _MOST_BYTES)
            if str(arrays.pop("settings")) == self._settings:
                return Progress.from_arrays(arrays)
            reason = "it is of other settings"
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return Progress()
            reason = str(error)
        except (KeyError, ValueError, TypeError) as error:
            reason = f"{self.path} holds something else: {shown(str(error))}"
        _LOG.warning("Starting anew: %s", reason)
        return Progress()

    def save(self, progress: Progress) -> None:
        """Writes the progress, whole or not at all.

        Raises:
          DataError: if the file cannot be written.
        """
        arrays = progress.to_arrays()
        write_npz(self.path, settings=self._settings, **arrays)
        self._saved = time.monotonic()

    def save_now_and_then(self, progress: Progress) -> None:
        """`save`, if that was some time ago."""
        if time.monotonic() - self._saved >= self._every_seconds:
            self.save(progress)

    def remove(self) -> None:
        """Removes the file, once there is a whole result."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()  # Unless it holds others.


def weights_digest(model: NVAE) -> str:
    """What tells the weights of a model from others, 16 characters."""
    digest = hashlib.sha256()
    for name, variable in sorted(model.named_variables().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(variable.numpy()))
    return digest.hexdigest()[:16]
