"""Requests that are merged as TensorFlow Serving merges them.

[session]: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/batching_session.cc
[queue]: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/kernels/batching_util/shared_batch_scheduler.h
[config]: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/servables/tensorflow/session_bundle_config.proto
"""

from __future__ import annotations

import collections
import concurrent.futures
import threading
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf


class Queue:
    """The queue of one set of inputs and outputs.

    Args:
      run: what a batch is given to, arrays by name.
      window: `batch_timeout_micros`, in seconds.
      max_rows: `max_batch_size`.
      max_batches: `max_enqueued_batches`; a batch that has begun to run is in
        the queue no longer [config].

    Attributes:
      merged: numbers of requests that ran together.
    """

    def __init__(
        self,
        run: Callable[[dict], dict],
        window: float,
        max_rows: int,
        max_batches: int,
    ):
        self._run, self._window = run, window
        self._max_rows, self._max_batches = max_rows, max_batches
        self._batches: collections.deque = collections.deque()
        self._changed = threading.Condition()
        self.merged: list[int] = []
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, inputs: dict) -> concurrent.futures.Future:
        """Takes a request.

        Raises:
          tf.errors.OpError: as a server refuses it by itself.
        """
        # ComputeInputSize of [session].
        rows = {
            len(value) if np.ndim(value) else -1 for value in inputs.values()
        }
        if len(rows) != 1 or -1 in rows:
            raise tf.errors.InvalidArgumentError(
                None,
                None,
                "Batching session Run() input tensors must have equal "
                "0th-dimension size",
            )
        (size,) = rows
        # Schedule of [queue]; nothing asks for batches to be split.
        if size > self._max_rows:
            raise tf.errors.InvalidArgumentError(
                None,
                None,
                f"Task size {size} is larger than maximum input batch size "
                f"{self._max_rows}",
            )
        future: concurrent.futures.Future = concurrent.futures.Future()
        with self._changed:
            last = self._batches[-1] if self._batches else None
            if last is None or last["rows"] + size > self._max_rows:
                if len(self._batches) >= self._max_batches:
                    # UNAVAILABLE, not RESOURCE_EXHAUSTED: [queue].
                    raise tf.errors.UnavailableError(
                        None,
                        None,
                        "The batch scheduling queue to which this task was "
                        "submitted is full",
                    )
                last = {"rows": 0, "tasks": [], "begun": time.monotonic()}
                self._batches.append(last)
            last["rows"] += size
            last["tasks"].append((inputs, future))
            self._changed.notify()
        return future

    def _work(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._batches)
                # Others may come, until the batch is old enough.
                left = self._batches[0]["begun"] + self._window
                left -= time.monotonic()
                if len(self._batches) == 1 and left > 0:
                    self._changed.wait(left)
                    continue
                tasks = self._batches.popleft()["tasks"]
            self.merged.append(len(tasks))
            try:
                self._process(tasks)
            except Exception as error:
                # ProcessBatch of [session]: all of them get its status.
                for _, future in tasks:
                    future.set_exception(error)

    def _process(self, tasks):
        outputs = self._run(_merged([inputs for inputs, _ in tasks]))
        start = 0
        for inputs, future in tasks:
            end = start + len(next(iter(inputs.values())))
            future.set_result({k: v[start:end] for k, v in outputs.items()})
            start = end


def _merged(tasks: list[dict]) -> dict:
    """MergeInputTensors of [session], without padding."""
    merged = {}
    for name, first in tasks[0].items():
        values = [inputs[name] for inputs in tasks]
        if any(np.shape(v)[1:] != np.shape(first)[1:] for v in values):
            raise tf.errors.FailedPreconditionError(
                None,
                None,
                f"Tensors with name '{name}' from different tasks have "
                "different shapes and padding is turned off.",
            )
        merged[name] = np.concatenate(values)
    return merged
