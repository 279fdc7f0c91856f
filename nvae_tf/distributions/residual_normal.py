"""The residual Normal of the latent groups.

Every latent group of NVAE has a factorised Normal prior and posterior. Both
are parameterised by what a convolution puts out: a raw mean and a raw log
standard deviation, which are softly clamped here so that neither can run away
in training. Arithmetic is float32 whatever the dtype of the inputs; densities
and divergences are in nats.
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ["CLAMP", "SIGMA_FLOOR", "ResidualNormal", "soft_clamp"]

tfd = tfp.distributions

CLAMP = 5.0
SIGMA_FLOOR = 0.01

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def soft_clamp(t):
    """Squashes `t` smoothly into (-5, 5), leaving small values as they are.

    Args:
      t: floating-point tensor of any shape.

    Returns:
      `5 * tanh(t / 5)`, of the shape and dtype of `t`.
    """
    return CLAMP * tf.math.tanh(t / CLAMP)


class ResidualNormal(tfd.Normal):
    """Factorised Normal given by a raw mean and a raw log-sigma.

    `loc = soft_clamp(mu)` and
    `scale = (exp(soft_clamp(log_sigma)) + 0.01) * temperature`. Elements are
    independent: the event is a scalar and everything else is batch, so that
    `log_prob` and the KL divergence keep one value per latent variable and the
    caller decides over which axes to sum.

    It is called residual for what `residual` does: the posterior of a group is
    given relative to its prior, `N(mu + delta_mu, sigma * delta_sigma)`, paper
    section 3.2, "Residual Normal distributions". The soft clamp and the floor
    under sigma are not in the paper; the released models depend on them.

    The floor is why a standard prior has a sigma of 1.01 (see `standard`).

    Args:
      mu: floating-point tensor, the raw mean, before the clamp.
      log_sigma: floating-point tensor that broadcasts with `mu`, the raw
        log of the standard deviation, before the clamp.
      temperature: None, number or tensor that broadcasts with `mu` (for
        example `[B, 1, 1, 1]`), multiplies sigma. At 0 every draw is the
        mean and the density does not exist. None is 1, without the
        multiplication.
      name: prefix of the operations' names.
    """

    def __init__(self, mu, log_sigma, temperature=None, name="ResidualNormal"):
        parameters = {
            "mu": mu,
            "log_sigma": log_sigma,
            "temperature": temperature,
            "name": name,
        }
        with tf.name_scope(name) as name:
            self._mu = tf.cast(mu, tf.float32)
            self._log_sigma = tf.cast(log_sigma, tf.float32)
            scale = tf.math.exp(soft_clamp(self._log_sigma)) + SIGMA_FLOOR
            self._temperature = None
            if temperature is not None:
                self._temperature = tf.cast(temperature, tf.float32)
                scale *= self._temperature
            super().__init__(loc=soft_clamp(self._mu), scale=scale, name=name)
            self._parameters = self._no_dependency(parameters)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {
            "mu": tfp.util.ParameterProperties(),
            "log_sigma": tfp.util.ParameterProperties(),
            "temperature": tfp.util.ParameterProperties(),
        }

    @classmethod
    def standard(cls, shape, temperature=None, name="StandardNormal"):
        """The prior of the first group: raw parameters all zero.

        Its sigma is `exp(0) + 0.01 = 1.01`, in sampling as in the KL.

        Args:
          shape: list, `tf.TensorShape` or int32 tensor, the batch shape, for
            example `[B, h, w, d]`.
          temperature: as in the constructor.
          name: prefix of the operations' names.

        Returns:
          A `ResidualNormal` of batch shape `shape`.
        """
        zeros = tf.zeros(shape)
        return cls(zeros, zeros, temperature=temperature, name=name)

    @property
    def mu(self):
        """The raw mean, float32, before the clamp. The mean itself is `loc`."""
        return self._mu

    @property
    def log_sigma(self):
        """The raw log-sigma, float32, before the clamp."""
        return self._log_sigma

    @property
    def temperature(self):
        """What multiplies sigma, float32, or None for 1."""
        return self._temperature

    def residual(self, delta_mu, delta_log_sigma, name="Residual"):
        """The posterior that differs from this prior by the given amounts.

        The sum is taken on the raw values, *before* the clamp. The temperature
        is not inherited: it belongs to sampling from the prior.

        Args:
          delta_mu: floating-point tensor that broadcasts with `mu`.
          delta_log_sigma: floating-point tensor that broadcasts with
            `log_sigma`.
          name: prefix of the operations' names.

        Returns:
          `ResidualNormal(mu + delta_mu, log_sigma + delta_log_sigma)`.
        """
        return ResidualNormal(
            self.mu + tf.cast(delta_mu, tf.float32),
            self.log_sigma + tf.cast(delta_log_sigma, tf.float32),
            name=name,
        )

    def from_noise(self, eps):
        """The draw that standard Normal noise stands for, reparameterised.

        Args:
          eps: floating-point tensor that broadcasts with the batch shape.

        Returns:
          `loc + scale * eps`, float32; differentiable in the parameters.
        """
        return self.loc + self.scale * tf.cast(eps, tf.float32)

    def _log_prob(self, x):
        # As in `tfd.Normal`, with one division instead of two: this runs once
        # or twice per group, and graphs of deep models are large as they are.
        z = (tf.cast(x, tf.float32) - self.loc) / self.scale
        return (
            -0.5 * tf.math.square(z)
            - tf.math.log(self.scale)
            - _HALF_LOG_TWO_PI
        )


@tfd.RegisterKL(ResidualNormal, ResidualNormal)
def _kl_residual_normals(q, p, name=None):
    """KL(q || p) in nats, one value per latent variable (paper, equation 2)."""
    # TFP's own formula for Normals has expm1, which does not convert to ONNX.
    with tf.name_scope(name or "kl_residual_normals"):
        shift = (q.loc - p.loc) / p.scale
        ratio = q.scale / p.scale
        return (
            0.5 * (tf.math.square(shift) + tf.math.square(ratio))
            - 0.5
            - tf.math.log(ratio)
        )
