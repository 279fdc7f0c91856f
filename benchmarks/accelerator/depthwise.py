"""Depthwise convolutions as sums of shifted products.

An accelerator's library may take long for depthwise kernels and their
gradients; XLA makes one kernel of each of these sums.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf

from nvae_tf.model import ops

__all__ = ["by_shifts", "depthwise_convolve"]


@contextlib.contextmanager
def by_shifts(active: bool = True) -> Iterator[None]:
    """What is traced in the block has these instead of the model's own."""
    with contextlib.ExitStack() as stack:
        if active:
            stack.enter_context(
                mock.patch.object(ops, "depthwise_convolve", depthwise_convolve)
            )
        yield


def depthwise_convolve(x, kernel, *, strides=1, for_cpu=False):
    """See `nvae_tf.model.ops.depthwise_convolve`."""
    del for_cpu
    taps = tf.unstack(tf.reshape(kernel, [-1, kernel.shape[-1]]))
    if strides == 1:
        return _same(x, tf.stack(taps), kernel.shape[0])
    return _sum(_shifted(x, kernel.shape[0], strides), taps)


def _same(x, taps, size: int):
    """Stride 1; x `[B, H, W, C]`, taps `[size * size, C]`."""

    @tf.custom_gradient
    def convolve(x, taps):
        def grad(upstream):
            turned = tf.unstack(tf.reverse(taps, [0]))
            d_x = _sum(_shifted(upstream, size, 1), turned)
            d_taps = [
                tf.reduce_sum(
                    tf.cast(part * upstream, tf.float32), axis=[0, 1, 2]
                )
                for part in _shifted(x, size, 1)
            ]
            return d_x, tf.cast(tf.stack(d_taps), taps.dtype)

        return _sum(_shifted(x, size, 1), tf.unstack(taps)), grad

    return convolve(x, taps)


def _shifted(x, size: int, strides: int) -> list:
    """What each tap sees, `[B, ceil(H / strides), ...]`, row after row."""
    _, height, width, _ = x.shape
    pad = [(size - 1) // 2] * 2
    padded = tf.pad(x, [[0, 0], pad, pad, [0, 0]])
    return [
        padded[:, i : i + height : strides, j : j + width : strides]
        for i in range(size)
        for j in range(size)
    ]


def _sum(parts: list, taps: list):
    total = parts[0] * taps[0]
    for part, tap in zip(parts[1:], taps[1:], strict=True):
        total += part * tap
    return total
