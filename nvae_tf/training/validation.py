"""Numbers and pictures of the model that is being trained."""

import math
from collections.abc import Callable
from typing import NamedTuple

from nvae_tf.config import Config
from nvae_tf.core.progress import progress
from nvae_tf.datasets import pipeline
from nvae_tf.distribute.devices import Devices
from nvae_tf.evaluation.evaluator import Evaluation, Evaluator
from nvae_tf.sampling.illustrator import Illustrator
from nvae_tf.training.metrics import MetricsWriter
from nvae_tf.training.run_state import RunState

__all__ = ["Validation", "Validator"]

_IMAGES = 32


class Validation(NamedTuple):
    """What was measured on the held-out images.

    Attributes:
      evaluation: of the model.
      averaged: of the model with its averaged weights; None if the run keeps
        none.
    """

    evaluation: Evaluation
    averaged: Evaluation | None

    def summary(self) -> dict:
        """What a checkpoint remembers of it."""
        averaged = {"average": _summary(self.averaged)} if self.averaged else {}
        return {**_summary(self.evaluation), **averaged}


class Validator:
    """Evaluates and draws a model, and its average beside it.

    Args:
      config: of the run.
      state: whose model to judge.
      devices: of the run.

    Raises:
      UserError: if the held-out images cannot be had or do not fit.
    """

    def __init__(self, config: Config, state: RunState, devices: Devices):
        self._config = config
        self._state = state
        self._devices = devices
        self._source = pipeline.open_source(config, "validation")
        self._evaluator = Evaluator(state.model, devices.strategy)
        self._illustrator = Illustrator(state.model)
        # An image that the model cannot take is better known now than after
        # an epoch.
        self._first_batch()

    def measure(
        self,
        num_importance_samples: int,
        should_stop: Callable[[], bool],
        on_pass: Callable[[object], None],
    ) -> Validation | None:
        """Streams over the held-out images.

        Args:
          num_importance_samples: K.
          should_stop: asked between passes; of several processes none can
            stop alone, so that they go through to the end.
          on_pass: see `nvae_tf.evaluation.importance.ImportanceEstimator`.

        Returns:
          The numbers, None if stopped.
        """
        options = {"on_pass": on_pass}
        if self._devices.num_workers == 1:
            options["should_stop"] = should_stop
        k = num_importance_samples
        evaluation = self._measure(k, "evaluating", options)
        if evaluation is None or not self._state.average:
            return evaluation and Validation(evaluation, None)
        with self._state.average.in_place():
            averaged = self._measure(k, "evaluating the average", options)
        return averaged and Validation(evaluation, averaged)

    def draw(
        self, step: int, metrics: MetricsWriter, validation: Validation
    ) -> None:
        """Writes grids of samples and reconstructions to TensorBoard.

        A model without finite numbers has no pictures either.

        Args:
          step: that the run is at.
          metrics: where they go.
          validation: what was measured.
        """
        if math.isfinite(validation.evaluation.nelbo):
            self._draw(step, metrics, "")
        if validation.averaged and math.isfinite(validation.averaged.nelbo):
            with self._state.average.in_place():
                self._draw(step, metrics, "ema_")

    def _measure(self, k: int, what: str, options: dict) -> Evaluation | None:
        batches = progress(
            self._batches(),
            total=pipeline.num_batches(
                self._source,
                training=False,
                batch_size=self._batch_size(),
                num_shards=self._devices.num_workers,
            ),
            desc=f"{what}, K={k}",
            unit="batch",
            leave=False,
            disable=not self._devices.is_chief,
        )
        return self._evaluator(batches, k, **options)

    def _draw(self, step: int, metrics: MetricsWriter, prefix: str) -> None:
        for temperature in self._config.evaluation.image_temperatures:
            metrics.image(
                step,
                f"{prefix}samples/temperature_{temperature}",
                self._illustrator.sample_grid(_IMAGES, temperature),
            )
        first = self._first_batch()
        pairs = self._illustrator.reconstruct(
            first.images[:_IMAGES],
            labels=None if first.labels is None else first.labels[:_IMAGES],
        )
        metrics.image(
            step,
            f"{prefix}reconstructions",
            self._illustrator.grid_of_pairs(pairs),
        )

    def _first_batch(self):
        batches = self._batches()
        try:
            return next(batches)
        finally:
            batches.close()

    def _batch_size(self) -> int:
        """Images of a batch in this process."""
        config = self._config
        per_replica = config.evaluation.batch_size or config.train.batch_size
        return per_replica * self._devices.local_replicas

    def _batches(self):
        return pipeline.batches(
            self._source,
            self._config,
            training=False,
            batch_size=self._batch_size(),
            seed=self._config.train.seed,
            shard_index=self._devices.worker,
            num_shards=self._devices.num_workers,
        )


def _summary(evaluation: Evaluation) -> dict[str, float]:
    return {
        "nelbo": float(evaluation.nelbo),
        "nll": float(evaluation.nll),
        "bits_per_dim": float(evaluation.bits_per_dim),
    }
