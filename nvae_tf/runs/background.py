"""Checkpoints that are written beside the training, not in front of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import numpy as np

from nvae_tf.core.errors import CheckpointError
from nvae_tf.runs.checkpointing import CheckpointStore

__all__ = ["BackgroundStore"]

_LOG = logging.getLogger(__name__)


class BackgroundStore:
    """A `CheckpointStore` whose saves happen in a thread, one at a time.

    As a context it waits for the last one.  A process that is killed
    meanwhile leaves what one killed while writing leaves.

    Args:
      store: which nobody else changes.
    """

    def __init__(self, store: CheckpointStore):
        self._store = store
        self._pending: futures.Future | None = None

    def __enter__(self) -> BackgroundStore:
        """Nothing to do before the first save."""
        return self

    def __exit__(self, kind, *_) -> None:
        """Waits; a failure is told after what ended the context."""
        try:
            self.settled()
        except CheckpointError as error:
            if kind is None:
                raise
            _LOG.warning("%s", error)

    def save(
        self,
        step: int,
        tensors: Mapping[str, np.ndarray],
        metadata: Mapping[str, Any],
        *,
        good: bool = True,
    ) -> None:
        """Begins to write a checkpoint; see `CheckpointStore.save`.

        Args:
          step: optimiser steps taken.
          tensors: arrays by name, which must stay as they are.
          metadata: likewise.
          good: whether training went well up to here.

        Raises:
          CheckpointError: if the one before could not be written.
        """
        store = self.settled()
        thread = futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending = thread.submit(
            store.save, step, tensors, metadata, good=good
        )
        # It ends when it has written.
        thread.shutdown(wait=False)

    def settled(self) -> CheckpointStore:
        """The store, with everything written.

        Raises:
          CheckpointError: if the last checkpoint could not be; told once.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
        return self._store
