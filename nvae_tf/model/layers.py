"""Layers: convolutions, batch normalisation, squeeze-and-excitation."""

import functools
import math

import numpy as np
import tensorflow as tf

from nvae_tf.distribute import replicas
from nvae_tf.model import batch_norm, ops
from nvae_tf.model.pure_layer import Mode, PureLayer

__all__ = [
    "BatchNorm",
    "Conv2D",
    "Dense",
    "SqueezeExcite",
    "autoregressive_mask",
    "uniform_in_one",
]

BATCH_NORM_MOMENTUM = 0.95


class Conv2D(PureLayer):
    """Convolution with weight normalisation, as the authors' models have it.

    Input `[B, H, W, C]`, output `[B, H / strides, W / strides, filters]`.

    Args:
      filters: output channels.
      kernel_size: odd, both directions.
      strides: 1 or 2.
      dilation: 1 or 2.
      groups: channel groups; equal to `filters` and to the input's channels
        for a depthwise convolution.
      use_bias: whether there is a bias.
      weight_norm: whether the kernel is `exp(g) * v / ||v||`.
      mask: None, "causal" or "strictly_causal" for an autoregressive kernel.
      mirrored: the mask turned around in both spatial directions.
      gain: factor of the initial kernel under weight normalisation.
      data_dependent: choose bias and gain from the first batch, so that the
        output has mean 0 and a fifth of unit deviation.
      stack: see `PureLayer`.

    Attributes:
      for_cpu: whether to take the gradients that are written for CPUs; once
        built, whether the strategy's devices are some.
    """

    def __init__(
        self,
        filters,
        kernel_size=1,
        *,
        strides=1,
        dilation=1,
        groups=1,
        use_bias=True,
        weight_norm=True,
        mask=None,
        mirrored=False,
        gain=1.0,
        data_dependent=False,
        stack=None,
        **kwargs,
    ):
        super().__init__(stack=stack, **kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.dilation = dilation
        self.groups = groups
        self.use_bias = use_bias
        self.weight_norm = weight_norm
        self.mask = mask
        self.mirrored = mirrored
        self.gain = gain
        self.data_dependent = data_dependent

    def build(self, input_shape):
        """Creates `v`, `g` and `bias`."""
        channels = input_shape[-1] // self.groups
        size = self.kernel_size
        self.v = self.add_stacked("v", (size, size, channels, self.filters))
        self.g = self.bias = None
        if self.weight_norm:
            self.g = self.add_stacked("g", (self.filters,))
        if self.use_bias:
            self.bias = self.add_stacked("bias", (self.filters,))
        self.for_cpu = replicas.device_kind() == "CPU"
        self.built = True

    def initialize(self, seed):
        """`v` and bias uniform; `g` such that the kernel starts as `v`."""
        fan_in = math.prod(self.v.shape[-4:-1])
        limit = 1 / math.sqrt(fan_in)
        self.v.assign(_uniform(self.v.shape, seed, 0, limit))
        if self.use_bias:
            self.bias.assign(_uniform(self.bias.shape, seed, 1, limit))
        if self.weight_norm:
            norm = tf.norm(
                tf.reshape(
                    self._masked_v(), [*self._stack_shape(), -1, self.filters]
                ),
                axis=-2,
            )
            self.g.assign(tf.math.log(norm + 1e-2) + math.log(self.gain))

    def _stack_shape(self):
        return [] if self.stack is None else [self.stack]

    def _masked_v(self):
        v = tf.convert_to_tensor(self.v)
        if self.mask is None:
            return v
        return v * autoregressive_mask(
            tuple(self.v.shape[-4:]),
            depthwise=self.groups > 1,
            strict=self.mask == "strictly_causal",
            mirrored=self.mirrored,
        )

    def read_params(self, mode=Mode.INFERENCE):
        """`kernel` `[*stack, k, k, c_in, filters]`, and `bias` if any."""
        kernel = self._masked_v()
        if self.weight_norm:
            gain = tf.convert_to_tensor(self.g)
            if self._initializes(mode):
                gain = tf.zeros_like(gain)
            kernel = ops.weight_norm(kernel, gain)
        params = {"kernel": kernel}
        if self.use_bias:
            params["bias"] = tf.convert_to_tensor(self.bias)
        return params

    def _initializes(self, mode):
        return self.data_dependent and mode == Mode.INITIALIZATION

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        y = self.convolve(x, params["kernel"])
        if self._initializes(mode):
            return self._choose_gain(y)
        return self.add_bias(y, params), {}

    def convolve(self, x, kernel):
        """`x` convolved with a float32 kernel, without the bias."""
        kernel = tf.cast(kernel, x.dtype)
        if 1 < self.groups == self.filters:
            return ops.depthwise_convolve(
                x, kernel, strides=self.strides, for_cpu=self.for_cpu
            )
        return ops.convolve(
            x,
            kernel,
            strides=self.strides,
            dilation=self.dilation,
            groups=self.groups,
            for_cpu=self.for_cpu,
        )

    def add_bias(self, y, params):
        """`y` with the bias, if the layer has one."""
        if not self.use_bias:
            return y
        bias = tf.cast(params["bias"], y.dtype)
        return ops.add_bias(y, bias, for_cpu=self.for_cpu)

    def _choose_gain(self, y):
        """Data-dependent initialisation, of `y = conv(x, v / ||v||)`."""
        mean, variance, count = batch_norm.moments_of_all(
            tf.reshape(y, [-1, self.filters])
        )
        deviation = 5 * tf.sqrt(variance * count / (count - 1)) + 1e-5
        bias, gain = -mean / deviation, -tf.math.log(deviation)
        y = y * tf.cast(tf.exp(gain), y.dtype) + tf.cast(bias, y.dtype)
        return y, {"g": gain, "bias": bias}

    def apply_updates(self, updates):
        """Stores the data-dependent initial values."""
        if updates:
            self.g.assign(updates["g"])
            self.bias.assign(updates["bias"])


class BatchNorm(PureLayer):
    """Batch normalisation followed by an activation.

    The moving variance takes the unbiased batch variance, the normalisation
    itself the biased one; both are float32 whatever the input.

    Args:
      activation: "linear", "swish" or "elu".
      stack: see `PureLayer`.
    """

    def __init__(self, activation="linear", *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.activation = activation

    def build(self, input_shape):
        """Creates gamma, beta and the moving averages."""
        shape = (input_shape[-1],)
        self.gamma = self.add_stacked("gamma", shape)
        self.beta = self.add_stacked("beta", shape)
        self.mean = self.add_stacked("mean", shape, trainable=False)
        self.variance = self.add_stacked("variance", shape, trainable=False)
        self.built = True

    def initialize(self, seed):
        """Gamma and variance 1, beta and mean 0."""
        del seed
        for variable in (self.gamma, self.variance):
            variable.assign(tf.ones(variable.shape))
        for variable in (self.beta, self.mean):
            variable.assign(tf.zeros(variable.shape))

    def read_params(self, mode=Mode.INFERENCE):
        """Gamma and beta; in inference the scale and offset they come to."""
        gamma = tf.convert_to_tensor(self.gamma)
        beta = tf.convert_to_tensor(self.beta)
        if mode != Mode.INFERENCE:
            return {"gamma": gamma, "beta": beta}
        scale = gamma * tf.math.rsqrt(self.variance + batch_norm.EPSILON)
        return {"scale": scale, "offset": beta - self.mean * scale}

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`, y of the shape and dtype of x."""
        params = self.read_params(mode) if params is None else params
        if mode == Mode.INFERENCE:
            y = batch_norm.affine(x, params["scale"], params["offset"])
            return ops.ACTIVATIONS[self.activation][0](y), {}
        y, moments = batch_norm.normalize(
            x,
            params["gamma"],
            params["beta"],
            self.activation,
            self.known_moments(params),
        )
        return y, moments._asdict()

    def known_moments(self, params) -> batch_norm.Moments | None:
        """The input's moments, where a pass is computed again."""
        if "mean" not in params:
            return None
        return batch_norm.Moments(params["mean"], params["variance"])

    def apply_updates(self, updates):
        """Moves the averages by 5 % towards the batch's moments."""
        step = 1 - BATCH_NORM_MOMENTUM
        self.mean.assign_add(step * (updates["mean"] - self.mean))
        self.variance.assign_add(step * (updates["variance"] - self.variance))


class Dense(PureLayer):
    """Affine map of the channels, `[B, C] -> [B, units]`.

    Args:
      units: output channels.
      stack: see `PureLayer`.
    """

    def __init__(self, units, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.units = units

    def build(self, input_shape):
        """Creates kernel and bias."""
        self.kernel = self.add_stacked("kernel", (input_shape[-1], self.units))
        self.bias = self.add_stacked("bias", (self.units,))
        self.built = True

    def initialize(self, seed):
        """Kernel and bias uniform in `1 / sqrt(fan_in)`."""
        limit = 1 / math.sqrt(self.kernel.shape[-2])
        self.kernel.assign(_uniform(self.kernel.shape, seed, 0, limit))
        self.bias.assign(_uniform(self.bias.shape, seed, 1, limit))

    def read_params(self, mode=Mode.INFERENCE):
        """Kernel and bias as they are."""
        del mode
        return {
            "kernel": tf.convert_to_tensor(self.kernel),
            "bias": tf.convert_to_tensor(self.bias),
        }

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        kernel = tf.cast(params["kernel"], x.dtype)
        bias = tf.cast(params["bias"], x.dtype)
        return tf.nn.bias_add(tf.linalg.matmul(x, kernel), bias), {}


class SqueezeExcite(PureLayer):
    """Squeeze-and-excitation gate (paper section 3.1.1).

    Takes `[B, H, W, C]` and returns the gate `[B, 1, 1, C]` in (0, 1); the
    cell multiplies, together with its residual factor.

    Args:
      stack: see `PureLayer`.
    """

    def build(self, input_shape):
        """Creates the two dense layers."""
        channels = input_shape[-1]
        hidden = max(channels // 16, 4)
        self.parts = {
            "squeeze": Dense(hidden, stack=self.stack, name="squeeze"),
            "excite": Dense(channels, stack=self.stack, name="excite"),
        }
        self.parts["squeeze"].build((None, channels))
        self.parts["excite"].build((None, hidden))
        self.built = True

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(gate, updates)`."""
        params = self.read_params(mode) if params is None else params
        h = ops.mean_over_space(x)
        h, _ = self.parts["squeeze"](h, params["squeeze"])
        h, _ = self.parts["excite"](tf.nn.relu(h), params["excite"])
        return tf.reshape(tf.math.sigmoid(h), [-1, 1, 1, h.shape[-1]]), {}


def _uniform(shape, seed: int, stream: int, limit: float):
    """U(-limit, limit), a function of seed and stream alone."""
    return uniform_in_one(
        tf.constant([*shape], tf.int32),
        tf.constant([seed & 0x7FFFFFFF, stream], tf.int32),
        tf.constant(limit, tf.float32),
    )


# One by one, the forty operations that scramble a seed take as long as making
# the layer.
@tf.function(
    autograph=False,
    input_signature=[
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([2], tf.int32),
        tf.TensorSpec([], tf.float32),
    ],
)
def uniform_in_one(shape, seed, limit):
    """Numbers between -limit and limit: float32 of a shape int32 `[N]`."""
    return tf.random.stateless_uniform(shape, seed, -limit, limit, alg="philox")


@functools.cache
def autoregressive_mask(
    shape: tuple[int, int, int, int],
    *,
    depthwise: bool = False,
    strict: bool = False,
    mirrored: bool = False,
) -> np.ndarray:
    """Which taps of a flow's kernel an output may look at, in raster order.

    Taps above the centre and to its left are open.  The centre tap is open by
    channel order; where the channel counts differ, channels are matched in
    runs.  Depthwise kernels have an open centre.  Paper section 3.2.

    Args:
      shape: `(kh, kw, c_in, c_out)`; of a depthwise kernel `(kh, kw, 1, C)`.
      depthwise: whether every output sees its own channel only.
      strict: also close the centre to the output's own channel (or run).
      mirrored: turn the spatial order around.

    Returns:
      float32 of 0 and 1, of `shape`.
    """
    height, width, c_in, c_out = shape
    mask = np.zeros(shape, np.float32)
    mask[: height // 2] = 1
    mask[height // 2, : width // 2] = 1
    mask[height // 2, width // 2] = (
        1 if depthwise else _channel_order(c_in, c_out, strict)
    )
    if mirrored:
        mask = mask[::-1, ::-1]
    return np.ascontiguousarray(mask)


def _channel_order(c_in: int, c_out: int, strict: bool) -> np.ndarray:
    """`[c_in, c_out]`: 1 where the output may see the input's same pixel."""
    inputs = np.arange(c_in)[:, None]
    outputs = np.arange(c_out)[None, :]
    if c_out >= c_in:
        run = outputs // (c_out // c_in)
        return inputs < run if strict else inputs <= run
    ratio = c_in // c_out
    return inputs < (outputs if strict else outputs + 1) * ratio
