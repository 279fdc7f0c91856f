"""Residual cells, flow cells and combiners (paper figures 2 and 3)."""

import tensorflow as tf

from nvae_tf.model import ops
from nvae_tf.model.cell_operations import create_operation
from nvae_tf.model.composite import Composite
from nvae_tf.model.layers import Conv2D, SqueezeExcite
from nvae_tf.model.pure_layer import Mode, PureLayer
from nvae_tf.model.recompute import recomputed

__all__ = [
    "CellChain",
    "DecoderCombiner",
    "EncoderCombiner",
    "FlowCell",
    "ResidualCell",
]

RESIDUAL_FACTOR = 0.1


class _DownSkip(Composite):
    """Swish -> four shifted 1x1 convolutions of stride 2, concatenated."""

    def __init__(self, filters, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.filters = filters
        widths = [filters // 4] * 3 + [filters - 3 * (filters // 4)]
        for i, width in enumerate(widths):
            name = f"phase_{i}"
            self.parts[name] = Conv2D(width, stack=stack, name=name)

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


class _UpSkip(Composite):
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

    def build(self, input_shape):
        """Builds the part."""
        self.build_parts({"conv": input_shape[-1]})

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        return ops.upsample_bilinear(self.run("conv", x, params, mode, {})), {}


class _Cell(Composite):
    """A composite that may keep its input alone for the backward pass.

    Args:
      recompute: see `nvae_tf.model.recompute`.
      stack: see `PureLayer`.
    """

    def __init__(self, *, recompute="none", stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.recompute = recompute

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        if self.recompute == "cell" and mode == Mode.TRAINING:
            return recomputed(
                lambda x, params: self.compute(x, params, mode), x, params
            )
        return self.compute(x, params, mode)

    def compute(self, x, params, mode):
        """Returns `(y, updates)`."""
        raise NotImplementedError


class ResidualCell(_Cell):
    """`skip(x) + 0.1 * SE(branch(x))` (paper figure 3).

    Input `[B, H, W, C]`; output `[B, H, W, filters]`, H and W halved by a
    "down" cell and doubled by an "up" cell.

    Args:
      operations: names of the branch's operations.
      filters: output channels.
      resample: "none", "down" or "up"; it happens in the first operation.
      use_se: whether the branch ends in squeeze-and-excitation.
      recompute: see `nvae_tf.model.recompute`.
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
        super().__init__(recompute=recompute, stack=stack, **kwargs)
        self.operations = tuple(operations)
        self.filters = filters
        self.resample = resample
        self.use_se = use_se
        skips = {"down": _DownSkip, "up": _UpSkip}
        if resample in skips:
            self.parts["skip"] = skips[resample](
                filters, stack=stack, name="skip"
            )
        for i, operation in enumerate(self.operations):
            name = f"op_{i}"
            self.parts[name] = create_operation(
                operation,
                filters,
                resample if i == 0 else "none",
                recompute=recompute,
                stack=stack,
                name=name,
            )
        if use_se:
            self.parts["se"] = SqueezeExcite(stack=stack, name="se")

    def build(self, input_shape):
        """Builds the parts."""
        first = ("skip", "op_0")
        self.build_parts(
            {
                name: input_shape[-1] if name in first else self.filters
                for name in self.parts
            }
        )

    def compute(self, x, params, mode):
        """See `_Cell`."""
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


class CellChain(PureLayer):
    """Residual cells one after the other, `[B, H, W, C] -> [B, H', W', C']`.

    Args:
      cells: `ResidualCell`s, in order.
      stack: see `PureLayer`.
    """

    def __init__(self, cells, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.cells = list(cells)
        self.parts = {cell.name: cell for cell in self.cells}

    @classmethod
    def from_config(cls, config):
        """The chain that `get_config` described, also after JSON."""
        cells = [ResidualCell.from_config(cell) for cell in config["cells"]]
        return super().from_config({**config, "cells": cells})

    def build(self, input_shape):
        """Builds the cells for the channels of `input_shape`."""
        channels = input_shape[-1]
        for cell in self.cells:
            cell.build((None, None, None, channels))
            channels = cell.filters
        self.built = True

    def call(self, x, params=None, mode=Mode.INFERENCE):
        """Returns `(y, updates)`."""
        params = self.read_params(mode) if params is None else params
        updates = {}
        for cell in self.cells:
            x, updates[cell.name] = cell(x, params[cell.name], mode=mode)
        return x, updates


class FlowCell(_Cell):
    """Inverse autoregressive cell `z' = z - m(z)` (paper section 3.2).

    `m` looks only at pixels and channels before its own in raster order, so
    that the Jacobian is triangular with a unit diagonal: the log-determinant
    is 0.  Input and output `[B, h, w, d]`.

    Args:
      mirrored: the opposite raster order.
      recompute: see `nvae_tf.model.recompute`.
      stack: see `PureLayer`.
    """

    EXPANSION = 6

    def __init__(
        self, mirrored=False, *, recompute="none", stack=None, **kwargs
    ):
        super().__init__(recompute=recompute, stack=stack, **kwargs)
        self.mirrored = mirrored

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

    def compute(self, x, params, mode):
        """See `_Cell`."""
        h = tf.nn.elu(self.run("expand", x, params, mode, {}))
        h = tf.nn.elu(tf.nn.elu(self.run("spatial", h, params, mode, {})))
        return x - self.run("project", h, params, mode, {}), {}


class EncoderCombiner(Composite):
    """`e + conv1x1(h)`: encoder features meet the decoder's state.

    Args:
      filters: channels of the encoder's features.
      stack: see `PureLayer`.
    """

    def __init__(self, filters, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.filters = filters
        self.parts["conv"] = Conv2D(filters, stack=stack, name="conv")

    def build(self, input_shape):
        """Builds for a decoder state of these channels."""
        self.build_parts({"conv": input_shape[-1]})

    def call(self, h, features, params=None, mode=Mode.INFERENCE):
        """Returns `e + conv(h)`, `[B, h, w, filters]`."""
        params = self.read_params(mode) if params is None else params
        return features + self.run("conv", h, params, mode, {})


class DecoderCombiner(Composite):
    """`conv1x1(concat[h, z])`: a latent group enters the decoder's state.

    Args:
      filters: channels of the decoder's state.
      stack: see `PureLayer`.
    """

    def __init__(self, filters, *, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.filters = filters
        self.parts["conv"] = Conv2D(filters, stack=stack, name="conv")

    def build(self, input_shape):
        """Builds for the channels of h and z together."""
        self.build_parts({"conv": input_shape[-1]})

    def call(self, z, h=None, params=None, mode=Mode.INFERENCE):
        """Returns the next state `[B, h, w, filters]`; h None for no state."""
        params = self.read_params(mode) if params is None else params
        x = z if h is None else tf.concat([h, z], axis=-1)
        return self.run("conv", x, params, mode, {})
