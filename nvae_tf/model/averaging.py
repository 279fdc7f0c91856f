"""An exponential average of a model's weights and statistics."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from nvae_tf.model import flat
from nvae_tf.model.nvae import NVAE

__all__ = ["WeightAverage"]


class WeightAverage:
    """The averaged twin of a model.

    `average += (1 - d) (value - average)` after every step, with
    `d = min(decay, (1 + t) / (10 + t))`, so that the first weights, which mean
    nothing, are soon forgotten.  The moving statistics of batch normalisation
    are averaged with the weights they were measured under.

    Args:
      model: whose variables to average.
      decay: of the average, in [0, 1).
    """

    def __init__(self, model: NVAE, decay: float):
        self.decay = decay
        self._weights = list(model.trainable_variables)
        self._statistics = list(model.non_trainable_variables)
        self.weights = _packed(self._weights)
        self.statistics = _packed(self._statistics)

    def named_variables(self) -> dict[str, flat.PackedVariable]:
        """The averages `[N]` and `[S]`, by the names that checkpoints use."""
        return {
            "average/weights": self.weights,
            "average/statistics": self.statistics,
        }

    def restart(self) -> None:
        """Begins anew with the model's values as they are."""
        self.weights.assign(flat.pack(self._weights))
        self.statistics.assign(flat.pack(self._statistics))

    def update(self, step) -> None:
        """Follows a step that the model has taken.

        Args:
          step: float32 scalar t, from 1.
        """
        share = 1 - tf.minimum(self.decay, (1 + step) / (10 + step))
        for average, values in (
            (self.weights, self._weights),
            (self.statistics, self._statistics),
        ):
            flat.in_turn(
                lambda part, old, values=values: old.assign_add(
                    share * (flat.pack(values[part.tensors]) - old)
                ),
                average.parts,
                average.pieces,
            )

    def assign_to_model(self) -> None:
        """Gives the model the averaged values."""
        self._assign(self.weights.numpy(), self.statistics.numpy())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Gives the model the averaged values for a while."""
        before = flat.pack(self._weights), flat.pack(self._statistics)
        self.assign_to_model()
        try:
            yield
        finally:
            self._assign(*before)

    def _assign(self, weights, statistics) -> None:
        for variables, values in (
            (self._weights, weights),
            (self._statistics, statistics),
        ):
            pieces = flat.unpack(values, [v.shape for v in variables])
            for variable, piece in zip(variables, pieces, strict=True):
                variable.assign(piece)


def _packed(variables) -> flat.PackedVariable:
    parts = flat.parts([v.shape for v in variables])
    return flat.PackedVariable(flat.pack_parts(variables, parts), parts)
