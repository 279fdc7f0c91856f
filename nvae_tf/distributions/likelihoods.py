"""The distributions of the model, by name where the likelihood decides.

Those of the latent groups are `ResidualNormal`, from
`nvae_tf.distributions.residual_normal`. Of those over images, the Normal
decoder and the Bernoulli are here, and `pixel_distribution` chooses by name;
the discretised logistic mixture is in
`nvae_tf.distributions.logistic_mixture`, and what all of them have in common
in `nvae_tf.distributions.pixels`. What other modules need of all four can be
had from this one.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from nvae_tf.distributions.logistic_mixture import DiscretizedLogisticMixture
from nvae_tf.distributions.pixels import (
    LogProbByPixel,
    PixelDistribution,
    check_channels,
    check_images,
    quantize,
    to_symmetric,
    to_unit,
)
from nvae_tf.distributions.residual_normal import (
    CLAMP,
    SIGMA_FLOOR,
    ResidualNormal,
    soft_clamp,
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


class BernoulliPixels(LogProbByPixel, tfd.Independent):
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

    def _log_prob_map(self, x):
        # `tfd.Bernoulli` computes the same with an operation that ONNX lacks
        # (a product which makes 0 of zero times infinity).
        return -tf.math.reduce_sum(
            x * tf.math.softplus(-self._logits)
            + (1.0 - x) * tf.math.softplus(self._logits),
            axis=-1,
        )


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
