"""Adamax with coupled L2 decay, on one flat vector of all parameters."""

import tensorflow as tf

from nvae_tf import flat

__all__ = ["Adamax"]


class Adamax:
    """The optimiser of the paper's runs.

    `g += decay * p; m = 0.9 m + 0.1 g; u = max(0.999 u, |g| + 1e-3);
    p -= lr / (1 - 0.9^t) * m / u` (Kingma & Ba 2015, section 7.1, with the
    decay added to the gradient and epsilon inside the maximum).

    All variables are updated as one vector: a handful of graph nodes instead
    of a dozen per variable, and one tensor to reduce across replicas.

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
        size = sum(shape.num_elements() for shape in self._shapes)
        self.m = tf.Variable(tf.zeros([size]), trainable=False, name="m")
        self.u = tf.Variable(tf.zeros([size]), trainable=False, name="u")

    @property
    def variables(self) -> list[tf.Variable]:
        """The moments `[N]`; checkpoints keep them."""
        return [self.m, self.u]

    def flatten(self, tensors):
        """Tensors shaped like the variables -> one vector `[N]`."""
        return flat.pack(tensors)

    def apply(self, gradient, learning_rate, step):
        """Takes one step.

        Args:
          gradient: float32 `[N]`, see `flatten`.
          learning_rate: float32 scalar.
          step: float32 scalar t, from 1.

        Returns:
          float32 `[N]`, the new parameters.
        """
        old = self.flatten(self.parameters)
        gradient += self.weight_decay * old
        m = self.BETA_1 * self.m + (1 - self.BETA_1) * gradient
        self.m.assign(m)
        # One vector after the other: computed side by side, their intermediate
        # values would take twice the memory.
        with tf.control_dependencies([m]):
            u = self.BETA_2 * self.u
            u = tf.maximum(u, tf.abs(gradient) + self.EPSILON)
            self.u.assign(u)
        with tf.control_dependencies([u]):
            rate = learning_rate / (1 - tf.pow(self.BETA_1, step))
            new = old - rate * m / u
        pieces = flat.unpack(new, self._shapes)
        for variable, piece in zip(self.parameters, pieces, strict=True):
            variable.assign(piece)
        return new
