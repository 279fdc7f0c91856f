"""What all distributions over images share.

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

The distributions themselves, and a factory for all, can be had from
`nvae_tf.distributions.likelihoods`.
"""

import tensorflow as tf
import tensorflow_probability as tfp

__all__ = [
    "LogProbByPixel",
    "PixelDistribution",
    "check_bits",
    "check_channels",
    "check_images",
    "quantize",
    "to_symmetric",
    "to_unit",
]

tfd = tfp.distributions


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
    check_bits(num_bits)
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


def check_bits(num_bits):
    """Raises a ValueError unless `num_bits` is 1 to 8."""
    if num_bits not in range(1, 9):
        raise ValueError(f"num_bits must be 1 to 8, got {num_bits}.")


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


class LogProbByPixel:
    """`log_prob` as the sum of `log_prob_map` over the pixels that count.

    A mixin, to stand before a `tfd.Distribution` over images `[H, W, C]`.
    Subclasses set `_padding` and define `_log_prob_map(x)` for checked float32
    images.
    """

    @property
    def padding(self):
        """Pixels on every side that `log_prob` leaves out."""
        return self._padding

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

    def _log_prob(self, x):
        values = self.log_prob_map(x)
        if self._padding:
            inside = slice(self._padding, -self._padding)
            values = values[..., inside, inside]
        return tf.math.reduce_sum(values, axis=[-2, -1])


class PixelDistribution(LogProbByPixel, tfd.Distribution):
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
