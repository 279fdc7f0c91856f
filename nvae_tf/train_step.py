"""One training step: losses, gradients, optimiser, moving averages."""

import typing

import tensorflow as tf

from nvae_tf import losses
from nvae_tf.layers import Mode
from nvae_tf.model import NVAE, NVAEOutput
from nvae_tf.optimizer import Adamax
from nvae_tf.regularizers import SpectralRegularizer, batch_norm_loss
from nvae_tf.schedules import Coefficients

__all__ = ["LossTerms", "StepMetrics", "TrainStep"]


class LossTerms(typing.NamedTuple):
    """The loss and what it is made of; float32, nats.

    Attributes:
      total: scalar, what is minimised.
      reconstruction_nll: `[B]`.
      balanced_kl: `[B]`, beta included.
      balance_coefficients: `[L]`.
      spectral: scalar, before lambda.
      batch_norm: scalar, before lambda.
    """

    total: typing.Any
    reconstruction_nll: typing.Any
    balanced_kl: typing.Any
    balance_coefficients: typing.Any
    spectral: typing.Any
    batch_norm: typing.Any


class StepMetrics(typing.NamedTuple):
    """Means over the batch; float32 scalars, nats, unless said otherwise.

    Attributes:
      total_loss: what was minimised.
      nelbo: reconstruction and plain KL.
      reconstruction_nll: of the batch.
      kl: sum over groups.
      kl_per_group: `[L]`.
      kl_per_channel: `[L, d]`.
      balance_coefficients: `[L]`.
      spectral: before lambda.
      batch_norm: before lambda.
      gradient_norm: of the whole loss, without decay.
    """

    total_loss: typing.Any
    nelbo: typing.Any
    reconstruction_nll: typing.Any
    kl: typing.Any
    kl_per_group: typing.Any
    kl_per_channel: typing.Any
    balance_coefficients: typing.Any
    spectral: typing.Any
    batch_norm: typing.Any
    gradient_norm: typing.Any


class TrainStep:
    """Computes and applies one update; the only path to new weights.

    Args:
      model: whose variables change.
      optimizer: over the model's trainable variables.
      spectral: over the model's kernels.
    """

    def __init__(
        self, model: NVAE, optimizer: Adamax, spectral: SpectralRegularizer
    ):
        self.model = model
        self.optimizer = optimizer
        self.spectral = spectral
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._alphas = losses.balance_alphas(model.config)

    @property
    def variables(self) -> list:
        """Everything that a checkpoint has to keep."""
        return [
            *self.model.variables,
            *self.optimizer.variables,
            *self.spectral.variables,
            self.step,
        ]

    def loss_terms(self, x, coefficients, output: NVAEOutput, params):
        """The loss of a pass.

        Returns:
          `(LossTerms, vectors)`, the vectors for `spectral.store`.
        """
        nll = losses.reconstruction_nll(self.model.likelihood(output.logits), x)
        kl, gamma = losses.balanced_kl(
            output.kl_per_group, self._alphas, coefficients.beta
        )
        spectral, vectors = self.spectral(params)
        norm = batch_norm_loss(self.model, params)
        total = tf.reduce_mean(nll + kl)
        total += coefficients.regularization * (spectral + norm)
        return LossTerms(total, nll, kl, gamma, spectral, norm), vectors

    def gradients(self, x, coefficients: Coefficients, seed=None, eps=None):
        """The pass, its loss and the gradient; changes nothing.

        Args:
          x: float32 `[B, H, W, C]`.
          coefficients: float32 scalars.
          seed: int32 `[2]`, of the noise; or
          eps: L tensors `[B, h, w, d]`.

        Returns:
          `(output, terms, gradient, vectors)`, the gradient flat `[N]`.
        """
        variables = self.optimizer.parameters
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            params = self.model.read_params(Mode.TRAINING)
            output = self.model(
                x,
                eps=eps,
                seed=seed,
                training=True,
                params=params,
                with_densities=False,
            )
            terms, vectors = self.loss_terms(x, coefficients, output, params)
        gradients = tape.gradient(terms.total, [v.value for v in variables])
        flat = self.optimizer.flatten(gradients)
        return output, terms, flat, vectors

    @tf.function(autograph=False)
    def __call__(self, x, coefficients: Coefficients, seed=None, eps=None):
        """Takes one step; see `gradients` for the arguments.

        Returns:
          `StepMetrics` of the pass before the update.
        """
        output, terms, gradient, vectors = self.gradients(
            x, coefficients, seed, eps
        )
        self.step.assign_add(1)
        self.optimizer.apply(
            gradient,
            coefficients.learning_rate,
            tf.cast(self.step, tf.float32),
        )
        self.spectral.store(vectors)
        self.model.apply_updates(output.updates)
        kl_per_group = tf.reduce_mean(output.kl_per_group, axis=0)
        nll = tf.reduce_mean(terms.reconstruction_nll)
        kl = tf.reduce_sum(kl_per_group)
        return StepMetrics(
            total_loss=terms.total,
            nelbo=nll + kl,
            reconstruction_nll=nll,
            kl=kl,
            kl_per_group=kl_per_group,
            kl_per_channel=tf.reduce_mean(output.kl_per_channel, axis=0),
            balance_coefficients=terms.balance_coefficients,
            spectral=terms.spectral,
            batch_norm=terms.batch_norm,
            gradient_norm=tf.norm(gradient),
        )
