"""Noise that belongs to a row: a function of its seed and of a stream.

A row is drawn by the counter-based generator Philox4x32-10: the key is the
row's seed, the upper half of the counter the number of the stream, and the
lower half counts within the row.  So a row's noise does not depend on the batch
around it, and `nvae_tf.export.beside` draws the same with NumPy.

Streams 0 to L-1 are the latent groups, top-down; those of the pixels follow
(`pixel_noise_specs`).
"""

import typing
from collections.abc import Sequence

import tensorflow as tf

from nvae_tf.config import ModelConfig

__all__ = [
    "NoiseSpec",
    "normal_rows",
    "pixel_noise",
    "pixel_noise_specs",
    "truncated",
    "uniform_rows",
]

_PHILOX = 1  # The generator's number in `tf.raw_ops`.


class NoiseSpec(typing.NamedTuple):
    """Noise that a draw of pixels takes.

    Attributes:
      name: of the argument.
      kind: "uniform" on [0, 1) or "normal".
      shape: of one row.
      stream: number of its stream.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    stream: int


def normal_rows(seeds, shapes: Sequence[Sequence[int]], first_stream=0):
    """Standard Normal noise.

    Args:
      seeds: int64 `[B]`.
      shapes: shapes of a row's tensors; tensor i comes from stream
        `first_stream + i`.
      first_stream: int.

    Returns:
      A list of float32 tensors `[B, *shape]`.
    """
    draw = tf.raw_ops.StatelessRandomNormalV2
    return _rows(draw, seeds, shapes, first_stream)


def uniform_rows(seeds, shapes: Sequence[Sequence[int]], first_stream=0):
    """Noise uniform on [0, 1); see `normal_rows`."""
    draw = tf.raw_ops.StatelessRandomUniformV2
    return _rows(draw, seeds, shapes, first_stream)


def pixel_noise_specs(config: ModelConfig) -> list[NoiseSpec]:
    """The noise that a draw of pixels takes, besides that of the latents.

    Empty for the Bernoulli, whose mean image exports show, as the paper does.
    """
    size = (config.image_size, config.image_size)
    stream = config.num_groups
    if config.likelihood == "mixture":
        return [
            NoiseSpec(
                "u_component", "uniform", (*size, config.num_mixtures), stream
            ),
            NoiseSpec(
                "u_value", "uniform", (*size, config.image_channels), stream + 1
            ),
        ]
    if config.likelihood == "normal":
        shape = (*size, config.image_channels)
        return [NoiseSpec("eps_pixel", "normal", shape, stream)]
    return []


def pixel_noise(seeds, specs: Sequence[NoiseSpec]) -> list:
    """Tensors `[B, *shape]` of `specs` for int64 seeds `[B]`."""
    draws = {"normal": normal_rows, "uniform": uniform_rows}
    return [
        draws[spec.kind](seeds, [spec.shape], spec.stream)[0] for spec in specs
    ]


def truncated(eps, bound):
    """The standard Normal restricted to `|eps| <= bound`.

    The noise is taken to the quantile of the restricted distribution that it
    had in the whole one.  So nothing is drawn again: the result is a monotone
    function of `eps`, and a row keeps what identifies it at any bound.

    Args:
      eps: float32 tensor of any shape, standard Normal.
      bound: positive number.

    Returns:
      float32, same shape.
    """
    # In float64, and by symmetry on the lower half only, where the quantile
    # function loses no digits.
    size = -tf.abs(tf.cast(eps, tf.float64))
    lowest = _cdf(-tf.cast(bound, tf.float64))
    quantile = lowest + (1.0 - 2.0 * lowest) * _cdf(size)
    limited = tf.math.ndtri(quantile)
    return tf.cast(tf.sign(tf.cast(eps, tf.float64)) * -limited, tf.float32)


def _cdf(x):
    """Of the standard Normal, float64."""
    return 0.5 * tf.math.erfc(-x * tf.cast(0.5, x.dtype) ** 0.5)


def _rows(draw, seeds, shapes, first_stream):
    keys = tf.bitcast(tf.cast(seeds, tf.int64), tf.uint64)

    def row(key):
        return [
            draw(
                shape=list(shape),
                key=key[None],
                counter=tf.constant([0, first_stream + i], tf.uint64),
                alg=_PHILOX,
            )
            for i, shape in enumerate(shapes)
        ]

    return tf.map_fn(
        row,
        keys,
        fn_output_signature=[tf.TensorSpec(shape) for shape in shapes],
    )
