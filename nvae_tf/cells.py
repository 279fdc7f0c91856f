"""Residual cells, flow cells and combiners (paper figures 2 and 3)."""

import re

import tensorflow as tf

from nvae_tf import ops
from nvae_tf.layers import BatchNorm, Conv2D, Mode, PureLayer, SqueezeExcite
from nvae_tf.recompute import normalize_and_convolve, recomputed

__all__ = [
    "DecoderCombiner",
    "EncoderCombiner",
    "FlowCell",
    "InvertedResidual",
    "NormConv",
    "ResidualCell",
]

RESIDUAL_FACTOR = 0.1
_INVERTED = re.compile(r"mconv_e(\d+)k(\d+)g(0|8)")


class _Composite(PureLayer):
    """A layer made of parts that run one after the other or side by side."""

    def run(self, name, x, params, mode, updates):
        """Runs one part and notes its updates."""
        y, update = self.parts[name](x, params[name], mode=mode)
        if update:
            updates[name] = update
        return y

    def run_norm_and_conv(
        self, norm, conv, x, params, mode, updates, between=None
    ):
        """Runs batch normalisation and the convolution behind it.

        Args:
          norm: name of the first part.
          conv: name of the second part.
          x: `[B, H, W, C]`.
          params: see `PureLayer`.
          mode: see `Mode`.
          updates: where those of the parts are noted.
          between: None, or a linear function of what is convolved.
        """
        if self.recompute == "bn_swish" and mode == Mode.TRAINING:
            y, updates[norm] = normalize_and_convolve(
                self.parts[norm],
                self.parts[conv],
                x,
                params[norm],
                params[conv],
                between,
            )
            return y
        x = self.run(norm, x, params, mode, updates)
        if between is not None:
            x = between(x)
        return self.run(conv, x, params, mode, updates)

    def build_parts(self, shapes):
        """Builds the parts in the order given: name -> input channels."""
        for name, channels in shapes.items():
            self.parts[name].build((None, None, None, channels))
        self.built = True


class NormConv(_Composite):
    """BN -> activation -> [nearest x2] -> 3x3 convolution.

    The operations "res_bnswish", "res_bnswish5" (dilated by 2), "res_bnelu"
    and "res_elu", which has no BN but data-dependent initialisation.

    Args:
      operation: one of these names.
      filters: output channels.
      resample: "none", "down" or "up".
      recompute: see `nvae_tf.recompute`.
      stack: see `PureLayer`.
    """

    def __init__(
        self,
        operation,
        filters,
        resample,
        *,
        recompute="none",
        stack=None,
        **kwargs,
    ):
        super().__init__(stack=stack, **kwargs)
        self.operation = operation
        self.filters = filters
        self.resample = resample
        self.recompute = recompute
        self.has_norm = operation != "res_elu"
        if self.has_norm:
            self.parts["norm"] = BatchNorm(
                "elu" if operation == "res_bnelu" else "swish",
                stack=stack,
                name="norm",
            )
        self.parts["conv"] = Conv2D(
            filters,
            3,
            strides=2 if resample == "down" else 1,
            dilation=2 if operation == "res_bnswish5" else 1,
            data_dependent=not self.has_norm,
            stack=stack,
            name="conv",
        )

    def get_config(self):
        """Constructor arguments, for serialisation."""
        return {
            **super().get_config(),
            "operation": self.operation,
            "filters": self.filters,
            "resample": self.resample,
            "recompute": self.recompute,
        }

    def build(self, input_shape):
        """Builds the parts."""
        self.build_parts(dict.fromkeys(self.parts, input_shape[-1]))

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        updates = {}
        between = ops.upsample_nearest if self.resample == "up" else None
        if self.has_norm:
            return self.run_norm_and_conv(
                "norm", "conv", x, params, mode, updates, between
            ), updates
        x = tf.nn.elu(x)
        if between is not None:
            x = between(x)
        return self.run("conv", x, params, mode, updates), updates


class InvertedResidual(_Composite):
    """[nearest x2] -> BN -> expand -> BN, swish -> depthwise -> project -> BN.

    The operations "mconv_e{E}k{K}g{0|8}": expansion by E, a KxK depthwise
    convolution (or one with 8 groups), no weight normalisation, no biases.

    Args:
      operation: such a name.
      filters: output channels.
      resample: "none", "down" or "up".
      recompute: see `nvae_tf.recompute`.
      stack: see `PureLayer`.
    """

    def __init__(
        self,
        operation,
        filters,
        resample,
        *,
        recompute="none",
        stack=None,
        **kwargs,
    ):
        super().__init__(stack=stack, **kwargs)
        self.operation = operation
        self.filters = filters
        self.resample = resample
        self.recompute = recompute

    def get_config(self):
        """Constructor arguments, for serialisation."""
        return {
            **super().get_config(),
            "operation": self.operation,
            "filters": self.filters,
            "resample": self.resample,
            "recompute": self.recompute,
        }

    def build(self, input_shape):
        """Creates and builds the parts: the width follows from the input."""
        expansion, size, groups = map(
            int, _INVERTED.fullmatch(self.operation).groups()
        )
        channels = input_shape[-1]
        hidden = channels * expansion
        plain = {"use_bias": False, "weight_norm": False, "stack": self.stack}

        def norm(name, activation):
            return BatchNorm(activation, stack=self.stack, name=name)

        self.parts = {
            "norm_in": norm("norm_in", "linear"),
            "expand": Conv2D(hidden, name="expand", **plain),
            "norm_expand": norm("norm_expand", "swish"),
            "spatial": Conv2D(
                hidden,
                size,
                strides=2 if self.resample == "down" else 1,
                groups=groups or hidden,
                name="spatial",
                **plain,
            ),
            "norm_spatial": norm("norm_spatial", "swish"),
            "project": Conv2D(self.filters, name="project", **plain),
            "norm_out": norm("norm_out", "linear"),
        }
        widths = [channels] * 2 + [hidden] * 4 + [self.filters]
        self.build_parts(dict(zip(self.parts, widths, strict=True)))

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        updates = {}
        if self.resample == "up":
            x = ops.upsample_nearest(x)
        for norm, conv in (
            ("norm_in", "expand"),
            ("norm_expand", "spatial"),
            ("norm_spatial", "project"),
        ):
            x = self.run_norm_and_conv(norm, conv, x, params, mode, updates)
        return self.run("norm_out", x, params, mode, updates), updates


class _DownSkip(_Composite):
    """Swish -> four shifted 1x1 convolutions of stride 2, concatenated."""

    def __init__(self, filters, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.filters = filters
        widths = [filters // 4] * 3 + [filters - 3 * (filters // 4)]
        for i, width in enumerate(widths):
            name = f"phase_{i}"
            self.parts[name] = Conv2D(width, stack=stack, name=name)

    def get_config(self):
        """Constructor arguments, for serialisation."""
        return {**super().get_config(), "filters": self.filters}

    def build(self, input_shape):
        """Builds the parts."""
        self.build_parts(dict.fromkeys(self.parts, input_shape[-1]))

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        phases = ops.downsample_phases(ops.ACTIVATIONS["swish"][0](x))
        outputs = [
            self.run(name, phase, params, mode, {})
            for name, phase in zip(self.parts, phases, strict=True)
        ]
        return tf.concat(outputs, axis=-1), {}


class _UpSkip(_Composite):
    """1x1 convolution without bias, then bilinear x2, corners aligned.

    The definition up-samples first; the two linear maps commute, and this
    order costs a quarter.
    """

    def __init__(self, filters, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.filters = filters
        self.parts["conv"] = Conv2D(
            filters, use_bias=False, stack=stack, name="conv"
        )

    def get_config(self):
        """Constructor arguments, for serialisation."""
        return {**super().get_config(), "filters": self.filters}

    def build(self, input_shape):
        """Builds the part."""
        self.build_parts({"conv": input_shape[-1]})

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        return ops.upsample_bilinear(self.run("conv", x, params, mode, {})), {}


class ResidualCell(_Composite):
    """`skip(x) + 0.1 * SE(branch(x))` (paper figure 3).

    Input `[B, H, W, C]`; output `[B, H, W, filters]`, H and W halved by a
    "down" cell and doubled by an "up" cell.

    Args:
      operations: names of the branch's operations.
      filters: output channels.
      resample: "none", "down" or "up"; it happens in the first operation.
      use_se: whether the branch ends in squeeze-and-excitation.
      recompute: see `nvae_tf.recompute`.
      stack: see `PureLayer`.
    """

    def __init__(
        self,
        operations,
        filters,
        resample="none",
        *,
        use_se=True,
        recompute="none",
        stack=None,
        **kwargs,
    ):
        super().__init__(stack=stack, **kwargs)
        self.operations = tuple(operations)
        self.filters = filters
        self.resample = resample
        self.use_se = use_se
        self.recompute = recompute
        skips = {"down": _DownSkip, "up": _UpSkip}
        if resample in skips:
            self.parts["skip"] = skips[resample](
                filters, stack=stack, name="skip"
            )
        for i, operation in enumerate(self.operations):
            kind = (
                InvertedResidual if _INVERTED.fullmatch(operation) else NormConv
            )
            name = f"op_{i}"
            self.parts[name] = kind(
                operation,
                filters,
                resample if i == 0 else "none",
                recompute=recompute,
                stack=stack,
                name=name,
            )
        if use_se:
            self.parts["se"] = SqueezeExcite(stack=stack, name="se")

    def get_config(self):
        """Constructor arguments, for serialisation."""
        return {
            **super().get_config(),
            "operations": self.operations,
            "filters": self.filters,
            "resample": self.resample,
            "use_se": self.use_se,
            "recompute": self.recompute,
        }

    def build(self, input_shape):
        """Builds the parts."""
        first = ("skip", "op_0")
        self.build_parts(
            {
                name: input_shape[-1] if name in first else self.filters
                for name in self.parts
            }
        )

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        if self.recompute == "cell" and mode == Mode.TRAINING:
            return recomputed(
                lambda x, params: self._compute(x, params, mode), x, params
            )
        return self._compute(x, params, mode)

    def _compute(self, x, params, mode):
        updates = {}
        skip = x
        if "skip" in self.parts:
            skip = self.run("skip", x, params, mode, updates)
        for i in range(len(self.operations)):
            x = self.run(f"op_{i}", x, params, mode, updates)
        if self.use_se:
            x *= RESIDUAL_FACTOR * self.run("se", x, params, mode, updates)
        else:
            x *= RESIDUAL_FACTOR
        return skip + x, updates


class FlowCell(_Composite):
    """Inverse autoregressive cell `z' = z - m(z)` (paper section 3.2).

    `m` looks only at pixels and channels before its own in raster order, so
    that the Jacobian is triangular with a unit diagonal: the log-determinant
    is 0.  Input and output `[B, h, w, d]`.

    Args:
      mirrored: the opposite raster order.
      stack: see `PureLayer`.
    """

    EXPANSION = 6

    def __init__(self, mirrored=False, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.mirrored = mirrored

    def get_config(self):
        """Constructor arguments, for serialisation."""
        return {**super().get_config(), "mirrored": self.mirrored}

    def build(self, input_shape):
        """Creates and builds the three masked convolutions."""
        channels = input_shape[-1]
        hidden = channels * self.EXPANSION
        shared = {"mirrored": self.mirrored, "stack": self.stack}
        self.parts = {
            "expand": Conv2D(
                hidden,
                3,
                use_bias=False,
                mask="strictly_causal",
                name="expand",
                **shared,
            ),
            "spatial": Conv2D(
                hidden,
                5,
                groups=hidden,
                use_bias=False,
                mask="causal",
                name="spatial",
                **shared,
            ),
            "project": Conv2D(
                channels, 1, mask="causal", gain=0.1, name="project", **shared
            ),
        }
        self.build_parts(
            {"expand": channels, "spatial": hidden, "project": hidden}
        )

    def call(self, z, params=None, mode=Mode.INFERENCE):
        """Returns `(z', updates)`."""
        params = self.read_params(mode) if params is None else params
        h = tf.nn.elu(self.run("expand", z, params, mode, {}))
        h = tf.nn.elu(tf.nn.elu(self.run("spatial", h, params, mode, {})))
        return z - self.run("project", h, params, mode, {}), {}


class EncoderCombiner(_Composite):
    """`e + conv1x1(h)`: encoder features meet the decoder's state.

    Args:
      filters: channels of the encoder's features.
      stack: see `PureLayer`.
    """

    def __init__(self, filters, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.filters = filters
        self.parts["conv"] = Conv2D(filters, stack=stack, name="conv")

    def get_config(self):
        """Constructor arguments, for serialisation."""
        return {**super().get_config(), "filters": self.filters}

    def build(self, input_shape):
        """Builds for a decoder state of these channels."""
        self.build_parts({"conv": input_shape[-1]})

    def call(self, h, features, params=None, mode=Mode.INFERENCE):
        """Returns `e + conv(h)`, `[B, h, w, filters]`."""
        params = self.read_params(mode) if params is None else params
        return features + self.run("conv", h, params, mode, {})


class DecoderCombiner(_Composite):
    """`conv1x1(concat[h, z])`: a latent group enters the decoder's state.

    Args:
      filters: channels of the decoder's state.
      stack: see `PureLayer`.
    """

    def __init__(self, filters, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.filters = filters
        self.parts["conv"] = Conv2D(filters, stack=stack, name="conv")

    def get_config(self):
        """Constructor arguments, for serialisation."""
        return {**super().get_config(), "filters": self.filters}

    def build(self, input_shape):
        """Builds for the channels of h and z together."""
        self.build_parts({"conv": input_shape[-1]})

    def call(self, z, h=None, params=None, mode=Mode.INFERENCE):
        """Returns the next state `[B, h, w, filters]`; h None for no state."""
        params = self.read_params(mode) if params is None else params
        x = z if h is None else tf.concat([h, z], axis=-1)
        return self.run("conv", x, params, mode, {})
