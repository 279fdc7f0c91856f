"""A folder that `prepare` made, on the accelerator.

Needs JAX, NumPy and the project's `config` alone.
"""

from __future__ import annotations

import dataclasses
import io
import json
import lzma
import pathlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import artifact
from benchmarks.accelerator.program import Program
from nvae_tf.config import Config, config_from_dict

__all__ = ["Compiler", "StoredRun"]


class StoredRun:
    """Its configuration, images and programs.

    Args:
      folder: that `prepare` made.

    Attributes:
      config: the `Config` of the run.
      train: uint8 `[N, H, W, C]` on the device.
      test: uint8 `[M, H, W, C]` on the device.
      programs: by name.
      steps_per_epoch: of the whole batches of an epoch.
    """

    def __init__(self, folder: pathlib.Path):
        description = json.loads((folder / "run.json").read_text())
        self.config = config_from_dict(description["config"])
        self._data = description["data"]
        self._variables = description["variables"]
        self._weights = description["weights"]
        self._statistics = description["statistics"]
        images = _arrays(folder / "images.npz.xz")
        self.train = jnp.asarray(images["train"])
        self.test = jnp.asarray(self._unpacked_test(images["test"]))
        self._values = _arrays(folder / "values.npz.xz")
        paths = sorted(folder.glob("*.program"))
        self.programs = {path.stem: _program(path) for path in paths}
        self.steps_per_epoch = len(self.train) // self.batch_size

    @property
    def batch_size(self) -> int:
        """Images of a step."""
        return self.config.train.batch_size

    def first_state(self) -> dict[str, jax.Array]:
        """All variables but the model's, which are zero, as they begin."""
        # By NumPy: JAX would compile for every shape.
        state = {}
        for name, (shape, dtype) in self._variables.items():
            value = np.empty(shape, np.dtype(dtype))
            value[...] = self._values.get(name, 0)
            state[name] = value
        return jax.device_put(state)

    def batch(self, images, key):
        """What the model sees in training; to be called within `jax.jit`.

        Args:
          images: uint8 `[B, H, W, C]`.
          key: of what is random.
        """
        draw, mirror = jax.random.split(key)
        if self.config.data.binarize:
            noise = jax.random.uniform(draw, images.shape, np.float32)
            x = noise < images.astype(np.float32) / self._data["top"]
            x = x.astype(np.float32)
        else:
            x = images.astype(np.float32) / self._data["levels"]
        if self.config.data.flip:
            turned = jax.random.bernoulli(mirror, 0.5, (len(x), 1, 1, 1))
            x = jnp.where(turned, x[:, :, ::-1], x)
        return self._padded(x)

    def test_batch(self, images):
        """What the model sees in evaluation; see `batch`."""
        return self._padded(images.astype(np.float32) / self._data["levels"])

    def averaged(self, state: dict) -> dict:
        """The model's variables, with their averages if the run keeps them."""
        model = {k: v for k, v in state.items() if k.startswith("model/")}
        for kind in ("weights", "statistics"):
            vector = self._vector(state, f"average/{kind}")
            if vector is not None:
                model |= self._split(vector, self.names(kind))
        return model

    def names(self, kind: str) -> list[str]:
        """Of the model's "weights" or "statistics", as averages hold them."""
        return {"weights": self._weights, "statistics": self._statistics}[kind]

    def with_epochs(self, epochs: int) -> Config:
        """The configuration, for so many epochs."""
        train = dataclasses.replace(self.config.train, epochs=epochs)
        return dataclasses.replace(self.config, train=train)

    def vectors(self, state: dict) -> dict:
        """The model, and its average, as vectors; within `jax.jit`.

        Returns:
          "weights" and "statistics", and "average/..." of both: the same where
          the run keeps none.
        """
        vectors = {}
        for kind in ("weights", "statistics"):
            parts = [state[name].reshape(-1) for name in self.names(kind)]
            vectors[kind] = jnp.concatenate(parts)
            average = self._vector(state, f"average/{kind}")
            vectors[f"average/{kind}"] = (
                vectors[kind] if average is None else average
            )
        return vectors

    @staticmethod
    def _vector(state: dict, name: str):
        """A packed variable, None if there is none."""
        pieces = []
        while f"{name}/{len(pieces)}" in state:
            pieces.append(state[f"{name}/{len(pieces)}"])
        return jnp.concatenate(pieces) if pieces else None

    def _split(self, vector, names: list[str]) -> dict:
        shapes = [tuple(self._variables[name][0]) for name in names]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        parts = jnp.split(vector, ends)
        return {
            name: part.reshape(shape)
            for name, part, shape in zip(names, parts, shapes, strict=True)
        }

    def _padded(self, x):
        p = self.config.model.padding
        return jnp.pad(x, [(0, 0), (p, p), (p, p), (0, 0)])

    def _unpacked_test(self, test: np.ndarray) -> np.ndarray:
        shape = self._data["test_shape"]
        if self._data["levels"] > 1:
            return test
        return np.unpackbits(test, count=int(np.prod(shape))).reshape(shape)


class Compiler:
    """Compiles functions side by side, in the background."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(8)
        self._lock = threading.Lock()

    def __call__(self, function, *arguments) -> Future:
        """Starts to compile a jitted function for such arguments."""
        return self._pool.submit(self._compiled, function, arguments)

    def _compiled(self, function, arguments):
        # Tracing is Python's work, and no faster by two.
        with self._lock:
            lowered = function.lower(*arguments)
        return lowered.compile()


def _program(path: pathlib.Path) -> Program:
    """A program, whose products are as exact as `prepare` said."""
    content = path.read_bytes()
    description, _ = artifact.unpack(content)
    return Program(content, exact=description["exact"])


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    content = lzma.decompress(path.read_bytes())
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
