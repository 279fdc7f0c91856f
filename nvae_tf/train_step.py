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

FIRST_LOSS_SCALE = 2.0**10
_LARGEST_LOSS_SCALE = 2.0**24
# Steps without overflow after which the loss scale doubles.
_GROWTH_INTERVAL = 2000


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
      loss_scale: what the loss was multiplied by; 1 but in float16.
      skipped: steps so far whose gradient was not finite, so that nothing was
        updated.
      skipped_in_a_row: the latest of them, without a good step between.
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
    loss_scale: typing.Any
    skipped: typing.Any
    skipped_in_a_row: typing.Any


class TrainStep:
    """Computes and applies one update; the only path to new weights.

    A step whose gradient is not finite changes no weight, moment or statistic.
    In float16 the loss is scaled up before its gradient is taken, so that small
    gradients do not vanish, and the scale is adapted to overflows.

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
        scaled = model.compute_dtype == "float16"
        self.scales_loss = scaled
        self.state = {
            "updates": tf.Variable(0, trainable=False, dtype=tf.int64),
            "loss_scale": tf.Variable(
                FIRST_LOSS_SCALE if scaled else 1.0, trainable=False
            ),
            **{
                name: tf.Variable(0, trainable=False, dtype=tf.int64)
                for name in ("good_steps", "skipped", "skipped_in_a_row")
            },
        }
        self._alphas = losses.balance_alphas(model.config)

    def named_variables(self) -> dict:
        """All state of training, by the names that checkpoints use."""
        return {
            **self.model.named_variables("model/"),
            "optimizer/m": self.optimizer.m,
            "optimizer/u": self.optimizer.u,
            **{
                f"spectral/u_{c_out}x{fan_in}": group.u
                for (c_out, fan_in), group in self.spectral.groups.items()
            },
            **{f"training/{k}": v for k, v in self.state.items()},
        }

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
            target = terms.total
            if self.scales_loss:
                target *= self.state["loss_scale"]
        gradients = tape.gradient(target, [v.value for v in variables])
        flat = self.optimizer.flatten(gradients)
        if self.scales_loss:
            flat /= self.state["loss_scale"]
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
        finite = tf.reduce_all(tf.math.is_finite(gradient))
        scale = tf.identity(self.state["loss_scale"])

        tf.cond(
            finite,
            lambda: self._update(gradient, coefficients, vectors, output),
            self._skip,
        )
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
            loss_scale=scale,
            skipped=tf.identity(self.state["skipped"]),
            skipped_in_a_row=tf.identity(self.state["skipped_in_a_row"]),
        )

    def _skip(self) -> None:
        """Notes that the gradient was not finite."""
        state = self.state
        state["skipped"].assign_add(1)
        state["skipped_in_a_row"].assign_add(1)
        state["good_steps"].assign(0)
        if self.scales_loss:
            scale = state["loss_scale"]
            scale.assign(tf.maximum(scale / 2, 1.0))

    def _update(self, gradient, coefficients, vectors, output) -> None:
        """Stores what a step with a finite gradient gives."""
        state = self.state
        updates = state["updates"].assign_add(1)
        self.optimizer.apply(
            gradient,
            coefficients.learning_rate,
            tf.cast(updates, tf.float32),
        )
        self.spectral.store(vectors)
        self.model.apply_updates(output.updates)
        state["skipped_in_a_row"].assign(0)
        good = state["good_steps"].assign_add(1)
        if self.scales_loss:
            grows = good % _GROWTH_INTERVAL == 0
            scale = state["loss_scale"]
            scale.assign(
                tf.where(
                    grows, tf.minimum(2 * scale, _LARGEST_LOSS_SCALE), scale
                )
            )
