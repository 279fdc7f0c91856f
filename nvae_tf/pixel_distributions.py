"""The discretised logistic mixture, and what all image distributions share.

Images are NHWC floats in [0, 1]; colour distributions work on [-1, 1] inside.
The event of every distribution is a whole image `[H, W, C]`, so `log_prob(x)`
is one number per image, in nats. All of them offer

- `log_prob_map(x)`, `[..., H, W]`: the same before the sum over pixels, for
  losses that leave part of the image out (channels are summed). Images of
  another shape are a ValueError, integers a TypeError;
- `mean()`, `[..., H, W, C]`: the image to show for these parameters;
- `sample(seed=...)`, `[..., H, W, C]`: a draw;
- `num_parameters(...)`: the channels that the decoder must put out.

Arithmetic is float32 whatever the dtype of the inputs. Everything but
`sample(seed=...)` uses only operations that also exist in ONNX, so that an
export can score images, and draw them from noise which it is given.

`nvae_tf.distributions` has the other distributions and a factory for all.
"""

import functools
import math

import tensorflow as tf
import tensorflow_probability as tfp

__all__ = [
    "DiscretizedLogisticMixture",
    "PixelDistribution",
    "check_channels",
    "check_images",
    "quantize",
    "to_symmetric",
    "to_unit",
]

tfd = tfp.distributions

# The standard deviation of this log-scale is a fifth of a level at 8 bits:
# narrower logistics would gain nothing and make gradients steep.
_MIN_LOG_SCALE = -7.0
# A bin of less probability than this is priced by the density at its centre.
_MIN_BIN_MASS = 1e-5
# Beyond these points of [-1, 1] a bin takes all of the tail.
_LEFT_EDGE, _RIGHT_EDGE = -0.999, 0.99
# Uniform noise keeps this distance from 0 and 1, where logarithms diverge.
_UNIFORM_MARGIN = 1e-5


def quantize(x, num_bits):
    """Rounds images down to `num_bits` bits per channel.

    Args:
      x: floating-point tensor of any shape, in [0, 1]. Float32 for exact
        levels: half precision cannot tell neighbouring 8-bit ones apart.
      num_bits: int, 1 to 8.

    Returns:
      `floor(255 x / 2^(8 - num_bits)) / (2^num_bits - 1)`, float32, with
      values from 0 to 1 in steps of `1 / (2^num_bits - 1)`.

    Raises:
      ValueError: if `num_bits` is out of range.
      TypeError: if `x` holds integers.
    """
    _check_bits(num_bits)
    # The factor is 255 times a power of two: for x = k / 255 the product
    # rounds to the exact level and the floor does not lose one.
    level = tf.math.floor(_as_float32(x) * (255.0 / 2 ** (8 - num_bits)))
    return level / (2.0**num_bits - 1.0)


def to_symmetric(x):
    """Brings [0, 1] to [-1, 1]."""
    return 2.0 * x - 1.0


def to_unit(x):
    """Clamps to [-1, 1] and brings that to [0, 1]."""
    return 0.5 * tf.clip_by_value(x, -1.0, 1.0) + 0.5


def check_channels(num_channels):
    """Raises a ValueError unless `num_channels` is positive."""
    if num_channels < 1:
        raise ValueError(f"num_channels must be positive, got {num_channels}.")


def check_images(x, event_shape):
    """Float32 images of a given shape; another must not silently broadcast.

    Args:
      x: floating-point tensor `[..., H, W, C]`.
      event_shape: `tf.TensorShape` `[H, W, C]`.

    Returns:
      `x` in float32.

    Raises:
      TypeError: if `x` holds integers.
      ValueError: if the shape of `x` does not end in `event_shape`.
    """
    x = _as_float32(x)
    if not x.shape[-3:].is_compatible_with(event_shape):
        raise ValueError(
            f"Images of shape {x.shape} were given to a distribution over "
            f"images of shape {event_shape}."
        )
    return x


def _as_float32(x):
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise TypeError(
            f"Images must be floats in [0, 1], got {x.dtype.name}; divide "
            "8-bit images by 255."
        )
    return tf.cast(x, tf.float32)


def _check_bits(num_bits):
    if num_bits not in range(1, 9):
        raise ValueError(f"num_bits must be 1 to 8, got {num_bits}.")


def sum_pixels(values, padding):
    """Sums `[..., H, W]` over the pixels inside the padding."""
    if padding:
        inside = slice(padding, -padding)
        values = values[..., inside, inside]
    return tf.math.reduce_sum(values, axis=[-2, -1])


class PixelDistribution(tfd.Distribution):
    """Base of distributions over images with parameters `[..., H, W, P]`.

    Subclasses define `_log_prob_map(x)` for checked float32 images, `_mean`
    and `_sample_n`.

    Args:
      params: floating-point tensor `[..., H, W, P]`, P static.
      num_channels: int, C of the images.
      block_size: int, of which P must be a multiple.
      padding: int, pixels on every side that `log_prob` leaves out.
      parameters: dict, the arguments of the subclass.
      name: prefix of the operations' names.

    Raises:
      ValueError: if `params` is not of such a shape.
    """

    def __init__(
        self, params, num_channels, block_size, padding, parameters, name
    ):
        with tf.name_scope(name) as name:
            self._params = tf.cast(params, tf.float32)
            shape = self._params.shape
            if shape.rank is None or shape.rank < 3 or shape[-1] is None:
                raise ValueError(
                    f"{type(self).__name__} needs parameters of shape "
                    f"[..., H, W, P] with P known, got {shape}."
                )
            if shape[-1] == 0 or shape[-1] % block_size:
                raise ValueError(
                    f"{type(self).__name__} over {num_channels} image "
                    f"channels needs a multiple of {block_size} parameters "
                    f"per pixel, got {shape[-1]}."
                )
            self._num_channels = num_channels
            self._padding = padding
            super().__init__(
                dtype=tf.float32,
                reparameterization_type=tfd.NOT_REPARAMETERIZED,
                validate_args=False,
                allow_nan_stats=True,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {"params": tfp.util.ParameterProperties(event_ndims=3)}

    @property
    def params(self):
        """The parameters, float32, `[..., H, W, P]`."""
        return self._params

    @property
    def num_channels(self):
        """Number of image channels, C."""
        return self._num_channels

    def log_prob_map(self, x):
        """Log-probability (or density) of every pixel, its channels together.

        Args:
          x: floating-point tensor `[..., H, W, C]` in [0, 1].

        Returns:
          float32 `[..., H, W]`, nats.

        Raises:
          TypeError: if `x` holds integers.
          ValueError: if `x` is not of the event's shape.
        """
        with tf.name_scope("log_prob_map"):
            return self._log_prob_map(check_images(x, self.event_shape))

    @property
    def padding(self):
        """Pixels on every side that `log_prob` leaves out."""
        return self._padding

    def _log_prob(self, x):
        return sum_pixels(self.log_prob_map(x), self._padding)

    def _event_shape(self):
        return self._params.shape[-3:-1].concatenate([self._num_channels])

    def _event_shape_tensor(self):
        return tf.concat(
            [tf.shape(self._params)[-3:-1], [self._num_channels]], axis=0
        )

    def _noise_shape(self, num_samples, depth):
        # [num_samples, ..., H, W, depth]
        return tf.concat(
            [[num_samples], tf.shape(self._params)[:-1], [depth]], axis=0
        )


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
        _check_bits(num_bits)
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
