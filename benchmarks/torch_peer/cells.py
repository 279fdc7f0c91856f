"""Residual cells, flow cells and combiners; all tensors are `[B, C, H, W]`."""

import re

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_peer.layers import (
    BATCH_NORM,
    Conv2d,
    Norm,
    NormSwish,
    SqueezeExcite,
    autoregressive_mask,
)

__all__ = ["DecoderCombiner", "EncoderCombiner", "FlowPair", "ResidualCell"]

_RESIDUAL_FACTOR = 0.1
_FLOW_EXPANSION = 6
_INVERTED = re.compile(r"mconv_e(\d+)k(\d+)g(\d+)")


class _DownSkip(nn.Module):
    """Swish, and four 1x1 convolutions that see every second pixel each."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        quarter = c_out // 4
        self.conv_1 = Conv2d(c_in, quarter, stride=2)
        self.conv_2 = Conv2d(c_in, quarter, stride=2)
        self.conv_3 = Conv2d(c_in, quarter, stride=2)
        self.conv_4 = Conv2d(c_in, c_out - 3 * quarter, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """To half the resolution."""
        x = functional.silu(x)
        return torch.cat(
            [
                self.conv_1(x),
                self.conv_2(x[:, :, 1:, 1:]),
                self.conv_3(x[:, :, :, 1:]),
                self.conv_4(x[:, :, 1:, :]),
            ],
            dim=1,
        )


def _up_skip(c_in: int, c_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        Conv2d(c_in, c_out, bias=False),
    )


class _NormConv(nn.Module):
    """BN and activation, [nearest x2], 3x3 convolution."""

    def __init__(self, operation: str, c_in: int, c_out: int, resample: str):
        super().__init__()
        dilation = 2 if operation == "res_bnswish5" else 1
        self.upsample = resample == "up"
        self.has_norm = operation != "res_elu"
        if operation == "res_bnelu":
            self.bn = Norm(c_in, elu=True)
        elif self.has_norm:
            self.bn_act = NormSwish(c_in)
        self.conv_0 = Conv2d(
            c_in,
            c_out,
            3,
            stride=2 if resample == "down" else 1,
            dilation=dilation,
            data_dependent=not self.has_norm,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the branch's input."""
        if not self.has_norm:
            x = functional.elu(x)
        elif hasattr(self, "bn"):
            x = self.bn(x)
        else:
            x = self.bn_act(x)
        if self.upsample:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv_0(x)


class _ConvNormSwish(nn.Module):
    """A convolution without bias, BN and swish."""

    def __init__(self, c_in: int, c_out: int, size: int = 1, **kwargs):
        super().__init__()
        self.conv = nn.Sequential(
            Conv2d(c_in, c_out, size, bias=False, weight_norm=False, **kwargs),
            nn.BatchNorm2d(c_out, **BATCH_NORM),
            nn.SiLU(inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of `[B, C, H, W]`."""
        return self.conv(x)


class _InvertedResidual(nn.Module):
    """[nearest x2], BN, expansion, depthwise convolution, projection, BN."""

    def __init__(self, operation: str, c_in: int, c_out: int, resample: str):
        super().__init__()
        expansion, size, groups = map(
            int, _INVERTED.fullmatch(operation).groups()
        )
        hidden = c_in * expansion
        layers = [
            Norm(c_in),
            _ConvNormSwish(c_in, hidden),
            _ConvNormSwish(
                hidden,
                hidden,
                size,
                stride=2 if resample == "down" else 1,
                groups=groups or hidden,
            ),
            Conv2d(hidden, c_out, bias=False, weight_norm=False),
            Norm(c_out),
        ]
        if resample == "up":
            layers.insert(0, nn.Upsample(scale_factor=2, mode="nearest"))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the branch's input."""
        return self.conv(x)


class ResidualCell(nn.Module):
    """`skip(x) + 0.1 * SE(branch(x))`.

    Args:
      operations: names of the branch's operations.
      c_in: input channels.
      c_out: output channels.
      resample: "none", "down" or "up"; in the first operation.
      use_se: whether the branch ends in squeeze-and-excitation.
    """

    def __init__(
        self,
        operations,
        c_in: int,
        c_out: int,
        resample: str = "none",
        use_se: bool = True,
    ):
        super().__init__()
        self.skip = {
            "none": lambda *_: nn.Identity(),
            "down": _DownSkip,
            "up": _up_skip,
        }[resample](c_in, c_out)
        self._ops = nn.ModuleList()
        for i, operation in enumerate(operations):
            kind = (
                _InvertedResidual if _INVERTED.match(operation) else _NormConv
            )
            first = i == 0
            self._ops.append(
                kind(
                    operation,
                    c_in if first else c_out,
                    c_out,
                    resample if first else "none",
                )
            )
        self.se = SqueezeExcite(c_out) if use_se else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of `[B, c_in, H, W]`."""
        skip = self.skip(x)
        for operation in self._ops:
            x = operation(x)
        return torch.add(skip, self.se(x), alpha=_RESIDUAL_FACTOR)


class _FlowCell(nn.Module):
    """Inverse autoregressive cell `z - m(z)`."""

    def __init__(self, channels: int, mirrored: bool):
        super().__init__()
        hidden = channels * _FLOW_EXPANSION
        self.conv = nn.ModuleDict(
            {
                "convz": nn.Sequential(
                    Conv2d(
                        channels,
                        hidden,
                        3,
                        bias=False,
                        mask=autoregressive_mask(
                            channels, hidden, 3, strict=True, mirrored=mirrored
                        ),
                    ),
                    nn.ELU(),
                    Conv2d(
                        hidden,
                        hidden,
                        5,
                        groups=hidden,
                        bias=False,
                        mask=autoregressive_mask(
                            hidden, hidden, 5, depthwise=True, mirrored=mirrored
                        ),
                    ),
                    nn.ELU(),
                )
            }
        )
        self.mu = nn.ModuleDict(
            {
                "conv_0": Conv2d(
                    hidden,
                    channels,
                    gain=0.1,
                    mask=autoregressive_mask(
                        hidden, channels, 1, mirrored=mirrored
                    ),
                )
            }
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Of `[B, d, h, w]`."""
        hidden = functional.elu(self.conv["convz"](z))
        return z - self.mu["conv_0"](hidden)


class FlowPair(nn.Module):
    """A flow cell and its mirrored twin.

    Args:
      channels: of the latent group.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.cell1 = _FlowCell(channels, mirrored=False)
        self.cell2 = _FlowCell(channels, mirrored=True)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Of `[B, d, h, w]`."""
        return self.cell2(self.cell1(z))


class EncoderCombiner(nn.Module):
    """`e + conv1x1(h)`.

    Args:
      c_state: channels of the decoder's state h.
      c_features: channels of the encoder's features e.
    """

    def __init__(self, c_state: int, c_features: int):
        super().__init__()
        self.conv = Conv2d(c_state, c_features)

    def forward(self, features: torch.Tensor, state: torch.Tensor):
        """Of e and h."""
        return features + self.conv(state)


class DecoderCombiner(nn.Module):
    """`conv1x1(concat[h, z])`.

    Args:
      c_state: channels of the decoder's state h.
      c_latent: channels of the latent group z.
    """

    def __init__(self, c_state: int, c_latent: int):
        super().__init__()
        self.conv = Conv2d(c_state + c_latent, c_state)

    def forward(self, state: torch.Tensor, z: torch.Tensor):
        """Of h and z."""
        return self.conv(torch.cat([state, z.to(state.dtype)], dim=1))
