"""From stored pixels to what the model sees: TensorFlow operations.

Every random draw is a function of a key per image, `[seed, index]`, so it does
not depend on the batch, the worker or what was read before.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from nvae_tf.config import Config

__all__ = ["make_preprocess", "preprocess"]

# Distinct draws from one key: it is xored with the purpose.
_BINARIZE = 0x62696E
_FLIP = 0x666C70


def preprocess(
    images: tf.Tensor,
    keys: tf.Tensor,
    *,
    bits_in: int,
    bits_out: int,
    padding: int = 0,
    binarize: bool = False,
    flip: bool = False,
) -> tf.Tensor:
    """Quantises or binarises, mirrors and pads images.

    Quantisation is `floor(v / 2^(bits_in - bits_out)) / (2^bits_out - 1)`;
    binarisation draws each pixel from a Bernoulli of its intensity.

    Args:
      images: integer `[B, H, W, C]`, values below `2^bits_in`.
      keys: int64 `[B, 2]`, one key per image.
      bits_in: bits per channel of `images`.
      bits_out: bits per channel of the result (ignored when binarising).
      padding: zero pixels added on every side.
      binarize: draw black or white pixels.
      flip: mirror left-right with probability one half.

    Returns:
      float32 `[B, H + 2 * padding, W + 2 * padding, C]` in [0, 1].
    """
    if binarize:
        shape = tf.shape(images)[1:]
        noise = _uniform(keys, _BINARIZE, shape)
        noise.set_shape(images.shape)
        intensity = tf.cast(images, tf.float32) / float(2**bits_in - 1)
        values = tf.cast(noise < intensity, tf.float32)
    else:
        values = _quantize(tf.cast(images, tf.int32), bits_in, bits_out)
    if flip:
        mirrored = _uniform(keys, _FLIP, [])[:, None, None, None] < 0.5
        values = tf.where(mirrored, values[:, :, ::-1], values)
    if padding:
        sides = [padding, padding]
        values = tf.pad(values, [[0, 0], sides, sides, [0, 0]])
    return values


def make_preprocess(
    config: Config, bits_in: int, *, training: bool
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Compiles `preprocess` for a configuration.

    Args:
      config: its `model` gives size, channels, padding and bits; its `data`
        says whether to binarise, and in training whether to mirror.
      bits_in: bits per channel of the source.
      training: whether random mirroring applies.

    Returns:
      `(images [B, H, W, C], keys [B, 2]) -> float32 [B, Hp, Wp, C]`.
    """
    model = config.model
    shape = [None, model.image_size, model.image_size, model.image_channels]
    dtype = tf.uint8 if bits_in <= 8 else tf.uint16

    @tf.function(
        input_signature=[
            tf.TensorSpec(shape, dtype),
            tf.TensorSpec([None, 2], tf.int64),
        ]
    )
    def compiled(images, keys):
        return preprocess(
            images,
            keys,
            bits_in=bits_in,
            bits_out=model.num_bits,
            padding=model.padding,
            binarize=config.data.binarize,
            flip=config.data.flip and training,
        )

    # Traced here, once: the reading threads would otherwise each begin to.
    with tf.device("CPU"):
        return compiled.get_concrete_function()


def _quantize(values: tf.Tensor, bits_in: int, bits_out: int) -> tf.Tensor:
    top_in, top_out = 2**bits_in - 1, 2**bits_out - 1
    if bits_in >= bits_out:
        levels = tf.bitwise.right_shift(values, bits_in - bits_out)
    else:
        # Fewer bits than the model has: spread over its whole range.
        levels = (values * (2 * top_out) + top_in) // (2 * top_in)
    return tf.cast(levels, tf.float32) / float(top_out)


def _uniform(keys: tf.Tensor, purpose: int, shape) -> tf.Tensor:
    """U[0, 1) of `shape` for each key: `[B] + shape`."""
    keys = tf.bitwise.bitwise_xor(keys, tf.constant([purpose, 0], tf.int64))
    return tf.map_fn(
        # Philox is named so that all devices draw the same numbers.
        lambda key: tf.random.stateless_uniform(shape, key, alg="philox"),
        keys,
        fn_output_signature=tf.float32,
    )
