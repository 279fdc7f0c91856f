"""The discretised logistic mixture, the likelihood of colour images."""

import functools
import math

import tensorflow as tf
import tensorflow_probability as tfp

from nvae_tf.distributions.pixels import (
    PixelDistribution,
    check_bits,
    check_channels,
    to_symmetric,
    to_unit,
)

__all__ = ["DiscretizedLogisticMixture"]

# The standard deviation of this log-scale is a fifth of a level at 8 bits:
# narrower logistics would gain nothing and make gradients steep.
_MIN_LOG_SCALE = -7.0
# A bin of less probability than this is priced by the density at its centre.
_MIN_BIN_MASS = 1e-5
# Beyond these points of [-1, 1] a bin takes all of the tail.
_LEFT_EDGE, _RIGHT_EDGE = -0.999, 0.99
# Uniform noise keeps this distance from 0 and 1, where logarithms diverge.
_UNIFORM_MARGIN = 1e-5


@functools.cache
def _mixture_layout(num_channels):
    """Which blocks of M parameters are what; DiscretizedLogisticMixture.

    Returns:
      Indices of the means and the log-scales (one per channel) and of the
      coefficients (one per pair of channels), and the number of blocks.
    """
    num_pairs = num_channels * (num_channels - 1) // 2
    means, log_scales, coefficients = [], [], [0] * num_pairs
    block = 1
    for channel in range(num_channels):
        means.append(block)
        log_scales.append(block + 1)
        block += 2
        for pair in range(channel, num_pairs, num_channels):
            coefficients[pair] = block
            block += 1
    return means, log_scales, coefficients, block


def _from_earlier(coefficients, values, channel):
    """Terms that the channels before `channel` add to its mean, a list."""
    first = channel * (channel - 1) // 2
    return [coefficients[first + i] * values[i] for i in range(channel)]


class DiscretizedLogisticMixture(PixelDistribution):
    """Mixture of logistics over pixel levels, channels in order.

    Each pixel picks one of M components for all of its channels. Within a
    component the channels are logistics whose means depend linearly on the
    channels before them (R, then G given R, then B given R and G). The
    probability of a level is that of its bin, `2 / (2^num_bits - 1)` wide on
    [-1, 1]; the outermost bins take the tails. Salimans et al., PixelCNN++
    (2017), sections 2.1 and 2.2; the NVAE paper uses it for colour images.

    Three conventions of the released models, kept exactly:

    - The right tail begins at 0.99, which at 8 bits both 254 and 255 exceed:
      the probability of 254 there is that of 254 and 255 together, and those
      of all 256 levels sum to `1 + P(255)`. At other depths they sum to one.
    - A bin of mass 1e-5 or less counts as its width times the density at its
      centre, which far from a narrow component is less than its mass.
    - Log-scales are clamped from below at -7.

    `params` `[..., H, W, P]` consists of blocks of M channels: the mixture
    logits, then for each image channel its means, its log-scales and its share
    of the coefficients (before a tanh). There is one block of coefficients per
    pair (channel, earlier channel), in the order (1, 0), (2, 0), (2, 1),
    (3, 0)...; they are dealt to the channels in turn. So one channel takes
    `3 M` parameters and no coefficients, and three take `10 M`: R's share is
    the coefficient of R in G, G's that of R in B, B's that of G in B.

    Draws are continuous: they are not rounded to pixel levels.

    Args:
      params: floating-point tensor `[..., H, W, P]`, laid out as said
        above. H and W may be unknown, P not.
      num_channels: int, C of the images.
      num_bits: int, 1 to 8, the bits per channel of the images.
      padding: int, pixels on every side that `log_prob` leaves out.
      name: prefix of the operations' names.

    Raises:
      ValueError: if `num_channels` or `num_bits` is out of range, or if P
        is not that of a whole number of components.
    """

    def __init__(
        self,
        params,
        num_channels=3,
        num_bits=8,
        padding=0,
        name="DiscretizedLogisticMixture",
    ):
        parameters = {
            "params": params,
            "num_channels": num_channels,
            "num_bits": num_bits,
            "padding": padding,
            "name": name,
        }
        check_bits(num_bits)
        block_size = self.num_parameters(num_channels, 1)
        self._num_bits = num_bits
        super().__init__(
            params, num_channels, block_size, padding, parameters, name
        )
        self._num_mixtures = self.params.shape[-1] // block_size

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes)

    @staticmethod
    def num_parameters(num_channels, num_mixtures=10):
        """P for C channels and M components: `M (1 + 2 C + C (C - 1) / 2)`.

        Raises:
          ValueError: if `num_channels` or `num_mixtures` is not positive.
        """
        check_channels(num_channels)
        if num_mixtures < 1:
            raise ValueError(
                f"num_mixtures must be positive, got {num_mixtures}."
            )
        return num_mixtures * _mixture_layout(num_channels)[-1]

    @property
    def num_bits(self):
        """Bits per channel of the images."""
        return self._num_bits

    @property
    def num_mixtures(self):
        """Number of components, M."""
        return self._num_mixtures

    def _blocks(self):
        """Mixture logits, and lists of means, log-scales and coefficients.

        Each is `[..., H, W, M]`; log-scales clamped, coefficients in (-1, 1).
        """
        means, log_scales, coefficients, count = _mixture_layout(
            self.num_channels
        )
        blocks = tf.split(self.params, count, axis=-1)
        return (
            blocks[0],
            [blocks[i] for i in means],
            [tf.math.maximum(blocks[i], _MIN_LOG_SCALE) for i in log_scales],
            [tf.math.tanh(blocks[i]) for i in coefficients],
        )

    def _log_prob_map(self, x):
        logits, means, log_scales, coefficients = self._blocks()
        x = to_symmetric(x)
        values = tf.split(x, self.num_channels, axis=-1)  # each [..., 1]
        centred = [
            value - sum(_from_earlier(coefficients, values, c), means[c])
            for c, value in enumerate(values)
        ]
        log_mass = self._log_bin_mass(
            x[..., tf.newaxis],
            tf.stack(centred, axis=-2),
            tf.stack(log_scales, axis=-2),
        )  # [..., H, W, C, M]
        return tf.math.reduce_logsumexp(
            tf.math.reduce_sum(log_mass, axis=-2) + tf.nn.log_softmax(logits),
            axis=-1,
        )

    def _log_bin_mass(self, x, centred, log_scale):
        """Log-probability of the bins around `x` under each logistic.

        Args:
          x: float32 `[..., C, 1]`, pixels in [-1, 1].
          centred: float32 `[..., C, M]`, `x` less the mean.
          log_scale: float32 `[..., C, M]`.

        Returns:
          float32 `[..., C, M]`, nats.
        """
        half_width = 1.0 / (2**self.num_bits - 1)
        inverse_scale = tf.math.exp(-log_scale)
        centre = centred * inverse_scale
        step = half_width * inverse_scale
        log_left = tf.math.log_sigmoid(centre + step)
        log_right = tf.math.log_sigmoid(step - centre)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): the
        # tails give the bin, without a difference of nearly equal numbers. The
        # last factor is 2 t / (1 + t) with t = tanh((a - b) / 2), accurate for
        # small steps too (and, unlike expm1, a function that ONNX has). Bins
        # of mass above 1e-5 have steps above 2e-5, so the lower bound touches
        # only bins that are priced by their density; there it keeps the unused
        # logarithm's gradient finite.
        t = tf.math.tanh(tf.math.maximum(step, 1e-6))
        log_bin = log_left + log_right + tf.math.log(2.0 * t / (1.0 + t))
        log_density = centre - log_scale - 2.0 * tf.math.softplus(centre)
        log_bin = tf.where(
            log_bin > math.log(_MIN_BIN_MASS),
            log_bin,
            log_density + math.log(2.0 * half_width),
        )
        log_bin = tf.where(x > _RIGHT_EDGE, log_right, log_bin)
        return tf.where(x < _LEFT_EDGE, log_left, log_bin)

    def _in_order(self, centres, coefficients):
        """Walks the channels, each clamped before the next depends on it.

        Args:
          centres: list of C tensors `[..., H, W]`, what each channel is before
            the earlier ones' part.
          coefficients: list of tensors `[..., H, W]`, one per pair.

        Returns:
          `[..., H, W, C]` in [0, 1].
        """
        values = []
        for channel, centre in enumerate(centres):
            value = sum(_from_earlier(coefficients, values, channel), centre)
            values.append(tf.clip_by_value(value, -1.0, 1.0))
        return to_unit(tf.stack(values, axis=-1))

    def _mean(self):
        """Means and coefficients averaged over components, then in order.

        The image that the released models show. It is not quite the
        expectation: values are clamped, and in a mixture the coefficients are
        correlated with the earlier channels.
        """
        logits, means, _, coefficients = self._blocks()
        return self._in_order(
            *_weigh(tf.nn.softmax(logits), means, coefficients)
        )

    def sample_from_uniforms(self, u_component, u_value, temperature=1.0):
        """The draw that given uniform noise stands for.

        Args:
          u_component: floating-point tensor `[..., H, W, M]` in [0, 1], picks
            the components.
          u_value: floating-point tensor `[..., H, W, C]` in [0, 1], places
            the channels. Both are clamped to [1e-5, 1 - 1e-5].
          temperature: number or tensor that broadcasts to `[..., H, W, 1]`,
            for example `[B, 1, 1, 1]`. Multiplies the scales and divides the
            mixture logits; at 0 the draw is the mean of the likeliest
            component.

        Returns:
          float32 `[..., H, W, C]` in [0, 1].
        """
        with tf.name_scope("sample_from_uniforms"):
            temperature = tf.cast(temperature, tf.float32)
            u_component, u_value = (
                tf.clip_by_value(
                    tf.cast(u, tf.float32),
                    _UNIFORM_MARGIN,
                    1.0 - _UNIFORM_MARGIN,
                )
                for u in (u_component, u_value)
            )
            logits, means, log_scales, coefficients = self._blocks()
            # Noise times the temperature picks as logits over it would, and
            # does so at 0 too.
            gumbel = -tf.math.log(-tf.math.log(u_component))
            choice = tf.one_hot(
                tf.math.argmax(logits + temperature * gumbel, axis=-1),
                self.num_mixtures,
            )
            means, log_scales, coefficients = _weigh(
                choice, means, log_scales, coefficients
            )
            logistic = tf.math.log(u_value) - tf.math.log(1.0 - u_value)
            noise = tf.math.exp(tf.stack(log_scales, axis=-1)) * logistic
            centres = tf.stack(means, axis=-1) + temperature * noise
            return self._in_order(tf.unstack(centres, axis=-1), coefficients)

    def _sample_n(self, n, seed=None):
        seeds = tfp.random.split_seed(seed, n=2, salt=type(self).__name__)
        return self.sample_from_uniforms(
            *(
                tf.random.stateless_uniform(self._noise_shape(n, depth), seed)
                for depth, seed in zip(
                    (self.num_mixtures, self.num_channels),
                    tf.unstack(seeds),
                    strict=True,
                )
            )
        )


def _weigh(weights, *lists):
    """Sums lists of tensors `[..., M]` over M with `weights` `[..., M]`.

    All in one reduction. Returns the same lists of tensors `[...]`.
    """
    stacked = tf.stack([t for ts in lists for t in ts], axis=-2)
    sums = tf.math.reduce_sum(stacked * weights[..., tf.newaxis, :], axis=-1)
    remaining = iter(tf.unstack(sums, axis=-1))
    return [[next(remaining) for _ in ts] for ts in lists]
