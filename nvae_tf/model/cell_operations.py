"""The operations that the branch of a residual cell runs (paper figure 3)."""

import re

import tensorflow as tf

from nvae_tf.model import ops
from nvae_tf.model.composite import Composite
from nvae_tf.model.layers import BatchNorm, Conv2D
from nvae_tf.model.pure_layer import Mode

__all__ = ["InvertedResidual", "NormConv", "create_operation"]

_INVERTED = re.compile(r"mconv_e(\d+)k(\d+)g(0|8)")


class _Operation(Composite):
    """One operation of a residual cell's branch.

    Args:
      operation: its name.
      filters: output channels.
      resample: "none", "down" or "up".
      recompute: see `nvae_tf.model.recompute`.
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


class NormConv(_Operation):
    """BN -> activation -> [nearest x2] -> 3x3 convolution.

    The operations "res_bnswish", "res_bnswish5" (dilated by 2), "res_bnelu"
    and "res_elu", which has no BN but data-dependent initialisation.
    """

    def __init__(self, operation, filters, resample, *, stack=None, **kwargs):
        super().__init__(operation, filters, resample, stack=stack, **kwargs)
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


class InvertedResidual(_Operation):
    """[nearest x2] -> BN -> expand -> BN, swish -> depthwise -> project -> BN.

    The operations "mconv_e{E}k{K}g{0|8}": expansion by E, a KxK depthwise
    convolution (or one with 8 groups), no weight normalisation, no biases.
    """

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


def create_operation(operation: str, *args, **kwargs) -> _Operation:
    """The layer of an operation; see `_Operation` for the arguments."""
    kind = InvertedResidual if _INVERTED.fullmatch(operation) else NormConv
    return kind(operation, *args, **kwargs)
