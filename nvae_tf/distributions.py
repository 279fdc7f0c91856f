"""The residual Normal of the latent groups, and distributions over images.

Every latent group of NVAE has a factorised Normal prior and posterior. Both
are parameterised by what a convolution puts out: a raw mean and a raw log
standard deviation, which are softly clamped here so that neither can run away
in training. Arithmetic is float32 whatever the dtype of the inputs; densities
and divergences are in nats.

Of the distributions over images, the Normal decoder and the Bernoulli are
here, and `pixel_distribution` chooses by name; the discretised logistic
mixture and what image distributions have in common are in
`nvae_tf.pixel_distributions`, whose public classes can be had from here too.
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from nvae_tf.pixel_distributions import (
    DiscretizedLogisticMixture,
    PixelDistribution,
    check_channels,
    check_images,
    quantize,
    sum_pixels,
    to_symmetric,
    to_unit,
)

__all__ = [
    "CLAMP",
    "SIGMA_FLOOR",
    "BernoulliPixels",
    "DiscretizedLogisticMixture",
    "PixelDistribution",
    "PixelNormal",
    "ResidualNormal",
    "num_pixel_parameters",
    "pixel_distribution",
    "quantize",
    "soft_clamp",
]

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


class PixelNormal(PixelDistribution):
    """Independent Normals over the channels of every pixel.

    `params` `[..., H, W, 2 C]` has C raw means, then C raw log-sigmas, with
    the clamp and the floor of `ResidualNormal`.

    The density is that of `2 x - 1` on [-1, 1], *not* of `x`: there is no
    `log 2` per channel for the change of variables, so that `log_prob` agrees
    with the released models. Draws and means are clamped to [-1, 1] and
    brought to [0, 1].

    Args:
      params: floating-point tensor `[..., H, W, 2 C]`.
      num_channels: int, C of the images.
      padding: int, pixels on every side that `log_prob` leaves out.
      name: prefix of the operations' names.

    Raises:
      ValueError: if `params` does not have `2 C` channels.
    """

    def __init__(self, params, num_channels=3, padding=0, name="PixelNormal"):
        parameters = {
            "params": params,
            "num_channels": num_channels,
            "padding": padding,
            "name": name,
        }
        expected = self.num_parameters(num_channels)
        super().__init__(
            params, num_channels, expected, padding, parameters, name
        )
        if self.params.shape[-1] != expected:
            raise ValueError(
                f"PixelNormal over {num_channels} image channels needs "
                f"{expected} parameters per pixel, got "
                f"{self.params.shape[-1]}."
            )
        self._normal = ResidualNormal(*tf.split(self.params, 2, axis=-1))

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes)

    @staticmethod
    def num_parameters(num_channels):
        """P for C image channels: `2 C`."""
        check_channels(num_channels)
        return 2 * num_channels

    def log_prob_per_dimension(self, x):
        """Log-density of every channel of every pixel.

        Args:
          x: floating-point tensor `[..., H, W, C]` in [0, 1].

        Returns:
          float32 `[..., H, W, C]`, nats, of `2 x - 1`.

        Raises:
          TypeError: if `x` holds integers.
          ValueError: if `x` is not of the event's shape.
        """
        return self._normal.log_prob(
            to_symmetric(check_images(x, self.event_shape))
        )

    def _log_prob_map(self, x):
        return tf.math.reduce_sum(self.log_prob_per_dimension(x), axis=-1)

    def _mean(self):
        """The clamped location."""
        return to_unit(self._normal.loc)

    def sample_from_noise(self, eps, temperature=1.0):
        """The draw that standard Normal noise stands for.

        Args:
          eps: floating-point tensor `[..., H, W, C]`.
          temperature: number or tensor that broadcasts with `eps`, multiplies
            sigma.

        Returns:
          float32 `[..., H, W, C]` in [0, 1].
        """
        eps = tf.cast(temperature, tf.float32) * tf.cast(eps, tf.float32)
        return to_unit(self._normal.from_noise(eps))

    def _sample_n(self, n, seed=None):
        seed = tfp.random.sanitize_seed(seed, salt="PixelNormal")
        return self.sample_from_noise(
            tf.random.stateless_normal(
                self._noise_shape(n, self.num_channels), seed
            )
        )


class BernoulliPixels(tfd.Independent):
    """Binary images: a `tfd.Bernoulli` for every channel of every pixel.

    Args:
      logits: floating-point tensor `[..., H, W, C]`.
      padding: int, pixels on every side that `log_prob` leaves out.
      name: prefix of the operations' names.
    """

    def __init__(self, logits, padding=0, name="BernoulliPixels"):
        parameters = {"logits": logits, "padding": padding, "name": name}
        self._padding = padding
        with tf.name_scope(name) as name:
            self._logits = tf.cast(logits, tf.float32)
            super().__init__(
                tfd.Bernoulli(logits=self._logits, dtype=tf.float32),
                reinterpreted_batch_ndims=3,
                name=name,
            )
            self._parameters = self._no_dependency(parameters)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {"logits": tfp.util.ParameterProperties(event_ndims=3)}

    @property
    def logits(self):
        """Log-odds of one, float32, `[..., H, W, C]`."""
        return self._logits

    @staticmethod
    def num_parameters(num_channels):
        """Channels of `logits` for C image channels: C."""
        check_channels(num_channels)
        return num_channels

    def log_prob_map(self, x):
        """Log-probability of every pixel, its channels summed.

        Args:
          x: floating-point tensor `[..., H, W, C]` of zeros and ones.

        Returns:
          float32 `[..., H, W]`, nats.

        Raises:
          TypeError: if `x` holds integers.
          ValueError: if `x` is not of the event's shape.
        """
        with tf.name_scope("log_prob_map"):
            x = check_images(x, self.event_shape)
            # `tfd.Bernoulli` computes the same with an operation that ONNX
            # lacks (a product which makes 0 of zero times infinity).
            return -tf.math.reduce_sum(
                x * tf.math.softplus(-self._logits)
                + (1.0 - x) * tf.math.softplus(self._logits),
                axis=-1,
            )

    @property
    def padding(self):
        """Pixels on every side that `log_prob` leaves out."""
        return self._padding

    def _log_prob(self, x):
        return sum_pixels(self.log_prob_map(x), self._padding)


def pixel_distribution(likelihood, params, num_channels, num_bits=8, padding=0):
    """The distribution over images that a likelihood's name stands for.

    Args:
      likelihood: "bernoulli", "mixture" or "normal".
      params: floating-point tensor `[..., H, W, P]`, the decoder's output.
      num_channels: int, C of the images.
      num_bits: int, bits per channel; only the mixture depends on it.
      padding: int, pixels on every side that `log_prob` leaves out.

    Returns:
      A `BernoulliPixels`, `DiscretizedLogisticMixture` or `PixelNormal`.

    Raises:
      ValueError: if the name is unknown or P does not fit.
    """
    match likelihood:
        case "bernoulli":
            if params.shape[-1] != num_channels:
                raise ValueError(
                    f"BernoulliPixels over {num_channels} image channels "
                    f"needs as many parameters per pixel, got "
                    f"{params.shape[-1]}."
                )
            return BernoulliPixels(params, padding)
        case "mixture":
            return DiscretizedLogisticMixture(
                params, num_channels, num_bits, padding
            )
        case "normal":
            return PixelNormal(params, num_channels, padding)
        case _:
            raise _unknown_likelihood(likelihood)


def num_pixel_parameters(likelihood, num_channels, num_mixtures=10):
    """P, the channels of the decoder's output, for a likelihood by name.

    Args:
      likelihood: "bernoulli", "mixture" or "normal".
      num_channels: int, C of the images.
      num_mixtures: int, components of the mixture; the others ignore it.

    Returns:
      int, to be the last axis of `params` of `pixel_distribution`.

    Raises:
      ValueError: if the name is unknown or a number is not positive.
    """
    match likelihood:
        case "bernoulli":
            return BernoulliPixels.num_parameters(num_channels)
        case "mixture":
            return DiscretizedLogisticMixture.num_parameters(
                num_channels, num_mixtures
            )
        case "normal":
            return PixelNormal.num_parameters(num_channels)
        case _:
            raise _unknown_likelihood(likelihood)


def _unknown_likelihood(likelihood):
    return ValueError(
        "likelihood must be 'bernoulli', 'mixture' or 'normal', got "
        f"{likelihood!r}."
    )
