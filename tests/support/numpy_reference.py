"""The model's operations once more, in NumPy and float64, as defined.

Slow and plain, from the definitions alone; nothing here is shared with the
package.  Images are NHWC, kernels HWIO.
"""

from __future__ import annotations

import numpy as np


def sigmoid(t):
    return np.exp(-np.logaddexp(0.0, -t))


def swish(t):
    return t * sigmoid(t)


def elu(t):
    return np.where(t > 0, t, np.expm1(np.minimum(t, 0.0)))


ACTIVATIONS = {"linear": lambda t: t, "swish": swish, "elu": elu}


def convolve(x, kernel, strides=1, dilation=1, groups=1):
    """Zeros on every side, `(k - 1) / 2 * dilation` of them."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size, _, c_in, c_out = kernel.shape
    pad = (size - 1) // 2 * dilation
    padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    height, width = (-(-n // strides) for n in x.shape[1:3])
    y = np.zeros((len(x), height, width, c_out))
    for row, column in np.ndindex(size, size):
        top, left = row * dilation, column * dilation
        taps = padded[:, top:, left:][:, ::strides, ::strides]
        taps = taps[:, :height, :width]
        for group in range(groups):
            ins = slice(group * c_in, (group + 1) * c_in)
            outs = slice(group * c_out // groups, (group + 1) * c_out // groups)
            y[..., outs] += taps[..., ins] @ kernel[row, column][:, outs]
    return y


def weight_norm(v, gain):
    norm = np.sqrt((np.asarray(v, np.float64) ** 2).sum(axis=(0, 1, 2)))
    return np.exp(np.asarray(gain, np.float64)) * v / (norm + 1e-5)


def batch_norm(x, gamma, beta, activation, axis=(0, 1, 2)):
    """By the batch's own moments, the variance biased."""
    x = np.asarray(x, np.float64)
    mean, variance = x.mean(axis), x.var(axis)
    y = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    return ACTIVATIONS[activation](y)


def moving_batch_norm(x, gamma, beta, mean, variance, activation):
    y = (np.asarray(x, np.float64) - mean) / np.sqrt(variance + 1e-5)
    return ACTIVATIONS[activation](y * gamma + beta)


def upsample_nearest(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def upsample_bilinear(x):
    """Corners aligned: the first and last pixels keep their values."""
    for axis in (1, 2):
        size = x.shape[axis]
        positions = np.linspace(0, size - 1, 2 * size)
        x = np.apply_along_axis(
            lambda line, at=positions: np.interp(at, range(len(line)), line),
            axis,
            x,
        )
    return x


def squeeze_excite(x, squeeze, squeeze_bias, excite, excite_bias):
    h = np.maximum(x.mean(axis=(1, 2)) @ squeeze + squeeze_bias, 0)
    return sigmoid(h @ excite + excite_bias)[:, None, None, :]
