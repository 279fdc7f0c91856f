"""Configuration: frozen dataclasses that validate, and the shapes they imply.

A run is described by a locked `ml_collections.ConfigDict` (see `configs/`),
which command-line flags may override.  It is turned once, by
`config_from_dict`, into the dataclasses below; the rest of the program reads
only these.  An unknown key, a value of the wrong type or a shape that cannot
exist is a `ConfigError` that names the key and the way out.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from nvae_tf.errors import ConfigError

__all__ = [
    "ARCHITECTURES",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "LatentShape",
    "ModelConfig",
    "TrainConfig",
    "cell_operations",
    "config_from_dict",
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
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
SOURCES = ("mnist_5k", "tfds", "image_folder", "array", "idx", "tfrecord")
RECOMPUTE = ("none", "bn_swish", "cell")


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

    def __post_init__(self):
        """Raises ConfigError for a model that cannot exist."""
        for name in (
            "image_size",
            "image_channels",
            "num_mixtures",
            "num_latent_scales",
            "num_groups_per_scale",
            "min_groups_per_scale",
            "num_latent_per_group",
            "num_channels_enc",
            "num_channels_dec",
            "num_cells_enc",
            "num_cells_dec",
        ):
            _require_at_least(self, "model", name, 1)
        for name in (
            "padding",
            "num_preprocess_blocks",
            "num_preprocess_cells",
            "num_postprocess_cells",
            "num_flow_pairs",
        ):
            _require_at_least(self, "model", name, 0)
        _require_choice(self, "model", "likelihood", LIKELIHOODS)
        _require_choice(self, "model", "architecture", tuple(ARCHITECTURES))
        if not 1 <= self.num_bits <= 8:
            raise ConfigError(
                f"model.num_bits is {self.num_bits}; it must be 1 to 8."
            )
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
        """Where a cell divides its channels, they must be enough."""
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

    @property
    def num_dimensions(self) -> int:
        """Values per image without padding: H*W*C, for bits/dim."""
        return self.image_size**2 * self.image_channels


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are prepared.

    The geometry (size, channels, padding, bits) is the model's.

    Attributes:
      source: "mnist_5k" (5,000 digits, no download), "tfds", "image_folder",
        "array" (.npy, .npz), "idx" (MNIST's files) or "tfrecord" (what
        `python -m nvae_tf.prepare_data` wrote).
      path: file or folder of the user's own images.
      name: dataset name within the source (for TFDS).
      data_dir: where TFDS keeps its data; empty for its default.
      bits: bits per channel of the values in arrays, 1 to 16; 0 for all
        that their dtype has.
      binarize: draw each pixel from a Bernoulli on every read (MNIST).
      flip: mirror training images left-right at random.
      resize: "crop" (shorter side to size, centre crop), "resize" (both sides
        to size), "random_crop" (shorter side to size, then random in
        training, centre in evaluation), "celeba" (the paper's fixed crop), or
        "none".
      alpha: what to do with transparency: put the image on "white" or
        "black" ground, "drop" the channel (the colours below may be anything)
        or "keep" it as the model's fourth channel.
      convert_colors: turn colour images gray where the model has one
        channel; otherwise they are an error there.
      split_by: for folders, "hash" or "folder" (sub-folders train,
        validation, test).
      validation_fraction: share held out when the source has no split.
      skip_corrupt: skip and count unreadable images instead of stopping.
      num_workers: threads that read and decode ahead of use; 0 reads when a
        batch is asked for.
    """

    source: str = "mnist_5k"
    path: str = ""
    name: str = ""
    data_dir: str = ""
    bits: int = 0
    binarize: bool = False
    flip: bool = False
    resize: str = "none"
    alpha: str = "drop"
    convert_colors: bool = False
    split_by: str = "hash"
    validation_fraction: float = 0.1
    skip_corrupt: bool = False
    num_workers: int = 2

    def __post_init__(self):
        """Raises ConfigError for values out of range."""
        _require_choice(self, "data", "source", SOURCES)
        _require_choice(
            self,
            "data",
            "resize",
            ("crop", "resize", "random_crop", "celeba", "none"),
        )
        _require_choice(
            self, "data", "alpha", ("drop", "keep", "white", "black")
        )
        _require_choice(self, "data", "split_by", ("hash", "folder"))
        _require_at_least(self, "data", "num_workers", 0)
        if not 0 <= self.bits <= 16:
            raise ConfigError(
                f"data.bits is {self.bits}; it must be 1 to 16, or 0 for all "
                "that the images' dtype has."
            )
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                "data.validation_fraction must lie between 0 and 1, not "
                f"{self.validation_fraction}."
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Optimisation (paper sections 3.4 and 4, appendix A).

    Attributes:
      epochs: passes over the training data.
      batch_size: images per replica and step.
      learning_rate: of Adamax, after the warm-up.
      min_learning_rate: where the cosine ends.
      warmup_epochs: epochs of linear warm-up.
      weight_decay: coupled L2 coefficient.
      kl_anneal_portion: share of all steps over which beta grows.
      kl_const_portion: share of all steps before it starts growing.
      kl_const_coeff: beta at the start, and its lower bound.
      regularization: lambda of the spectral and BN terms at beta = 1.
      regularization_init: lambda at beta = 0; `None` for no annealing.
      seed: of the initial weights, the noise and the data order.
      log_every: steps between metric records.
    """

    epochs: int = 400
    batch_size: int = 32
    learning_rate: float = 1e-2
    min_learning_rate: float = 1e-4
    warmup_epochs: int = 5
    weight_decay: float = 3e-4
    kl_anneal_portion: float = 0.3
    kl_const_portion: float = 1e-4
    kl_const_coeff: float = 1e-4
    regularization: float = 1e-2
    regularization_init: float | None = None
    seed: int = 0
    log_every: int = 50

    def __post_init__(self):
        """Raises ConfigError for values out of range."""
        for name in ("epochs", "batch_size", "log_every"):
            _require_at_least(self, "train", name, 1)
        _require_at_least(self, "train", "warmup_epochs", 0)
        if self.warmup_epochs >= self.epochs and self.epochs > 1:
            raise ConfigError(
                f"train.warmup_epochs is {self.warmup_epochs}, but there are "
                f"only {self.epochs} epochs; lower it with "
                "--config.train.warmup_epochs."
            )
        if not 0 <= self.seed < 2**31:
            raise ConfigError(
                f"train.seed is {self.seed}; it must be 0 to {2**31 - 1}."
            )
        for name, lowest, highest in (
            ("learning_rate", 0.0, math.inf),
            ("min_learning_rate", 0.0, self.learning_rate),
            ("weight_decay", 0.0, math.inf),
            ("regularization", 0.0, math.inf),
            ("kl_anneal_portion", 1e-9, 1.0),
            ("kl_const_portion", 0.0, 1.0),
            ("kl_const_coeff", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and lowest <= value <= highest):
                raise ConfigError(
                    f"train.{name} is {value}; it must be finite and lie "
                    f"between {lowest:g} and {highest:g}."
                )
        if self.regularization_init is not None and (
            self.regularization_init <= 0 or self.regularization <= 0
        ):
            raise ConfigError(
                "train.regularization_init anneals lambda on a log scale: it "
                "and train.regularization must be positive."
            )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured while training.

    Attributes:
      every_epochs: epochs between evaluations on held-out data.
      num_importance_samples: K of the importance-weighted estimate.
      final_importance_samples: K of the evaluation after the last step.
      batch_size: images per step; 0 takes the training batch size.
      image_temperatures: temperatures of the sample grids.
    """

    every_epochs: int = 1
    num_importance_samples: int = 10
    final_importance_samples: int = 1000
    batch_size: int = 0
    image_temperatures: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0)

    def __post_init__(self):
        """Raises ConfigError for values out of range."""
        for name in (
            "every_epochs",
            "num_importance_samples",
            "final_importance_samples",
        ):
            _require_at_least(self, "evaluation", name, 1)
        _require_at_least(self, "evaluation", "batch_size", 0)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When state is saved, and what is kept.

    Attributes:
      every_steps: steps between checkpoints; 0 saves once per epoch.
      keep: how many of the latest stay on disk.
    """

    every_steps: int = 0
    keep: int = 3

    def __post_init__(self):
        """Raises ConfigError for values out of range."""
        _require_at_least(self, "checkpoint", "every_steps", 0)
        _require_at_least(self, "checkpoint", "keep", 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run.

    Attributes:
      name: short name of the run, for titles and file names.
      model: the architecture.
      data: the images.
      train: the optimisation.
      evaluation: what is measured on the way.
      checkpoint: what is saved.
      precision: "float32", "mixed_float16" or "mixed_bfloat16".
    """

    name: str = "nvae"
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(
        default_factory=EvaluationConfig
    )
    checkpoint: CheckpointConfig = dataclasses.field(
        default_factory=CheckpointConfig
    )
    precision: str = "float32"

    def __post_init__(self):
        """Raises ConfigError where the parts contradict each other."""
        _require_choice(self, "", "precision", PRECISIONS)
        if self.model.likelihood == "bernoulli" and not self.data.binarize:
            raise ConfigError(
                "model.likelihood 'bernoulli' needs binary pixels: set "
                "data.binarize=True, or choose 'mixture' or 'normal'."
            )
        if self.data.binarize and self.model.num_bits != 1:
            raise ConfigError(
                "data.binarize=True gives one bit per pixel, but "
                f"model.num_bits is {self.model.num_bits}; set it to 1."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict; `config_from_dict` reads it back."""
        return dataclasses.asdict(self)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Builds the frozen, validated configuration of a run.

    Args:
      values: a (nested) mapping, such as a `ConfigDict` or parsed JSON.  Keys
        left out take their defaults.

    Raises:
      ConfigError: for an unknown key, a wrong type or impossible values.
    """
    return _build(Config, values, "")


def _build(cls, values: Mapping[str, Any], prefix: str):
    if not isinstance(values, Mapping) and not hasattr(values, "items"):
        raise ConfigError(
            f"config.{prefix.rstrip('.')} must be a group of keys, not "
            f"{values!r}."
        )
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            hint = f" Did you mean {prefix}{close[0]}?" if close else ""
            raise ConfigError(
                f"Unknown config key {prefix}{key}.{hint} Known keys: "
                f"{', '.join(hints)}."
            )
        arguments[key] = _convert(hints[key], value, f"{prefix}{key}")
    return cls(**arguments)


def _convert(kind, value, name: str):
    """Returns `value` as a `kind`, without guessing."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{name}.")
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} must be a list, not {value!r}.")
        element = typing.get_args(kind)[0]
        return tuple(_convert(element, item, name) for item in value)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and is_integer:
        return float(value)
    matches = is_integer if kind is int else isinstance(value, kind)
    if not matches:
        raise ConfigError(
            f"{name} must be of type {kind.__name__}, not {value!r}."
        )
    return value


def _require_at_least(config, group: str, name: str, minimum: int) -> None:
    value = getattr(config, name)
    if value < minimum:
        raise ConfigError(
            f"{group}.{name} is {value}; it must be at least {minimum}."
        )


def _require_choice(config, group: str, name: str, choices) -> None:
    value = getattr(config, name)
    if value not in choices:
        key = f"{group}.{name}" if group else name
        raise ConfigError(
            f"{key} is {value!r}; it must be one of {', '.join(choices)}."
        )
