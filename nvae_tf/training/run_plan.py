"""What a run would be, found out without running it.

Nothing large is allocated and nothing is downloaded;
`nvae_tf.training.dry_run` puts it into words.
"""

from __future__ import annotations

import dataclasses
import math
from concurrent import futures

import keras
import tensorflow as tf

from nvae_tf.config import Config, LatentShape, ModelConfig
from nvae_tf.core import extras
from nvae_tf.core.errors import UserError
from nvae_tf.datasets import pipeline
from nvae_tf.datasets.sources import tfds_folder, tfds_is_prepared
from nvae_tf.datasets.tfds_source import DATASETS
from nvae_tf.distribute import machine
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs import pretrained
from nvae_tf.training import activation_memory
from nvae_tf.training.activation_memory import ActivationMemory

__all__ = [
    "Plan",
    "Scale",
    "make_plan",
    "model_without_weights",
]

# Training images per `data.name`; `nvae_tf.datasets.tfds_source` says which
# splits.
_NUM_IMAGES = {
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "stacked_mnist": 60_000,
    "omniglot": 19_280,
    "cifar10": 50_000,
    "downsampled_imagenet/32x32": 1_281_149,
    "downsampled_imagenet/64x64": 1_281_149,
    "celeb_a": 162_770,
    "celeb_a_hq/256": 27_000,
    "ffhq/256": 63_000,
    "lsun/bedroom": 3_033_042,
    "lsun/church": 126_227,
}
_BY_HAND = ("celeb_a_hq/256", "ffhq/256")
# Per trainable parameter, float32: value, gradient, both moments of Adamax,
# the normalised kernel and its gradient.
_STATE_BYTES = 6 * 4
# And its average, where the run keeps one.
_AVERAGE_BYTES = 4
# And the gradient of all replicas, where there are several, beside one's own.
_REDUCED_BYTES = 4
# Share of a device's memory from which on an estimate of what is kept, which
# leaves out what comes and goes, is too near to it.
_TIGHT = 0.75


@dataclasses.dataclass(frozen=True)
class Scale:
    """The latent groups of one resolution.

    Attributes:
      first_group: number of its first group, top-down.
      num_groups: how many there are.
      shape: of each group's latent.
      encoder_channels: width of the bottom-up tower.
      decoder_channels: width of the top-down tower.
    """

    first_group: int
    num_groups: int
    shape: LatentShape
    encoder_channels: int
    decoder_channels: int

    @property
    def num_values(self) -> int:
        """Latent values per image."""
        return self.num_groups * math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that has not been run.

    Attributes:
      scales: coarsest first.
      num_classes: that the model is told, counted where they are; 0 for none.
      num_parameters: trainable ones.
      activations: estimated bytes per image, by what is recomputed.
      state_bytes: estimated bytes of weights, gradients and optimiser.
      batch: images per pass, over all replicas.
      effective_batch: images per step.
      num_images: of the training split; None where nobody knows yet.
      steps_per_epoch: None with `num_images`.
      num_steps: of all epochs; None with `num_images`.
      device: what would compute: "GPU" or "CPU".
      device_bytes: its memory; None where unknown.
      problems: what is foreseen to go wrong, what strikes first coming first.
    """

    scales: tuple[Scale, ...]
    num_classes: int
    num_parameters: int
    activations: ActivationMemory
    state_bytes: int
    batch: int
    effective_batch: int
    num_images: int | None
    steps_per_epoch: int | None
    num_steps: int | None
    device: str
    device_bytes: int | None
    problems: tuple[str, ...]

    @property
    def num_latent_values(self) -> int:
        """Latent values per image."""
        return sum(scale.num_values for scale in self.scales)


@dataclasses.dataclass(frozen=True)
class _Data:
    """The training images: how many, and what stands in their way.

    A download may still bring what `warning` misses.
    """

    num_images: int | None = None
    error: str | None = None
    warning: str | None = None


def model_without_weights(config: ModelConfig) -> NVAE:
    """An NVAE whose variables have shapes and no values.

    It takes hardly any memory, whatever its size; it cannot be called.
    """

    def build() -> NVAE:
        with keras.StatelessScope(initialize_variables=False):
            return NVAE(config, seed=None)

    # Keras keeps a list of such variables per thread, and gives them values
    # at the next opportunity: a thread of their own never has one.
    with futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(build).result()


def make_plan(config: Config, num_replicas: int = 1) -> Plan:
    """Finds out what a run would be.

    Args:
      config: of the run.
      num_replicas: devices that would train together.
    """
    problem = None
    try:
        config = pipeline.with_classes(config)
        pretrained.require_same_architecture(config)
    except UserError as error:
        problem = str(error)
    model = model_without_weights(config.model)
    num_parameters = sum(
        math.prod(variable.shape) for variable in model.trainable_variables
    )
    data = _look_at_data(config)
    batch = config.train.batch_size * num_replicas
    steps = (
        None
        if data.num_images is None
        else data.num_images // batch // config.train.accumulate
    )
    device, device_bytes = _device()
    plan = Plan(
        scales=_scales(config.model),
        num_classes=config.model.num_classes,
        num_parameters=num_parameters,
        activations=activation_memory.estimate(
            model, bytes_per_value=4 if config.dtype_policy == "float32" else 2
        ),
        state_bytes=num_parameters
        * (
            _STATE_BYTES
            + (_AVERAGE_BYTES if config.train.ema_decay else 0)
            + (_REDUCED_BYTES if num_replicas > 1 else 0)
        ),
        batch=batch,
        effective_batch=batch * config.train.accumulate,
        num_images=data.num_images,
        steps_per_epoch=steps,
        num_steps=None if steps is None else steps * config.train.epochs,
        device=device,
        device_bytes=device_bytes,
        problems=(),
    )
    problems = [problem or data.error, *_foresee(config, plan), data.warning]
    return dataclasses.replace(plan, problems=tuple(filter(None, problems)))


def _scales(config: ModelConfig) -> tuple[Scale, ...]:
    scales, first = [], 0
    encoder, decoder = config.latent_width
    for groups, size in zip(
        config.groups_top_down, config.scale_sizes, strict=True
    ):
        shape = LatentShape(size, size, config.num_latent_per_group)
        scales.append(Scale(first, groups, shape, encoder, decoder))
        first += groups
        encoder, decoder = encoder // 2, decoder // 2
    return tuple(scales)


def _look_at_data(config: Config) -> _Data:
    if config.data.source == "tfds":
        return _look_at_tfds(config)
    try:
        source = pipeline.open_source(config, "train")
        pipeline.open_source(config, "validation")
        if len(source):
            source[0]  # An image that does not fit raises here.
        return _Data(len(source))
    except UserError as error:
        return _Data(error=str(error))


def _look_at_tfds(config: Config) -> _Data:
    """Opens nothing: TFDS would begin to download."""
    data = config.data
    if not data.name:
        return _Data(error="data.source 'tfds' needs data.name.")
    num_images = _NUM_IMAGES.get(data.name)
    for package in ("tensorflow_datasets", "array_record"):
        if not extras.is_installed(package):
            return _Data(
                num_images,
                error=f"{data.name} needs the package {package}: "
                f"{extras.how_to_install('data')}.",
            )
    directory = tfds_folder(data.data_dir)
    known = DATASETS.get(data.name)
    if tfds_is_prepared(directory / (known.builder if known else data.name)):
        return _Data(num_images)
    missing = f"{data.name} is not in {directory}"
    if data.name in _BY_HAND:
        return _Data(
            num_images,
            error=f"{missing}, and its images must be downloaded by hand: the "
            "first start says which files go where. If they lie elsewhere "
            "already, name the folder with --config.data.data_dir.",
        )
    return _Data(
        num_images,
        warning=f"{missing}: the first start downloads and prepares it there. "
        "If it lies elsewhere already, name the folder with "
        "--config.data.data_dir.",
    )


def _device() -> tuple[str, int | None]:
    """What would compute, and the bytes of memory it has."""
    if tf.config.list_physical_devices("GPU"):
        return "GPU", _gpu_memory()
    return "CPU", machine.memory_bytes()


def _gpu_memory() -> int | None:
    """Of the smallest GPU; TensorFlow does not tell without taking it all."""
    try:
        found = [gpu.memory for gpu in machine.driver_gpus()]
    except OSError:
        return None
    return min(filter(None, found), default=None)


def _foresee(config: Config, plan: Plan) -> list[str]:
    """Problems other than missing data."""
    model, train = config.model, config.train
    problems = []
    if plan.steps_per_epoch == 0:
        problems.append(
            f"There are {plan.num_images:,} training images, too few for one "
            f"step of {plan.effective_batch:,}: lower train.batch_size"
            f"{' or train.accumulate' if train.accumulate > 1 else ''}."
        )
    if plan.batch * model.scale_sizes[0] ** 2 == 1:
        problems.append(
            "The coarsest scale has one pixel and the batch one image, so "
            "batch normalisation has a single value to normalise: raise "
            "train.batch_size or lower model.num_latent_scales."
        )
    problems += _foresee_memory(config, plan)
    if train.warmup_epochs >= train.epochs:
        problems.append(
            f"train.warmup_epochs is {train.warmup_epochs} of "
            f"{train.epochs} epochs: the learning rate never reaches "
            f"{train.learning_rate:g}."
        )
    if train.kl_const_portion + train.kl_anneal_portion > 1:
        problems.append(
            "train.kl_const_portion and train.kl_anneal_portion come to more "
            "than 1: the KL term never has its full weight."
        )
    return problems


def _foresee_memory(config: Config, plan: Plan) -> list[str]:
    kept = getattr(plan.activations, config.recompute)
    needed = plan.state_bytes + config.train.batch_size * kept
    if plan.device_bytes is None or needed < _TIGHT * plan.device_bytes:
        return []
    device = "machine" if plan.device == "CPU" else plan.device
    remedies = ["lower train.batch_size"]
    if config.dtype_policy == "float32":
        remedies.append("set precision=mixed_bfloat16")
    if config.recompute != "cell":
        remedies.append("set recompute=cell")
    remedy = " or ".join(remedies)
    sizes = (
        f"Training takes at least {needed / 1e9:,.1f} GB; this {device} has "
        f"{plan.device_bytes / 1e9:,.1f} GB"
    )
    if needed > plan.device_bytes:
        return [f"{sizes}: {remedy}."]
    return [
        f"{sizes}, which may be too little for the temporary tensors on top: "
        f"if it is, {remedy}."
    ]
