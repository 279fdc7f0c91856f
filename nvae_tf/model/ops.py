"""The numerical operations under the layers, with gradients of their own.

Pure functions of tensors, NHWC.  Where TensorFlow's own gradient of a formula
keeps tensors it could recompute, builds many more graph nodes than the
mathematics needs, or is slow on CPUs, the gradient is written out here.
"""

import numpy as np
import tensorflow as tf

__all__ = [
    "ACTIVATIONS",
    "add_bias",
    "convolve",
    "depthwise_convolve",
    "downsample_phases",
    "mean_over_space",
    "upsample_bilinear",
    "upsample_nearest",
    "weight_norm",
]

WEIGHT_NORM_EPSILON = 1e-5
# Of the gradient to a depthwise kernel: elements of the tensors that one
# operation sees, and how many operations there are at most.
_CACHED_ELEMENTS = 3 * 2**14
_MOST_PIECES = 32


def _swish(x):
    return x * tf.math.sigmoid(x)


def _swish_grad(x, upstream):
    gate = tf.math.sigmoid(x)
    # gate + x gate (1 - gate)
    return upstream * (gate + tf.raw_ops.SigmoidGrad(y=gate, dy=x))


def _elu_grad(x, upstream):
    return tf.raw_ops.EluGrad(gradients=upstream, outputs=tf.nn.elu(x))


# name -> (function, gradient as a function of (input, upstream gradient))
ACTIVATIONS = {
    "linear": (lambda x: x, lambda x, upstream: upstream),
    "swish": (_swish, _swish_grad),
    "elu": (tf.nn.elu, _elu_grad),
}


@tf.custom_gradient
def weight_norm(v, gain):
    """Weight normalisation: `exp(gain) * v / (||v|| + 1e-5)`.

    Args:
      v: float32 `[*stack, kh, kw, c_in, c_out]`; the norm is taken per output
        channel.
      gain: float32 `[*stack, c_out]`, the logarithm of the kernel's norm.

    Returns:
      float32, the shape of `v`.
    """
    rank = v.shape.rank
    axes = [rank - 4, rank - 3, rank - 2]
    norm = tf.sqrt(tf.reduce_sum(tf.square(v), axes, keepdims=True))
    scale = tf.exp(_to_kernel_rank(gain, rank)) / (norm + WEIGHT_NORM_EPSILON)

    def grad(upstream):
        # From `v`, a variable, and not from the result: nothing is kept.
        along = scale * tf.reduce_sum(upstream * v, axes, keepdims=True)
        shrink = tf.math.divide_no_nan(
            along, norm * (norm + WEIGHT_NORM_EPSILON)
        )
        d_v = upstream * scale - v * shrink
        return d_v, tf.reshape(along, gain.shape)

    return v * scale, grad


def _to_kernel_rank(gain, rank: int):
    """`[*stack, c_out]` -> `[*stack, 1, 1, 1, c_out]`."""
    shape = gain.shape.as_list()
    return tf.reshape(gain, [*shape[: rank - 4], 1, 1, 1, shape[-1]])


def convolve(x, kernel, *, strides=1, dilation=1, groups=1, for_cpu=False):
    """2-D convolution, zero-padded by `(k - 1) / 2 * dilation` on every side.

    The padding is symmetric at stride 2 too, where TensorFlow's "SAME" is not.

    Args:
      x: `[B, H, W, c_in]`.
      kernel: `[kh, kw, c_in / groups, c_out]`, odd kh and kw, the dtype of x.
      strides: 1 or 2, in both directions.
      dilation: 1 or 2, in both directions.
      groups: channel groups that do not see each other.
      for_cpu: whether gradients that are written for CPUs are worth it.

    Returns:
      `[B, ceil(H / strides), ceil(W / strides), c_out]`.
    """
    if dilation == 2:
        return _convolve_dilated(x, kernel, strides=strides)
    if groups > 1:
        # Grouped convolutions have no gradient on CPUs.
        pieces = zip(
            tf.split(x, groups, axis=-1),
            tf.split(kernel, groups, axis=-1),
            strict=True,
        )
        return tf.concat(
            [
                convolve(part, k, strides=strides, for_cpu=for_cpu)
                for part, k in pieces
            ],
            axis=-1,
        )
    if kernel.shape[:2] == [1, 1] and strides == 1 and for_cpu:
        return _convolve_pointwise(x, kernel)
    return tf.nn.conv2d(x, kernel, strides, _padding(kernel.shape[0], strides))


@tf.custom_gradient
def _convolve_pointwise(x, kernel):
    """Kernel `[1, 1, c_in, c_out]`, stride 1; gradients as matrix products.

    On CPUs, products take half as long as the gradient of a convolution to its
    kernel, and are no slower than the one to its input.
    """
    *_, c_in, c_out = kernel.shape

    def grad(upstream):
        rows = tf.reshape(upstream, [-1, c_out])
        matrix = tf.reshape(kernel, [c_in, c_out])
        d_x = tf.linalg.matmul(rows, matrix, transpose_b=True)
        d_kernel = tf.linalg.matmul(
            tf.reshape(x, [-1, c_in]), rows, transpose_a=True
        )
        return (
            tf.reshape(d_x, [-1, *x.shape[1:]]),
            tf.reshape(d_kernel, kernel.shape),
        )

    return tf.nn.conv2d(x, kernel, 1, "VALID"), grad


def add_bias(x, bias, *, for_cpu=False):
    """`x + bias`, like `tf.nn.bias_add`.

    Args:
      x: `[..., C]`.
      bias: `[C]`, the dtype of x.
      for_cpu: see `convolve`.
    """
    if for_cpu:
        return _add_bias_on_cpu(x, bias)
    return tf.nn.bias_add(x, bias)


@tf.custom_gradient
def _add_bias_on_cpu(x, bias):
    """Its own gradient is left to that of the convolution before it.

    Which that slows down by more than a sum of its own takes.
    """

    def grad(upstream):
        rows = tf.reshape(upstream, [-1, bias.shape[0]])
        # Sums of many half-precision numbers would be off.
        d_bias = tf.reduce_sum(tf.cast(rows, tf.float32), axis=0)
        return upstream, tf.cast(d_bias, bias.dtype)

    return tf.nn.bias_add(x, bias), grad


def _padding(size: int, strides: int):
    if strides == 1:
        return "SAME"
    pad = [(size - 1) // 2] * 2
    return [[0, 0], pad, pad, [0, 0]]


def _convolve_dilated(x, kernel, *, strides: int):
    """Dilation 2, as plain convolutions of the image's four pixel phases.

    CPUs have no gradient for dilated convolutions.  With dilation 2, outputs
    of one phase (row and column parity) depend on inputs of the same phase
    only; at stride 2 only the first phase is kept.
    """
    if strides == 2:
        return tf.nn.conv2d(x[:, ::2, ::2, :], kernel, 1, "SAME")
    _, height, width, _ = x.shape
    margin = [[0, height % 2], [0, width % 2]]
    phases = tf.space_to_batch(x, [2, 2], margin)
    return tf.batch_to_space(
        tf.nn.conv2d(phases, kernel, 1, "SAME"), [2, 2], margin
    )


def depthwise_convolve(x, kernel, *, strides=1, for_cpu=False):
    """Depthwise convolution with symmetric zero padding.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, k, 1, C]`, odd k, the dtype of x.
      strides: 1 or 2.
      for_cpu: see `convolve`.

    Returns:
      `[B, ceil(H / strides), ceil(W / strides), C]`.
    """
    size, _, _, channels = kernel.shape
    kernel = tf.reshape(kernel, [size, size, channels, 1])
    if strides == 1 and for_cpu:
        return _depthwise_same(x, kernel)
    return tf.nn.depthwise_conv2d(
        x, kernel, [1, strides, strides, 1], _padding(size, strides)
    )


@tf.custom_gradient
def _depthwise_same(x, kernel):
    """Stride 1, kernel `[k, k, C, 1]`; both gradients as forward passes.

    For CPUs, where the forward pass of a depthwise convolution is vectorised
    over channels and its own gradients are not.  The gradient to the input is
    the convolution with the kernel turned around.  The gradient to the kernel
    is a convolution too: of the padded input with the upstream gradient as
    the kernel, every example's channels apart.
    """
    size, _, channels, _ = kernel.shape

    def grad(upstream):
        d_x = _depthwise(upstream, tf.reverse(kernel, [0, 1]), "SAME")
        # Not before the backward pass gets here: in the forward pass there
        # is nothing but `x` to wait for, and all layers' copies would pile up.
        with tf.control_dependencies([upstream]):
            pixels = tf.identity(x)
        d_kernel = _depthwise_kernel_grad(pixels, upstream, size)
        return d_x, tf.reshape(d_kernel, [size, size, channels, 1])

    return _depthwise(x, kernel, "SAME"), grad


def _depthwise_kernel_grad(x, upstream, size: int):
    """`[size, size, C]`: x convolved with `upstream`, summed over the batch.

    As many examples at a time as the caches like, their channels side by side.
    """
    batch, height, width, channels = x.shape
    if batch is None:
        # Of saved models, which carry gradients but are not trained.
        return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=x,
            filter_sizes=[size, size, channels, 1],
            out_backprop=upstream,
            strides=[1, 1, 1, 1],
            padding="SAME",
        )
    count = _examples_at_a_time(batch, height * width * channels)

    def side_by_side(values):
        values = tf.reshape(values, [-1, count, height, width, channels])
        values = tf.transpose(values, [0, 2, 3, 1, 4])
        return tf.reshape(values, [-1, height, width, count * channels])

    margin = [size // 2] * 2
    padded = tf.pad(side_by_side(x), [[0, 0], margin, margin, [0, 0]])
    images = tf.split(padded, batch // count)
    kernels = tf.unstack(side_by_side(upstream)[..., None])
    total = tf.add_n(
        [
            _depthwise(image, kernel, "VALID")
            for image, kernel in zip(images, kernels, strict=True)
        ]
    )  # [1, size, size, count * C]
    total = tf.reshape(total, [size, size, count, channels])
    return tf.reduce_sum(total, axis=2)


def _examples_at_a_time(batch: int, elements: int) -> int:
    """A divisor of the batch: so many examples of so many elements."""
    wanted = max(_CACHED_ELEMENTS // elements, -(-batch // _MOST_PIECES), 1)
    return next(
        n for n in range(min(wanted, batch), batch + 1) if not batch % n
    )


def _depthwise(x, kernel, padding):
    return tf.raw_ops.DepthwiseConv2dNative(
        input=x, filter=kernel, strides=[1, 1, 1, 1], padding=padding
    )


def mean_over_space(x):
    """`[B, H, W, C]` -> `[B, C]`."""
    if x.dtype != tf.float16:
        return tf.reduce_mean(x, axis=[1, 2])
    # In two steps: float16 has no number as large as 256 x 256, by which mean
    # and gradient are divided.
    return tf.reduce_mean(tf.reduce_mean(x, axis=1), axis=1)


def downsample_phases(x):
    """The image's four phases, shifted by (0,0), (1,1), (0,1), (1,0).

    Args:
      x: `[B, H, W, C]`, H and W even.

    Returns:
      Four tensors `[B, H/2, W/2, C]`: `x[:, r::2, c::2, :]`.
    """
    top_left, top_right, bottom_left, bottom_right = tf.split(
        tf.nn.space_to_depth(x, 2), 4, axis=-1
    )
    return top_left, bottom_right, top_right, bottom_left


@tf.custom_gradient
def upsample_nearest(x):
    """`[B, H, W, C]` -> `[B, 2H, 2W, C]`, every pixel four times."""
    _, height, width, _ = x.shape

    def grad(upstream):
        # TensorFlow's own gradient does not compile with XLA.
        return 4 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")

    y = tf.raw_ops.ResizeNearestNeighbor(images=x, size=[2 * height, 2 * width])
    return y, grad


@tf.custom_gradient
def upsample_bilinear(x):
    """Doubles the resolution, bilinearly, the corners aligned.

    Output pixel i stands at input coordinate `i * (n - 1) / (2n - 1)`.

    Args:
      x: `[B, H, W, C]`.

    Returns:
      `[B, 2H, 2W, C]`.
    """
    _, height, width, channels = x.shape
    y = tf.raw_ops.ResizeBilinear(
        images=x, size=[2 * height, 2 * width], align_corners=True
    )

    def grad(upstream):
        # A fixed linear map per axis; TensorFlow's own gradient is slower.
        rows = tf.constant(_bilinear_matrix(height).T, x.dtype)
        columns = tf.constant(_bilinear_matrix(width).T, x.dtype)
        d_x = tf.reshape(upstream, [-1, 2 * width, channels])
        d_x = tf.linalg.matmul(columns, d_x)  # [B*2H, W, C]
        d_x = tf.reshape(d_x, [-1, 2 * height, width * channels])
        d_x = tf.linalg.matmul(rows, d_x)  # [B, H, W*C]
        return tf.reshape(d_x, [-1, height, width, channels])

    return tf.cast(y, x.dtype), grad


def _bilinear_matrix(size: int) -> np.ndarray:
    """`[2 * size, size]`: weights of the inputs in every output."""
    position = np.arange(2 * size) * (size - 1) / (2 * size - 1)
    distance = np.abs(position[:, None] - np.arange(size)[None, :])
    return np.maximum(0.0, 1.0 - distance)
