"""PNG files as inputs of a graph, each row by itself.

A decoder fails for a file that is broken, and with it the batch that strangers'
requests were merged into; and it believes a header, which in some bytes claims
2**29 pixels.  Here headers are read before anything is decoded, and what cannot
be decoded is told of its row alone.

Standard operations of TensorFlow: nothing need be installed beside a server.
"""

from collections.abc import Sequence

import tensorflow as tf

from nvae_tf.export.served.row_status import RowStatus

__all__ = ["CHANNELS", "decode_rows"]

# Of PNG, https://www.w3.org/TR/png-3/#11IHDR: the signature, and a chunk of 13
# bytes by the name IHDR, with width, height, bits and the kind of colours.
_SIGNATURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_WIDTH, _HEIGHT, _BITS, _COLOURS, _END = 16, 20, 24, 25, 33
# The kinds of colours of so many channels: grey; RGB, or a palette of it; RGBA.
_KINDS = {1: (0,), 3: (2, 3), 4: (6,)}

# Of the images that there are PNG files of.
CHANNELS = tuple(_KINDS)


def decode_rows(contents: tf.Tensor, shape: Sequence[int]):
    """Reads PNG files of one size.

    Args:
      contents: strings `[B]`.
      shape: `(H, W, C)` of the images; C is one of `CHANNELS`.

    Returns:
      `(images, status)`: uint8 `[B, H, W, C]`, zeros where there is no image,
      and int32 `[B]`, see `RowStatus`.
    """
    status = _check_headers(contents, shape)
    images, is_decoded = _decode(contents, status, shape)
    broken = (status == RowStatus.SERVED) & ~is_decoded
    return images, tf.where(broken, int(RowStatus.NOT_PNG), status)


def _check_headers(contents, shape):
    """The status of each row, by its header alone; int32 `[B]`."""
    # Long enough to be cut, whatever there is.
    heads = tf.strings.join(
        [tf.strings.substr(contents, 0, _END), b"\0" * _END]
    )
    heads = tf.io.decode_raw(tf.strings.substr(heads, 0, _END), tf.uint8)
    heads = tf.cast(tf.reshape(heads, [-1, _END]), tf.int64)
    height, width, channels = shape

    def number(start):
        weights = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
        return tf.reduce_sum(heads[:, start : start + 4] * weights, axis=1)

    signature = tf.constant(list(_SIGNATURE), tf.int64)
    is_png = tf.reduce_all(heads[:, : len(_SIGNATURE)] == signature, axis=1)
    is_png &= tf.strings.length(contents) > _END
    fits = (number(_WIDTH) == width) & (number(_HEIGHT) == height)
    kinds = tf.constant(_KINDS[channels], tf.int64)
    has_channels = tf.reduce_any(heads[:, _COLOURS, None] == kinds, axis=1)
    has_channels &= heads[:, _BITS] <= 8
    status = tf.zeros_like(heads[:, 0], tf.int32)
    # The last word is that of the first check.
    for holds, code in (
        (has_channels, RowStatus.WRONG_CHANNELS),
        (fits, RowStatus.WRONG_SIZE),
        (is_png, RowStatus.NOT_PNG),
    ):
        status = tf.where(holds, status, int(code))
    return status


def _decode(contents, status, shape):
    """Images, and which there are: uint8 `[B, H, W, C]` and bool `[B]`."""
    count = tf.shape(contents)[0]
    chosen = tf.where(status == RowStatus.SERVED)[:, 0]

    def decode(row):
        image = tf.io.decode_png(contents[row], channels=shape[-1])
        return row, tf.ensure_shape(image, shape)

    # Of all that graphs have, only data sets go on after an error.
    images = tf.data.Dataset.from_tensor_slices(chosen)
    images = images.map(decode).ignore_errors()
    # There is always one, which belongs to no row.
    none = tf.cast(count, tf.int64), tf.zeros(shape, tf.uint8)
    images = images.concatenate(tf.data.Dataset.from_tensors(none))
    images = images.batch(tf.cast(count, tf.int64) + 1)
    rows, images = images.get_single_element()
    size = tf.cast(count, tf.int64) + 1
    images = tf.scatter_nd(
        rows[:, None],
        images,
        tf.concat([[size], tf.constant(shape, tf.int64)], 0),
    )
    found = tf.scatter_nd(rows[:, None], tf.ones_like(rows), [size])
    return tf.ensure_shape(images[:-1], [None, *shape]), found[:-1] > 0
