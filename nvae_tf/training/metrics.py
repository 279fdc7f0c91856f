"""Where the numbers of a run go: metrics.jsonl and TensorBoard."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import UserError
from nvae_tf.core.files import open_own
from nvae_tf.runs.workdir import Workdir

__all__ = ["MetricsWriter"]


class MetricsWriter:
    """Writes records; a resumed run goes on where its checkpoint was.

    Args:
      workdir: of the run.
      offset: bytes of metrics.jsonl to keep: what came later belongs to steps
        that will be taken again.

    Raises:
      UserError: as every method, if something cannot be written.
    """

    def __init__(self, workdir: Workdir, offset: int = 0):
        self._path = workdir.metrics_path
        with self._explaining():
            self._file = open(  # noqa: SIM115
                self._path, "a", encoding="utf-8", opener=open_own
            )
            self._cut(offset)
            self._board_path = workdir.tensorboard_path
            self._board = tf.summary.create_file_writer(str(self._board_path))

    def offset(self) -> int:
        """Bytes written so far; a checkpoint keeps it."""
        with self._explaining():
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def rewind(self, offset: int) -> None:
        """Drops what came after `offset`: those steps are taken again."""
        with self._explaining():
            self._file.flush()
            self._cut(offset)

    def _cut(self, offset: int) -> None:
        """Shortens the file, if it is longer."""
        size = os.fstat(self._file.fileno()).st_size
        os.truncate(self._file.fileno(), min(offset, size))
        # It would tell of its old end until the next record is written.
        self._file.seek(0, os.SEEK_END)

    def scalars(self, step: int, kind: str, values: dict) -> None:
        """Writes one record.

        Args:
          step: optimiser steps taken.
          kind: "train" or "evaluation": groups the scalars.
          values: numbers, or 1-D arrays, which become one scalar per entry in
            TensorBoard.
        """
        record = {"step": step, "kind": kind}
        with self._explaining(), self._board.as_default(step=step):
            for name, value in values.items():
                array = np.asarray(value, np.float64)
                record[name] = _as_json(array)
                if array.ndim == 0:
                    tf.summary.scalar(f"{kind}/{name}", array)
                    continue
                for i, entry in enumerate(array):
                    tf.summary.scalar(f"{kind}_{name}/{i:02d}", entry)
        self._write(record)

    def event(self, step: int, kind: str, **values) -> None:
        """Writes a record of anything JSON holds, to the file alone."""
        self._write({"step": step, "kind": kind, **values})

    def _write(self, record: dict) -> None:
        with self._explaining():
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Writes a picture, uint8 `[H, W, C]`, to TensorBoard."""
        with self._explaining():
            size = len(tf.io.encode_png(picture).numpy())
            size += self._board_bytes()
            with self._board.as_default(step=step):
                tf.summary.image(name, picture[None])
            self._board.flush()
            # TensorFlow does not tell of a disk without room.
            if self._board_bytes() < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _board_bytes(self) -> int:
        with os.scandir(self._board_path) as entries:
            return sum(entry.stat().st_size for entry in entries)

    def close(self) -> None:
        """Flushes and closes both."""
        # Every record was flushed, and a failure reported, when it came.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(tf.errors.OpError):
            self._board.close()

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Within, what cannot be written is the user's to mend."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"Cannot write {self._path} or TensorBoard's file beside it: "
                f"{error}. The last checkpoint is intact; make room and start "
                "the same command again."
            ) from error


def _as_json(array: np.ndarray):
    """Numbers as JSON has them: null in place of infinite and NaN."""
    values = np.where(np.isfinite(array), array.astype(object), None)
    return values.tolist()
