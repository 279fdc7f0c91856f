"""Bounds and pictures of a stored run's model, on the accelerator."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from examples.accelerator_training.stored_run import StoredRun

__all__ = ["Measuring"]

# Blocks of images that are under way at once.
_AHEAD = 3


class Measuring:
    """Functions of a model's variables, to be compiled.

    Args:
      run: whose programs to use.
      seed: of all noise.
    """

    def __init__(self, run: StoredRun, seed: int = 0):
        self.run = run
        self._programs = {
            name: run.programs[name] for name in ("evaluate", "weigh", "sample")
        }
        self._key = jax.random.key(seed)
        self.evaluate = jax.jit(self._pass_of("evaluate"))
        self.weigh = jax.jit(self._pass_of("weigh"))
        self.sample = jax.jit(self._sample)

    def arguments(self, model: dict) -> dict:
        """The functions, each with what to compile it for."""
        indices = {
            name: np.zeros(self._size(name), np.int32)
            for name in ("evaluate", "weigh")
        }
        return {
            "evaluate": (
                self.evaluate,
                model,
                self.run.test,
                indices["evaluate"],
                np.int32(0),
            ),
            "weigh": (
                self.weigh,
                model,
                self.run.test,
                indices["weigh"],
                np.int32(0),
            ),
            "sample": (self.sample, model, np.int32(0), np.float32(1)),
        }

    def nelbo(self, evaluate, model: dict, images, number: int) -> dict:
        """The negative ELBO of some test images, a draw for each.

        Args:
          evaluate: the compiled function.
          model: its variables.
          images: numbers of test images.
          number: of the draws.

        Returns:
          "nelbo" `[N]`, and "kl_per_group" `[N, L]`, nats.
        """
        size = self._size("evaluate")
        parts = []
        for start in range(0, len(images), size):
            chosen = np.resize(images[start : start + size], size)
            noise = np.int32(number * 1000 + start // size)
            parts.append(
                evaluate(model, self.run.test, chosen.astype(np.int32), noise)
            )
        count = len(images)
        return {
            "nelbo": np.concatenate([np.asarray(p["nelbo"])[0] for p in parts])[
                :count
            ],
            "kl_per_group": np.concatenate([p["kl_per_group"] for p in parts])[
                :count
            ],
        }

    def importance(
        self, weigh, model: dict, images, draws: int, until: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log importance weights, of as many images as there is time for.

        Args:
          weigh: the compiled function.
          model: its variables.
          images: numbers of test images, in the order to take them in.
          draws: of each image.
          until: when to stop, seconds since the epoch.

        Returns:
          float32 `[draws, N]`, nats, and the numbers of the N images.
        """
        size = self._size("weigh")
        each = self._programs["weigh"].input("eps").shape[0] // size
        waiting, blocks, done = [], [], []
        for start in range(0, len(images) - size + 1, size):
            if time.time() > until and start:
                break
            chosen = np.asarray(images[start : start + size], np.int32)
            passes = [
                weigh(
                    model,
                    self.run.test,
                    chosen,
                    np.int32(10**8 + start * draws + first),
                )["log_weight"]
                for first in range(0, draws, each)
            ]
            waiting.append(passes)
            done.append(chosen)
            if len(waiting) >= _AHEAD:
                blocks.append(np.concatenate(waiting.pop(0))[:draws])
        blocks += [np.concatenate(passes)[:draws] for passes in waiting]
        return np.concatenate(blocks, axis=1), np.concatenate(done)

    def _size(self, name: str) -> int:
        return self._programs[name].input("x").shape[0]

    def _pass_of(self, name: str):
        program = self._programs[name]
        shape = program.input("eps").shape

        def run(model, test, indices, number):
            key = jax.random.fold_in(self._key, number)
            eps = jax.random.normal(key, shape, np.float32)
            x = self.run.test_batch(test[indices])
            return program({**model, "x": x, "eps": eps})[0]

        return run

    def _sample(self, model, number, temperature):
        """uint8 `[N, H, W, C]`, without padding."""
        program = self._programs["sample"]
        key = jax.random.fold_in(self._key, number)
        eps = jax.random.normal(key, program.input("eps").shape, np.float32)
        mean = program({**model, "eps": eps, "temperature": temperature})[0][
            "mean"
        ]
        p, size = self.run.config.model.padding, mean.shape[1]
        mean = mean[:, p : size - p, p : size - p]
        return jnp.round(255 * jnp.clip(mean, 0, 1)).astype(np.uint8)
