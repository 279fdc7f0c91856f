"""Noise that belongs to a row: a function of its seed and of a stream.

A row is drawn by the counter-based generator Philox4x32-10: the key is the
row's seed, the upper half of the counter the number of the stream, and the
lower half counts within the row.  So a row's noise does not depend on the batch
around it, and `export.onnx_sampler` draws the same with NumPy.

Streams 0 to L-1 are the latent groups, top-down; `export.programs` lists those
of the pixels.
"""

from collections.abc import Sequence

import tensorflow as tf

__all__ = ["normal_rows", "uniform_rows"]

_PHILOX = 1  # The generator's number in `tf.raw_ops`.


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
