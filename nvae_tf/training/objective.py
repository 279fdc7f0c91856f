"""What a training step minimises, and its gradient."""

import typing

import tensorflow as tf

from nvae_tf.config.schedules import Coefficients
from nvae_tf.distribute import replicas
from nvae_tf.model import losses
from nvae_tf.model.inputs import images_and_labels
from nvae_tf.model.nvae import NVAE, NVAEOutput
from nvae_tf.model.pure_layer import Mode
from nvae_tf.model.regularizers import SpectralRegularizer, batch_norm_loss

__all__ = ["LossTerms", "Objective"]


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


class Objective:
    """Mean negative ELBO with balanced KL, plus two penalties on the weights.

    Paper section 3.2 and appendix A.

    Args:
      model: whose loss it is.
      spectral: over the model's kernels.
    """

    def __init__(self, model: NVAE, spectral: SpectralRegularizer):
        self.model = model
        self.spectral = spectral
        self._alphas = losses.balance_alphas(model.config)

    def nelbo(
        self, x, output: NVAEOutput, coefficients: Coefficients, kl_sizes=None
    ):
        """What depends on the images.

        Args:
          x: what `gradients` takes.
          output: of a training pass over `x`.
          coefficients: float32 scalars.
          kl_sizes: see `gradients`.

        Returns:
          `(reconstruction_nll, balanced_kl, balance_coefficients)`: float32
          `[B]`, `[B]` and `[L]`.
        """
        likelihood = self.model.likelihood(output.logits)
        images, _ = images_and_labels(x)
        nll = losses.reconstruction_nll(likelihood, images)
        kl, gamma = losses.balanced_kl(
            output.kl_per_group, self._alphas, coefficients.beta, kl_sizes
        )
        return nll, kl, gamma

    def penalties(self, params: dict, after=None):
        """What depends on the weights alone.

        Args:
          params: what the model's `read_params` returned.
          after: see `SpectralRegularizer`.

        Returns:
          `(spectral, batch_norm, vectors)`: two scalars before lambda, and
          what `SpectralRegularizer.store` takes.
        """
        spectral, vectors = self.spectral(params, after=after)
        return spectral, batch_norm_loss(self.model, params), vectors

    def gradients(
        self,
        x,
        coefficients: Coefficients,
        variables,
        *,
        seed=None,
        eps=None,
        kl_sizes=None,
        scale=1.0,
    ):
        """A training pass, its loss and the gradient; changes nothing.

        Gradients are taken to the parameters that layers compute with
        (normalised kernels), of `nelbo` and then of `penalties`, and last of
        the sum to the variables.

        Args:
          x: float32 `[B, H, W, C]`; of a model of classes the pair of these
            and their labels, int32 `[B]`.
          coefficients: float32 scalars.
          variables: of the model.
          seed: int32 `[2]`, of the noise; or
          eps: L tensors `[B, h, w, d]`.
          kl_sizes: `[L]`, what to balance the KL by; None: by this batch's.
          scale: what the loss is multiplied by before its gradient is taken.

        Returns:
          `(output, terms, gradients, vectors)`: the gradients of the scaled
          loss to the variables, and the vectors for
          `SpectralRegularizer.store`.
        """
        variables = [v.value for v in variables]
        with tf.GradientTape(watch_accessed_variables=False) as weights_tape:
            weights_tape.watch(variables)
            params = self.model.read_params(Mode.TRAINING)
        leaves = tf.nest.flatten(params)
        after: dict = {}

        # Independent of the pass: a graph runs it beside.
        with tf.GradientTape() as penalty_tape:
            penalty_tape.watch(leaves)
            spectral, norm, vectors = self.penalties(params, after)
            penalty = coefficients.regularization * (spectral + norm)
            scaled_penalty = penalty * scale

        with tf.GradientTape() as tape:
            tape.watch(leaves)
            output = self._forward(x, seed, eps, params)
            nll, kl, gamma = self.nelbo(x, output, coefficients, kl_sizes)
            loss = tf.reduce_mean(nll + kl)
            scaled = loss * scale
        of_nelbo = tape.gradient(scaled, leaves)

        # As large as all kernels: not before the activations are gone.  What
        # a tape computes heeds data only, so the gradient's seed waits.
        barrier = [g for g in of_nelbo if g is not None]
        if replicas.overlap():
            # Gradients go to the other replicas while the pass goes on: each
            # kernel's waits for its own.
            nested = tf.nest.pack_sequence_as(params, of_nelbo)
            for path, gradient in self.spectral.kernels(nested).items():
                after[path] = [] if gradient is None else [gradient]
            barrier = []
        with tf.control_dependencies([tf.group(barrier)]):
            one = tf.ones_like(scaled_penalty)
        of_penalty = penalty_tape.gradient(scaled_penalty, leaves, one)

        gradients = weights_tape.gradient(
            leaves,
            variables,
            output_gradients=[
                _sum(pair) for pair in zip(of_nelbo, of_penalty, strict=True)
            ],
        )
        terms = LossTerms(loss + penalty, nll, kl, gamma, spectral, norm)
        return output, terms, gradients, vectors

    def terms(self, x, coefficients: Coefficients, seed):
        """A training pass and its loss, without what a gradient needs.

        Args:
          x: see `gradients`.
          coefficients: float32 scalars.
          seed: int32 `[2]`.

        Returns:
          `(output, terms)`.
        """
        params = self.model.read_params(Mode.TRAINING)
        spectral, norm, _ = self.penalties(params)
        output = self._forward(x, seed, None, params)
        nll, kl, gamma = self.nelbo(x, output, coefficients)
        penalty = coefficients.regularization * (spectral + norm)
        total = tf.reduce_mean(nll + kl) + penalty
        return output, LossTerms(total, nll, kl, gamma, spectral, norm)

    def kl_sizes(self, x, seed):
        """What a batch's KL is balanced by, float32 `[L]`."""
        params = self.model.read_params(Mode.TRAINING)
        output = self._forward(x, seed, None, params)
        return losses.kl_sizes(output.kl_per_group)

    def _forward(self, x, seed, eps, params) -> NVAEOutput:
        images, labels = images_and_labels(x)
        return self.model(
            images,
            labels=labels,
            eps=eps,
            seed=seed,
            training=True,
            params=params,
            with_densities=False,
        )


def _sum(gradients):
    """The sum of those that are not None; None if all are."""
    given = [g for g in gradients if g is not None]
    return tf.add_n(given) if given else None
