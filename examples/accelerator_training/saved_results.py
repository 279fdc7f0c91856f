"""The files of a training, written while it goes on."""

from __future__ import annotations

import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from examples.accelerator_training import weights_file
from nvae_tf.config import Config
from nvae_tf.core.files import write_bytes

__all__ = ["SavedResults"]


class SavedResults:
    """NAME_average.npz and NAME_run.npz.

    Args:
      folder: to write to.
      name: of the training.

    Attributes:
      bounds: arrays about test images, by name.
      pictures: uint8 `[N, H, W, C]`, by name.
    """

    def __init__(self, folder: pathlib.Path, name: str):
        self.bounds: dict[str, np.ndarray] = {}
        self.pictures: dict[str, np.ndarray] = {}
        self._folder = folder
        self._name = name
        self._writer = ThreadPoolExecutor(1)
        self._written = self._writer.submit(lambda: None)

    def save(
        self,
        config: Config,
        step: int,
        state: dict,
        vectors: dict[str, np.ndarray],
        records: str,
    ) -> None:
        """Has both files written anew; waits for those before.

        Args:
          config: of the run.
          step: that was reached.
          state: all variables by name.
          vectors: of the weights and statistics, see `StoredRun.vectors`.
          records: lines of metrics.jsonl.
        """
        average, difference = {}, {}
        for kind in ("weights", "statistics"):
            average[kind] = weights_file.narrow(vectors[f"average/{kind}"])
            base = weights_file.widened(average[kind])
            halves = (vectors[kind] - base).astype(np.float16)
            difference[kind] = halves.view(np.uint8).reshape(-1, 2).T
        run = {
            "config": _bytes(json.dumps(config.to_dict())),
            "step": np.int64(step),
            "metrics": _bytes(records),
            **{f"difference/{k}": v for k, v in difference.items()},
            **{f"bounds/{k}": v for k, v in self.bounds.items()},
            **{f"pictures/{k}": v for k, v in self.pictures.items()},
            **{
                name: np.asarray(value)
                for name, value in state.items()
                if name.startswith(("spectral/", "training/"))
            },
        }
        self.wait()
        self._written = self._writer.submit(
            self._write, {"average": average, "run": run}
        )

    def wait(self) -> None:
        """Waits until what was saved is written.

        Raises:
          OSError: if it could not be.
        """
        self._written.result()

    def _write(self, files: dict[str, dict]) -> None:
        for kind, arrays in files.items():
            write_bytes(
                self._folder / f"{self._name}_{kind}.npz",
                weights_file.packed(arrays),
            )


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)
