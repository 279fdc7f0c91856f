"""Configuration: frozen dataclasses that validate, and the shapes they imply.

A run is described by a locked `ml_collections.ConfigDict` (see `configs/`),
which command-line flags may override.  It is turned once, by
`config_from_dict`, into the dataclasses below; the rest of the program reads
only these.  An unknown key, a value of the wrong type or a shape that cannot
exist is a `ConfigError` that names the key and the way out.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from nvae_tf.config.model import ModelConfig, require_between, require_choice
from nvae_tf.core.errors import ConfigError

__all__ = [
    "MAX_PIXELS",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "TrainConfig",
]

PRECISIONS = ("float32", "tf32", "mixed_float16", "mixed_bfloat16")
SOURCES = ("mnist_5k", "tfds", "image_folder", "array", "idx", "tfrecord")
RECOMPUTE = ("none", "bn_swish", "cell")
# Of an image file, 8192 x 8192; and what Pillow decodes without being asked.
MAX_PIXELS = 2**26
_MOST_PIXELS = 89_478_485
# What no run comes to: epochs, steps, images.
_MANY = 10**9


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are prepared.

    The geometry (size, channels, padding, bits) is the model's.

    Attributes:
      source: "mnist_5k" (5,000 digits, no download), "tfds", "image_folder",
        "array" (.npy, .npz), "idx" (MNIST's files) or "tfrecord" (what
        `nvae data prepare` wrote).
      path: file or folder of the user's own images.
      name: dataset name within the source (for TFDS).
      data_dir: where TFDS keeps its data; empty for its default.
      bits: bits per channel of the values in arrays, 1 to 16; 0 for all
        that their dtype has.
      labels: read the class of every image, too, for a model that is told it;
        see `ModelConfig.num_classes`.
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
      split_by: for folders, "content" (a hash of each file's content, so that
        copies of an image stay on one side), "hash" (of its path, as runs of
        before did) or "folder" (sub-folders train, validation, test).
      validation_fraction: share held out when the source has no split.
      skip_corrupt: skip and count unreadable images instead of stopping.
      num_workers: threads that read and decode ahead of use; 0 reads when a
        batch is asked for.
      max_pixels: what an image file may have by its header, up to 89,478,485;
        larger ones count as unreadable. Decoding takes up to 16 bytes for
        each.
      max_unpacked_mb: MiB that a compressed file of many images (.npz, gzipped
        IDX) may unpack to by its header; larger ones are refused. They are
        unpacked in memory, which .npy files are not.
    """

    source: str = "mnist_5k"
    path: str = ""
    name: str = ""
    data_dir: str = ""
    bits: int = 0
    labels: bool = False
    binarize: bool = False
    flip: bool = False
    resize: str = "none"
    alpha: str = "drop"
    convert_colors: bool = False
    split_by: str = "content"
    validation_fraction: float = 0.1
    skip_corrupt: bool = False
    num_workers: int = 2
    max_pixels: int = MAX_PIXELS
    max_unpacked_mb: int = 2048

    def __post_init__(self):
        """Raises ConfigError for values out of range."""
        require_choice(self, "data", "source", SOURCES)
        require_choice(
            self,
            "data",
            "resize",
            ("crop", "resize", "random_crop", "celeba", "none"),
        )
        require_choice(
            self, "data", "alpha", ("drop", "keep", "white", "black")
        )
        require_choice(self, "data", "split_by", ("content", "hash", "folder"))
        require_between(self, "data", "num_workers", 0, 1024)
        require_between(self, "data", "max_pixels", 1, _MOST_PIXELS)
        require_between(self, "data", "max_unpacked_mb", 1, 2**24)
        require_between(self, "data", "bits", 0, 16)
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
      batch_size: images per replica and pass.
      accumulate: passes per step, whose gradients are averaged: as a batch
        this many times as large, but that batch normalisation sees each pass
        apart.
      learning_rate: of Adamax, after the warm-up.
      min_learning_rate: where the cosine ends.
      warmup_epochs: epochs of linear warm-up.
      weight_decay: coupled L2 coefficient.
      kl_anneal_portion: share of all steps over which beta grows.
      kl_const_portion: share of all steps before it starts growing.
      kl_const_coeff: beta at the start, and its lower bound.
      regularization: lambda of the spectral and BN terms at beta = 1.
      regularization_init: lambda at beta = 0; `None` for no annealing.
      ema_decay: of the exponential average of the weights per step, which
        evaluation, sampling and export then take unless told otherwise; 0
        keeps none.
      max_gradient_norm: a step whose gradient is longer is skipped, like one
        that is not finite; 0 sets no limit.
      skips_before_rollback: skipped steps in a row after which the run goes
        back to its last good checkpoint, and on with other data and noise.
      max_rollbacks: how often, before the run stops with a diagnosis.
      rollback_learning_rate: what each return multiplies the learning rate by.
      rollback_regularization: likewise lambda.
      watchdog_minutes: a run that makes no progress for so long ends, so that
        its scheduler can start it again; 0 waits for ever.
      seed: of the initial weights, the noise and the data order.
      log_every: steps between metric records.
      initial_model: whose weights a new run begins with, instead of random
        ones: a name of `nvae models`, a folder of such a model or
        hf://user/repo. Its architecture must be that of the run. What is
        resumed does not read it.
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
    accumulate: int = 1
    ema_decay: float = 0.0
    max_gradient_norm: float = 0.0
    skips_before_rollback: int = 10
    max_rollbacks: int = 3
    rollback_learning_rate: float = 1.0
    rollback_regularization: float = 1.0
    watchdog_minutes: float = 30.0
    seed: int = 0
    log_every: int = 50
    initial_model: str = ""

    def __post_init__(self):
        """Raises ConfigError for values out of range."""
        for name in ("epochs", "log_every", "skips_before_rollback"):
            require_between(self, "train", name, 1, _MANY)
        for name in ("batch_size", "accumulate"):
            require_between(self, "train", name, 1, 2**20)
        for name in ("warmup_epochs", "max_rollbacks"):
            require_between(self, "train", name, 0, _MANY)
        if self.warmup_epochs >= self.epochs and self.epochs > 1:
            raise ConfigError(
                f"train.warmup_epochs is {self.warmup_epochs}, but there are "
                f"only {self.epochs} epochs; lower it with "
                "--config.train.warmup_epochs."
            )
        require_between(self, "train", "seed", 0, 2**31 - 1)
        for name, lowest, highest in (
            ("learning_rate", 0.0, math.inf),
            ("min_learning_rate", 0.0, self.learning_rate),
            ("weight_decay", 0.0, math.inf),
            ("regularization", 0.0, math.inf),
            ("kl_anneal_portion", 1e-9, 1.0),
            ("kl_const_portion", 0.0, 1.0),
            ("kl_const_coeff", 0.0, 1.0),
            ("ema_decay", 0.0, 1.0),
            ("max_gradient_norm", 0.0, math.inf),
            ("rollback_learning_rate", 1e-3, 1.0),
            ("rollback_regularization", 1.0, 1e3),
            ("watchdog_minutes", 0.0, math.inf),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and lowest <= value <= highest):
                raise ConfigError(
                    f"train.{name} is {value}; it must be finite and lie "
                    f"between {lowest:g} and {highest:g}."
                )
        if self.regularization_init is not None and not (
            0 < self.regularization_init < math.inf and self.regularization > 0
        ):
            raise ConfigError(
                "train.regularization_init anneals lambda on a log scale: it "
                "and train.regularization must be positive and finite."
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
            require_between(self, "evaluation", name, 1, _MANY)
        require_between(self, "evaluation", "batch_size", 0, 2**20)
        for temperature in self.image_temperatures:
            if not 0 <= temperature <= 100:
                raise ConfigError(
                    "evaluation.image_temperatures has "
                    f"{temperature}; each must be 0 to 100."
                )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When state is saved, and what is kept.

    Attributes:
      every_steps: steps between checkpoints; 0 counts in epochs.
      every_epochs: epochs between checkpoints, where `every_steps` is 0; every
        evaluation is followed by one, too.
      keep: how many of the latest stay on disk.
      keep_every_hours: hours of training between checkpoints that stay for
        good; 0 for none.
      keep_best: also keep the one with the lowest held-out NELBO.
    """

    every_steps: int = 0
    every_epochs: int = 1
    keep: int = 3
    keep_every_hours: float = 0.0
    keep_best: bool = True

    def __post_init__(self):
        """Raises ConfigError for values out of range."""
        require_between(self, "checkpoint", "every_steps", 0, _MANY)
        require_between(self, "checkpoint", "every_epochs", 1, _MANY)
        require_between(self, "checkpoint", "keep", 1, _MANY)
        require_between(self, "checkpoint", "keep_every_hours", 0, _MANY)


def policy_of(precision: str) -> str:
    """The name of Keras's policy for one of `PRECISIONS`."""
    return "float32" if precision == "tf32" else precision


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
      precision: "float32", "tf32" (as float32, but GPUs may round the factors
        of products to ten bits), "mixed_float16" or "mixed_bfloat16".
      recompute: what the backward pass computes again instead of keeping:
        "none", "bn_swish" (normalised and activated values, as in the paper)
        or "cell" (all that is inside a residual cell or flow cell).
      jit_compile: compile the training step with XLA; for GPUs and TPUs, where
        what it gains in TensorFlow has not been measured.  The noise of a seed
        is then another.
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
    recompute: str = "bn_swish"
    jit_compile: bool = False

    def __post_init__(self):
        """Raises ConfigError where the parts contradict each other."""
        require_choice(self, "", "precision", PRECISIONS)
        require_choice(self, "", "recompute", RECOMPUTE)
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

        if self.model.num_classes and not self.data.labels:
            raise ConfigError(
                f"model.num_classes is {self.model.num_classes}, so the model "
                "is told the class of every image, but data.labels is False: "
                "set data.labels=True, or model.num_classes=0."
            )

    @property
    def dtype_policy(self) -> str:
        """The name of Keras's policy for `precision`."""
        return policy_of(self.precision)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict; `config_from_dict` reads it back.

        Keys that came later are left out where they say nothing: earlier
        versions read it, and compare it with theirs.
        """
        values = dataclasses.asdict(self)
        values["model"] = self.model.to_dict()
        if not self.data.labels:
            del values["data"]["labels"]
        if not self.train.initial_model:
            del values["train"]["initial_model"]
        return values
