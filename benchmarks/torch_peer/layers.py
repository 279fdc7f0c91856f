"""Convolutions, normalisation and gates; all tensors are `[B, C, H, W]`."""

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = [
    "BATCH_NORM",
    "Conv2d",
    "Norm",
    "NormSwish",
    "SqueezeExcite",
    "autoregressive_mask",
    "convolutions",
    "freeze",
]

# PyTorch counts the share of the new value.
BATCH_NORM = {"eps": 1e-5, "momentum": 0.05}
_NORM_EPSILON = 1e-5


class Conv2d(nn.Conv2d):
    """A convolution with symmetric padding and weight normalisation.

    Kernel and bias start as those of `nn.Conv2d` do.

    Args:
      c_in: input channels.
      c_out: output channels.
      size: of the kernel.
      stride: of the convolution.
      dilation: of the kernel.
      groups: of channels.
      bias: whether to add one.
      weight_norm: whether `exp(g) * v / (|v| + 1e-5)` is the kernel.
      mask: of the kernel, `[c_out, c_in / groups, size, size]`.
      gain: what the normalised kernel is first multiplied by.
      data_dependent: whether the first batch in training chooses gain and bias.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        size: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        weight_norm: bool = True,
        mask: torch.Tensor | None = None,
        gain: float = 1.0,
        data_dependent: bool = False,
    ):
        super().__init__(
            c_in,
            c_out,
            size,
            stride=stride,
            padding=dilation * (size - 1) // 2,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.register_buffer("mask", mask, persistent=False)
        self.data_dependent = data_dependent
        # The kernel of the last pass, for penalties on it.
        self.used: torch.Tensor | None = None
        # A kernel that no longer changes, see `freeze`.
        self.frozen: torch.Tensor | None = None
        self.log_weight_norm = None
        if weight_norm:
            with torch.no_grad():
                norm = _norm(self._masked())
                start = torch.log(norm + 1e-2) + math.log(gain)
            self.log_weight_norm = nn.Parameter(start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution."""
        if self.frozen is not None:
            return self._convolve(x, self.frozen, self.bias)
        if self.data_dependent and self.training:
            self._initialize(x)
        self.used = self.kernel()
        return self._convolve(x, self.used, self.bias)

    def kernel(self) -> torch.Tensor:
        """The masked, normalised kernel."""
        v = self._masked()
        if self.log_weight_norm is None:
            return v
        return v * (
            torch.exp(self.log_weight_norm) / (_norm(v) + _NORM_EPSILON)
        )

    def _masked(self) -> torch.Tensor:
        return self.weight if self.mask is None else self.weight * self.mask

    def _convolve(self, x, kernel, bias):
        return functional.conv2d(
            x,
            kernel,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    @torch.no_grad()
    def _initialize(self, x: torch.Tensor) -> None:
        """Gain and bias that give this batch a fifth of unit spread."""
        self.data_dependent = False
        v = self._masked()
        y = self._convolve(x, v / (_norm(v) + _NORM_EPSILON), None).float()
        mean = y.mean(dim=(0, 2, 3))
        spread = 5.0 * y.std(dim=(0, 2, 3)) + _NORM_EPSILON
        self.bias.copy_(-mean / spread)
        self.log_weight_norm.copy_(-torch.log(spread).view(-1, 1, 1, 1))


def _norm(v: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)


def convolutions(module: nn.Module) -> list[Conv2d]:
    """All convolutions within a module."""
    return [m for m in module.modules() if isinstance(m, Conv2d)]


@torch.no_grad()
def freeze(
    module: nn.Module,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> None:
    """Computes all kernels for good: the weights are not trained any more.

    Args:
      module: that has the convolutions.
      dtype: that they will compute in.
      layout: that they will have.
    """
    for conv in convolutions(module):
        conv.frozen = conv.kernel().to(dtype, memory_format=layout)


def autoregressive_mask(
    c_in: int,
    c_out: int,
    size: int,
    *,
    strict: bool = False,
    depthwise: bool = False,
    mirrored: bool = False,
) -> torch.Tensor:
    """Taps before the centre in raster order, and the centre by channel order.

    Args:
      c_in: input channels.
      c_out: output channels, a multiple or a fraction of `c_in`.
      size: of the kernel, odd.
      strict: whether a channel may not see itself.
      depthwise: whether each channel sees only itself.
      mirrored: whether the raster order is reversed.

    Returns:
      `[c_out, c_in, size, size]`; of a depthwise kernel `[c_out, 1, ...]`.
    """
    mask = torch.zeros(c_out, 1 if depthwise else c_in, size, size)
    centre = size // 2
    mask[:, :, :centre] = 1
    mask[:, :, centre, :centre] = 1
    if depthwise:
        mask[:, :, centre, centre] = 1
    else:
        # Channels of the larger side come in runs, one for each of the other's.
        runs = min(c_in, c_out)
        run_in = torch.arange(c_in) // (c_in // runs)
        run_out = torch.arange(c_out) // (c_out // runs)
        seen = (
            run_in[None, :] < run_out[:, None]
            if strict
            else run_in[None, :] <= run_out[:, None]
        )
        mask[:, :, centre, centre] = seen.float()
    return mask.flip(2, 3) if mirrored else mask


class NormSwish(nn.BatchNorm2d):
    """Batch normalisation and swish.

    Args:
      channels: of the input.
    """

    def __init__(self, channels: int):
        super().__init__(channels, **BATCH_NORM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of `[B, C, H, W]`."""
        return functional.silu(super().forward(x))


class Norm(nn.Module):
    """Batch normalisation, then perhaps an ELU.

    Args:
      channels: of the input.
      elu: whether to apply it.
    """

    def __init__(self, channels: int, elu: bool = False):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, **BATCH_NORM)
        self.elu = elu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of `[B, C, H, W]`."""
        x = self.bn(x)
        return functional.elu(x) if self.elu else x


class SqueezeExcite(nn.Module):
    """Scales channels by gates of their means.

    Args:
      channels: of the input.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 16, 4)
        self.se = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of `[B, C, H, W]`."""
        gates = self.se(x.mean(dim=(2, 3)))
        return x * gates[:, :, None, None]
