"""The configuration of the architecture, and the shapes it implies."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from nvae_tf.core.errors import ConfigError
from nvae_tf.core.reading import shown

__all__ = [
    "ARCHITECTURES",
    "MOST_CLASSES",
    "LatentShape",
    "ModelConfig",
    "cell_operations",
    "require_between",
    "require_choice",
]

# The operations of each kind of cell, per architecture preset.  "pre" and
# "post" are the cells of preprocess and postprocess.
_SWISH2 = ("res_bnswish", "res_bnswish")


def _preset(enc, pre, dec, post) -> dict[str, tuple[str, ...]]:
    return {"enc": enc, "pre": pre, "dec": dec, "post": post}


ARCHITECTURES: dict[str, dict[str, tuple[str, ...]]] = {
    "res_mbconv": _preset(
        _SWISH2, _SWISH2, ("mconv_e6k5g0",), ("mconv_e3k5g0",)
    ),
    "res_elu": _preset(*[("res_elu", "res_elu")] * 4),
    "res_bnelu": _preset(*[("res_bnelu", "res_bnelu")] * 4),
    "res_bnswish": _preset(*[_SWISH2] * 4),
    "mbconv_sep": _preset(
        ("mconv_e6k5g0",),
        ("mconv_e3k5g0",),
        ("mconv_e6k5g0",),
        ("mconv_e3k5g0",),
    ),
    "mbconv_sep11": _preset(
        ("mconv_e6k11g0",),
        ("mconv_e3k5g0",),
        ("mconv_e6k11g0",),
        ("mconv_e3k5g0",),
    ),
    "res53_mbconv": _preset(
        ("res_bnswish5", "res_bnswish"),
        ("res_bnswish5", "res_bnswish"),
        ("mconv_e6k5g0",),
        ("mconv_e3k5g0",),
    ),
    "res35_mbconv": _preset(
        ("res_bnswish", "res_bnswish5"),
        ("res_bnswish", "res_bnswish5"),
        ("mconv_e6k5g0",),
        ("mconv_e3k5g0",),
    ),
    "res55_mbconv": _preset(
        ("res_bnswish5", "res_bnswish5"),
        ("res_bnswish5", "res_bnswish5"),
        ("mconv_e6k5g0",),
        ("mconv_e3k5g0",),
    ),
    "mbconv_res": _preset(
        ("mconv_e6k5g0",), ("mconv_e3k5g0",), _SWISH2, _SWISH2
    ),
    "mbconv_den": _preset(
        ("mconv_e6k5g0",),
        ("mconv_e3k5g8",),
        ("mconv_e6k5g0",),
        ("mconv_e3k5g8",),
    ),
}

LIKELIHOODS = ("bernoulli", "mixture", "normal")

# The least and the most that each number may be.  The most is far above any
# model that was ever trained: a configuration may come from a stranger, and
# shall not ask for more than can be counted.
MOST_CLASSES = 2**16
_RANGES = {
    "image_size": (1, 8192),
    "image_channels": (1, 4),
    "padding": (0, 1024),
    "num_bits": (1, 8),
    "num_mixtures": (1, 1000),
    "num_latent_scales": (1, 16),
    "num_groups_per_scale": (1, 1000),
    "min_groups_per_scale": (1, 1000),
    "num_latent_per_group": (1, 4096),
    "num_channels_enc": (1, 4096),
    "num_channels_dec": (1, 4096),
    "num_preprocess_blocks": (0, 16),
    "num_preprocess_cells": (0, 64),
    "num_postprocess_cells": (0, 64),
    "num_cells_enc": (1, 64),
    "num_cells_dec": (1, 64),
    "num_flow_pairs": (0, 64),
    "num_classes": (0, MOST_CLASSES),
}
# Channels at the coarsest scale.
_MOST_CHANNELS = 2**14


def cell_operations(architecture: str, kind: str) -> tuple[str, ...]:
    """Names of the operations of a cell.

    Args:
      architecture: a key of `ARCHITECTURES`.
      kind: "enc", "dec", "pre" or "post".
    """
    return ARCHITECTURES[architecture][kind]


class LatentShape(typing.NamedTuple):
    """Shape of one latent group: `[B, height, width, channels]` without B."""

    height: int
    width: int
    channels: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture (paper sections 3.1 to 3.3 and its table 6).

    Every number has a most that it may be, far above what was ever trained: up
    to 8,192 pixels, 16 scales, 1,000 groups per scale, 64 cells per group and
    16,384 channels at the coarsest scale.

    Attributes:
      image_size: height and width of the data, without padding.
      image_channels: channels of the data.
      padding: pixels added on every side before the model sees the image
        (MNIST: 2); the likelihood leaves them out.
      num_bits: bits per pixel channel, 1 to 8.
      likelihood: "bernoulli", "mixture" (discretised logistics) or "normal".
      num_mixtures: components of the mixture.
      num_latent_scales: number of latent resolutions S.
      num_groups_per_scale: groups of the finest scale.
      adaptive_groups: halve the groups with each coarser scale.
      min_groups_per_scale: lower bound when halving.
      num_latent_per_group: latent channels d per group.
      num_channels_enc: base channels of the encoder.
      num_channels_dec: base channels of the decoder.
      num_preprocess_blocks: blocks before the encoder; each halves the
        resolution.  Postprocess has as many, each doubling it.
      num_preprocess_cells: cells per preprocess block.
      num_postprocess_cells: cells per postprocess block.
      num_cells_enc: residual cells per group in the bottom-up encoder.
      num_cells_dec: residual cells per group in the top-down decoder.
      architecture: a key of `ARCHITECTURES`.
      use_se: squeeze-and-excitation in every residual cell.
      residual_posterior: posterior parameters relative to the prior's
        (section 3.2).
      num_flow_pairs: pairs of autoregressive flow cells per group.
      num_classes: of the images, by which prior and decoder are conditioned;
        0 for an unconditional model.
    """

    image_size: int = 32
    image_channels: int = 3
    padding: int = 0
    num_bits: int = 8
    likelihood: str = "mixture"
    num_mixtures: int = 10
    num_latent_scales: int = 1
    num_groups_per_scale: int = 10
    adaptive_groups: bool = False
    min_groups_per_scale: int = 1
    num_latent_per_group: int = 20
    num_channels_enc: int = 32
    num_channels_dec: int = 32
    num_preprocess_blocks: int = 1
    num_preprocess_cells: int = 2
    num_postprocess_cells: int = 2
    num_cells_enc: int = 2
    num_cells_dec: int = 2
    architecture: str = "res_mbconv"
    use_se: bool = True
    residual_posterior: bool = True
    num_flow_pairs: int = 0
    num_classes: int = 0

    def __post_init__(self):
        """Raises ConfigError for a model that cannot exist."""
        for name, (least, most) in _RANGES.items():
            require_between(self, "model", name, least, most)
        require_choice(self, "model", "likelihood", LIKELIHOODS)
        require_choice(self, "model", "architecture", tuple(ARCHITECTURES))
        if self.num_preprocess_blocks and not (
            self.num_preprocess_cells and self.num_postprocess_cells
        ):
            raise ConfigError(
                "model.num_preprocess_cells and model.num_postprocess_cells "
                "must be at least 1 when model.num_preprocess_blocks is "
                f"{self.num_preprocess_blocks}: the last cell of a preprocess "
                "block halves the resolution, the first of a postprocess "
                "block doubles it."
            )
        if self.likelihood == "bernoulli" and self.num_bits != 1:
            raise ConfigError(
                "model.likelihood is 'bernoulli', which needs "
                f"model.num_bits=1, but model.num_bits is {self.num_bits}."
            )
        factor = self.total_downsampling
        if self.padded_size % factor:
            raise ConfigError(
                f"model.image_size {self.image_size} with model.padding "
                f"{self.padding} gives {self.padded_size} pixels, which the "
                f"{self.num_preprocess_blocks} preprocess blocks and "
                f"{self.num_latent_scales} latent scales cannot divide: the "
                f"size must be a multiple of {factor}. Change model.padding, "
                "model.num_latent_scales or model.num_preprocess_blocks."
            )
        self._check_widths()

    def _check_widths(self) -> None:
        """Channels must be enough where a cell divides them; and countable."""
        for key, channels in zip(
            ("num_channels_enc", "num_channels_dec"),
            self.latent_width,
            strict=True,
        ):
            if channels > _MOST_CHANNELS:
                raise ConfigError(
                    f"model.{key} is {getattr(self, key)}, which makes "
                    f"{channels:,} channels at the coarsest scale; at most "
                    f"{_MOST_CHANNELS:,} are possible."
                )
        if self.total_downsampling > 1 and self.num_channels_enc < 2:
            raise ConfigError(
                "model.num_channels_enc is 1; a cell that halves the "
                "resolution makes its output of four parts, for which at "
                "least 2 base channels are needed."
            )
        if not self.num_preprocess_blocks:
            return
        # The narrowest input that a cell of each kind meets: the first
        # postprocess cell of a block still has twice the channels.
        post = self.num_channels_dec * (
            2 if self.num_postprocess_cells < 2 else 1
        )
        for kind, key, channels in (
            ("pre", "num_channels_enc", self.num_channels_enc),
            ("post", "num_channels_dec", post),
        ):
            for operation in cell_operations(self.architecture, kind):
                if operation.endswith("g8") and channels * 3 % 8:
                    raise ConfigError(
                        f"model.architecture {self.architecture!r} uses "
                        "convolutions with 8 groups, whose three-fold "
                        f"{channels} channels cannot be divided by 8: make "
                        f"model.{key} a multiple of 8, not "
                        f"{getattr(self, key)}."
                    )

    @property
    def padded_size(self) -> int:
        """Height and width of the images the model sees."""
        return self.image_size + 2 * self.padding

    @property
    def total_downsampling(self) -> int:
        """Image size over the size of the coarsest latent scale."""
        return 2 ** (self.num_preprocess_blocks + self.num_latent_scales - 1)

    @property
    def groups_per_scale(self) -> tuple[int, ...]:
        """Groups of each scale, finest first (sum: L)."""
        groups = []
        count = self.num_groups_per_scale
        for _ in range(self.num_latent_scales):
            groups.append(count)
            if self.adaptive_groups:
                count = max(self.min_groups_per_scale, count // 2)
        return tuple(groups)

    @property
    def groups_top_down(self) -> tuple[int, ...]:
        """Groups of each scale, coarsest first: the decoder's order."""
        return self.groups_per_scale[::-1]

    @property
    def num_groups(self) -> int:
        """All latent groups, L."""
        return sum(self.groups_per_scale)

    @property
    def is_plain_vae(self) -> bool:
        """One group at one scale: no towers, and `prior_h0` is unused."""
        return self.num_groups == 1

    @property
    def scale_sizes(self) -> tuple[int, ...]:
        """Height and width of each latent scale, coarsest first."""
        coarsest = self.padded_size // self.total_downsampling
        return tuple(coarsest * 2**i for i in range(self.num_latent_scales))

    @property
    def latent_shapes(self) -> tuple[LatentShape, ...]:
        """Shape of every latent group, top-down."""
        return tuple(
            LatentShape(size, size, self.num_latent_per_group)
            for size, groups in zip(
                self.scale_sizes, self.groups_top_down, strict=True
            )
            for _ in range(groups)
        )

    @property
    def latent_width(self) -> tuple[int, int]:
        """(encoder, decoder) channels at the coarsest scale."""
        factor = self.total_downsampling
        return self.num_channels_enc * factor, self.num_channels_dec * factor

    def least_weights(self) -> int:
        """A lower bound of the number of weights.

        At widths that are used it is more than a fiftieth of the number:
        enough to tell, before anything is built, that a file cannot hold them.
        """
        enc, dec = self.latent_width
        d = self.num_latent_per_group
        total = self.scale_sizes[0] ** 2 * dec
        for number, groups in enumerate(self.groups_top_down):
            flows = 2 * self.num_flow_pairs * 60 * d**2
            total += groups * (18 * enc * d + d * dec + flows)
            # The top group has no cells and no prior of its own.
            below = groups - (number == 0)
            total += below * (self.num_cells_dec * 12 * dec + enc) * dec
            if not self.is_plain_vae:
                total += groups * self.num_cells_enc * 12 * enc**2
            total += self.num_classes * dec
            enc, dec = enc // 2, dec // 2
        for block in range(self.num_preprocess_blocks):
            for cells, width in (
                (self.num_preprocess_cells, self.num_channels_enc),
                (self.num_postprocess_cells, self.num_channels_dec),
            ):
                total += cells * 6 * (width * 2**block) ** 2
        return total

    def convolution_work(self, batch_size: int) -> int:
        """Multiplications of a 1x1 convolution at the finest latent scale.

        Args:
          batch_size: images per pass.
        """
        width = self.latent_width[1] // 2 ** (self.num_latent_scales - 1)
        return batch_size * self.scale_sizes[-1] ** 2 * width**2

    def to_dict(self) -> dict[str, Any]:
        """Plain values; without classes, as before there were any."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k != "num_classes" or v}

    @property
    def num_dimensions(self) -> int:
        """Values per image without padding: H*W*C, for bits/dim."""
        return self.image_size**2 * self.image_channels


def require_between(
    config, group: str, name: str, least: float, most: float
) -> None:
    """Raises ConfigError if the attribute `name` is not in a range.

    Args:
      config: that has the attribute.
      group: of keys, for the message.
      name: of the attribute, a number.
      least: that it may be.
      most: likewise.
    """
    value = getattr(config, name)
    # So that NaN is in no range.
    if not least <= value <= most:
        raise ConfigError(
            f"{group}.{name} is {shown(value)}; it must be {least} to {most}."
        )


def require_choice(config, group: str, name: str, choices) -> None:
    """Raises ConfigError if the attribute `name` is none of the choices."""
    value = getattr(config, name)
    if value not in choices:
        key = f"{group}.{name}" if group else name
        raise ConfigError(
            f"{key} is {shown(value)!r}; it must be one of "
            f"{', '.join(choices)}."
        )
