"""Where the numbers of a run go: metrics.jsonl and TensorBoard."""

import json
import os
import pathlib

import numpy as np
import tensorflow as tf

from nvae_tf.workdir import Workdir

__all__ = ["MetricsWriter"]


class MetricsWriter:
    """Writes records; a resumed run goes on where its checkpoint was.

    Args:
      workdir: of the run.
      offset: bytes of metrics.jsonl to keep: what came later belongs to steps
        that will be taken again.
      step: of the checkpoint, for TensorBoard.
    """

    def __init__(self, workdir: Workdir, offset: int = 0, step: int = 0):
        path = pathlib.Path(workdir.metrics_path)
        path.touch()
        os.truncate(path, min(offset, path.stat().st_size))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = tf.summary.create_file_writer(
            str(workdir.tensorboard_path)
        )
        self._start = step

    def offset(self) -> int:
        """Bytes written so far; a checkpoint keeps it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def scalars(self, step: int, kind: str, values: dict) -> None:
        """Writes one record.

        Args:
          step: optimiser steps taken.
          kind: "train" or "evaluation": groups the scalars.
          values: numbers, or 1-D arrays, which become one scalar per entry in
            TensorBoard.
        """
        record = {"step": step, "kind": kind}
        with self._board.as_default(step=step):
            for name, value in values.items():
                array = np.asarray(value, np.float64)
                record[name] = array.tolist()
                if array.ndim == 0:
                    tf.summary.scalar(f"{kind}/{name}", array)
                    continue
                for i, entry in enumerate(array):
                    tf.summary.scalar(f"{kind}_{name}/{i:02d}", entry)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Writes a picture, uint8 `[H, W, C]`, to TensorBoard."""
        with self._board.as_default(step=step):
            tf.summary.image(name, picture[None])
        self._board.flush()

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._board.close()
