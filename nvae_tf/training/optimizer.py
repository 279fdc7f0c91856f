"""Adamax with coupled L2 decay, on one flat vector of all parameters."""

import tensorflow as tf

from nvae_tf.model import flat

__all__ = ["Adamax"]


class Adamax:
    """The optimiser of the paper's runs.

    `g += decay * p; m = 0.9 m + 0.1 g; u = max(0.999 u, |g| + 1e-3);
    p -= lr / (1 - 0.9^t) * m / u` (Kingma & Ba 2015, section 7.1, with the
    decay added to the gradient and epsilon inside the maximum).

    Variables are updated as one vector, or as a few where they are many: a
    handful of graph nodes instead of a dozen per variable.

    Args:
      variables: float32 variables, in an order that stays the same.
      weight_decay: coefficient of the coupled L2 term.
    """

    BETA_1 = 0.9
    BETA_2 = 0.999
    EPSILON = 1e-3

    def __init__(self, variables, weight_decay: float = 3e-4):
        self.parameters = list(variables)
        self.weight_decay = weight_decay
        self._shapes = [tf.TensorShape(v.shape) for v in self.parameters]
        self._parts = flat.parts(self._shapes)
        self.m = self._zeros()
        self.u = self._zeros()

    @property
    def variables(self) -> list[flat.PackedVariable]:
        """The moments `[N]`; checkpoints keep them."""
        return [self.m, self.u]

    def pack(self, tensors) -> list:
        """Tensors shaped like the variables -> a vector for each part."""
        return flat.pack_parts(tensors, self._parts)

    def apply(self, gradient, learning_rate, step) -> None:
        """Takes one step.

        Args:
          gradient: float32 vectors, see `pack`.
          learning_rate: float32 scalar.
          step: float32 scalar t, from 1.
        """
        rate = learning_rate / (1 - tf.pow(self.BETA_1, step))
        flat.in_turn(
            lambda *items: self._apply_to(*items, rate),
            [part.tensors for part in self._parts],
            gradient,
            self.m.pieces,
            self.u.pieces,
        )

    def _zeros(self) -> flat.PackedVariable:
        sizes = [
            part.elements.stop - part.elements.start for part in self._parts
        ]
        return flat.PackedVariable(map(tf.zeros, sizes), self._parts)

    def _apply_to(self, tensors: slice, gradient, m, u, rate) -> list:
        """Takes the step of one part; returns what it assigned."""
        parameters = self.parameters[tensors]
        old = flat.pack(parameters)
        gradient += self.weight_decay * old
        new_m = self.BETA_1 * m + (1 - self.BETA_1) * gradient
        new_u = tf.maximum(self.BETA_2 * u, tf.abs(gradient) + self.EPSILON)
        pieces = flat.unpack(old - rate * new_m / new_u, self._shapes[tensors])
        assigned = [m.assign(new_m), u.assign(new_u)]
        for variable, piece in zip(parameters, pieces, strict=True):
            assigned.append(variable.assign(piece))
        return assigned
