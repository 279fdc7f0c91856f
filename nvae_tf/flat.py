"""Many tensors as one vector, and back."""

import tensorflow as tf

__all__ = ["pack", "unpack"]


def pack(tensors):
    """A list of tensors of one dtype -> a vector `[N]`."""
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], axis=0)


def unpack(vector, shapes):
    """A vector `[N]` -> tensors of these static shapes, in `pack`'s order."""
    sizes = [shape.num_elements() for shape in shapes]
    pieces = tf.split(vector, sizes)
    return [
        tf.reshape(piece, shape)
        for piece, shape in zip(pieces, shapes, strict=True)
    ]
