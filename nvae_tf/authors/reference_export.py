"""A model as a checkpoint that the authors' program reads."""

from __future__ import annotations

import argparse
import collections
import typing
from typing import Any

import numpy as np

from nvae_tf.authors.reference_config import (
    BINARY_PADDING,
    DATASETS,
    MODEL_FIELDS,
    TRAIN_FIELDS,
)
from nvae_tf.authors.reference_import import Slot, reference_slots
from nvae_tf.authors.reference_optimizer import (
    Moments,
    parameter_keys,
    state_from_moments,
)
from nvae_tf.config import (
    Config,
    ModelConfig,
    TrainConfig,
    cell_operations,
    schedules,
)
from nvae_tf.core.errors import CheckpointError
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs.checkpointing import Checkpoint
from nvae_tf.training.optimizer import Adamax

__all__ = [
    "Progress",
    "checkpoint_values",
    "dataset_size",
    "progress_of",
    "suitable_dataset",
]

# The modules of their model, in the order in which it numbers parameters.
_MODULES = (
    "prior_ftr0",
    "stem",
    "pre_process",
    "enc_tower",
    "enc0",
    "enc_sampler",
    "dec_sampler",
    "nf_cells",
    "stem_decoder",
    "dec_tower",
    "post_process",
    "image_conditional",
)
_SIZES = {
    "mnist": 28,
    "omniglot": 28,
    "cifar10": 32,
    "imagenet_32": 32,
    "celeba_64": 64,
    "celeba_256": 256,
    "ffhq": 256,
}
# Arguments that say where and how their program runs, with its values for one
# process on one machine.
_MACHINE = {
    "root": "",
    "save": "exp",
    "data": "",
    "cont_training": False,
    "num_proc_node": 1,
    "node_rank": 0,
    "local_rank": 0,
    "global_rank": 0,
    "num_process_per_node": 1,
    "master_address": "127.0.0.1",
    "distributed": True,
}
# torch's own defaults, and the loss scale at which their program starts.
_SCALER = {
    "scale": 1024.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 0,
}


class Progress(typing.NamedTuple):
    """How far a run is.

    Attributes:
      epoch: epochs completed; theirs goes on with this one, counted from 0.
      global_step: optimiser steps taken.
      moments: of the optimiser; None leaves its state empty.
      loss_scale: of mixed precision; None for the one it starts with.
      good_steps: steps since the loss scale was last lowered.
    """

    epoch: int = 0
    global_step: int = 0
    moments: Moments | None = None
    loss_scale: float | None = None
    good_steps: int = 0


def progress_of(checkpoint: Checkpoint, *, with_moments: bool) -> Progress:
    """How far a checkpoint of ours is.

    Args:
      checkpoint: of a workdir.
      with_moments: whether to take the optimiser's state.
    """
    tensors, metadata = checkpoint.tensors, checkpoint.metadata
    epoch, step = metadata["position"][0], checkpoint.step
    origin = metadata.get("imported")
    if origin and not origin["weights_only"]:
        # Not trained on since, so it has no steps of its own.
        step = origin["global_step"]
    if not with_moments:
        return Progress(epoch, step)
    scale = float(tensors["training/loss_scale"])
    return Progress(
        epoch,
        step,
        Moments(
            tensors["optimizer/m"],
            tensors["optimizer/u"],
            int(tensors["training/updates"]),
        ),
        # 1 where there was nothing to scale.
        loss_scale=scale if scale > 1 else None,
        good_steps=int(tensors["training/good_steps"]),
    )


def checkpoint_values(
    model: NVAE, config: Config, dataset: str, progress: Progress
) -> dict[str, Any]:
    """What their program saves, for `nvae_tf.authors.torch_file.write`.

    Args:
      model: whose weights and statistics to write.
      config: of the run.
      dataset: their name of the data, which decides the likelihood there.
      progress: of the run.

    Raises:
      CheckpointError: if their program has no such model.
    """
    _check_expressible(config.model, dataset)
    slots = reference_slots(model)
    moments, train = progress.moments, config.train
    state = _state_dict(slots, 0 if moments is None else moments.updates)
    # The epoch that the run took last, whose learning rate was in use.
    last = max(progress.epoch - 1, 0)
    rate = schedules.learning_rate(train, last, steps_per_epoch=1)
    group = {
        "lr": rate,
        "betas": (Adamax.BETA_1, Adamax.BETA_2),
        "eps": Adamax.EPSILON,
        "weight_decay": train.weight_decay,
        "initial_lr": train.learning_rate,
        "params": list(range(len(parameter_keys(state)))),
    }
    return {
        "epoch": progress.epoch,
        "state_dict": state,
        "optimizer": {
            "state": state_from_moments(
                moments, state, slots, model.trainable_variables
            )
            if moments
            else {},
            "param_groups": [group],
        },
        "global_step": progress.global_step,
        "args": _arguments(config, dataset),
        "arch_instance": _operations(config.model.architecture),
        "scheduler": _scheduler(train, last, rate),
        "grad_scalar": {
            **_SCALER,
            "scale": progress.loss_scale or _SCALER["scale"],
            "_growth_tracker": progress.good_steps % _SCALER["growth_interval"],
        },
    }


def dataset_size(dataset: str) -> int | None:
    """Pixels a side of their dataset's images; None where unknown."""
    size = _SIZES.get(dataset, dataset.rpartition("_")[2])
    return int(size) if str(size).isdecimal() else None


def suitable_dataset(config: Config) -> str:
    """Their name of the run's data, or else of data of the same shape.

    Raises:
      CheckpointError: if they have none of this size and kind.
    """
    model, data = config.model, config.data
    fitting = [
        name
        for name, known in DATASETS.items()
        if known.binarize == (model.likelihood == "bernoulli")
        and dataset_size(name) == model.image_size
    ]
    same = [
        name
        for name in fitting
        if (DATASETS[name].source, DATASETS[name].name)
        == (data.source, data.name)
    ]
    if not fitting:
        raise CheckpointError(
            f"The authors' program has no dataset of {model.image_size} pixels "
            f"for a {model.likelihood!r} likelihood, and a name of its own "
            "decides both: add one there, and name it, or a similar one, "
            "with --dataset."
        )
    return (same or fitting)[0]


def _check_expressible(model: ModelConfig, dataset: str) -> None:
    if dataset not in DATASETS:
        raise CheckpointError(
            f"The authors' program knows no dataset {dataset!r}; it knows "
            f"{', '.join(DATASETS)}."
        )
    binary = DATASETS[dataset].binarize
    # They tell the two likelihoods of colour apart by the components.
    coloured = "normal" if _num_components(model) == 1 else "mixture"
    expected = (
        ("model.num_classes", model.num_classes, 0),
        ("model.padding", model.padding, BINARY_PADDING if binary else 0),
        ("model.image_channels", model.image_channels, 1 if binary else 3),
        (
            "model.likelihood",
            model.likelihood,
            "bernoulli" if binary else coloured,
        ),
    )
    for key, value, theirs in expected:
        if value != theirs:
            raise CheckpointError(
                f"{key} is {value!r}, but in the authors' program a model of "
                f"{dataset!r} has {theirs!r}: it cannot run this model."
            )


def _num_components(model: ModelConfig) -> int:
    """Their `num_mixture_dec`."""
    return 1 if model.likelihood == "normal" else model.num_mixtures


def _state_dict(slots: dict[str, Slot], updates: int) -> dict[str, np.ndarray]:
    """Their tensors in their order, the duplicates and counters included."""
    state = collections.OrderedDict()
    for key in sorted(slots, key=lambda k: _MODULES.index(k.split(".")[0])):
        slot = slots[key]
        value = np.ascontiguousarray(slot.of(slot.variable))
        prefix, _, name = key.rpartition(".")
        state[key] = value
        if name == "running_var":
            state[f"{prefix}.num_batches_tracked"] = np.array(updates, np.int64)
        if slot.kind == "conv" and f"{prefix}.log_weight_norm" not in slots:
            state[f"{key}_normalized"] = value
    return state


def _arguments(config: Config, dataset: str) -> argparse.Namespace:
    """What their program would have been started with."""
    model, train = config.model, config.train
    values = {
        "dataset": dataset,
        "num_x_bits": 8 if DATASETS[dataset].binarize else model.num_bits,
        **{t: getattr(model, ours) for t, ours in MODEL_FIELDS.items()},
        "num_postprocess_blocks": model.num_preprocess_blocks,
        "num_mixture_dec": _num_components(model),
        **{t: getattr(train, ours) for t, ours in TRAIN_FIELDS.items()},
        "weight_decay_norm_init": train.regularization_init or 10.0,
        "weight_decay_norm_anneal": train.regularization_init is not None,
        "fast_adamax": True,
        **_MACHINE,
    }
    return argparse.Namespace(**values)


def _operations(architecture: str) -> dict[str, list[str]]:
    """The preset as they spell it out; a resampling cell has the same."""
    spelled = {}
    for kind, (plain, resampling) in {
        "enc": ("normal_enc", "down_enc"),
        "dec": ("normal_dec", "up_dec"),
        "pre": ("normal_pre", "down_pre"),
        "post": ("normal_post", "up_post"),
    }.items():
        operations = cell_operations(architecture, kind)
        spelled[plain] = list(operations)
        spelled[resampling] = list(operations)
    return {**spelled, "ar_nn": [""]}


def _scheduler(train: TrainConfig, epoch: int, rate: float) -> dict[str, Any]:
    """The state of torch's `CosineAnnealingLR` after an epoch's training."""
    taken = max(epoch - train.warmup_epochs, 0)
    return {
        "T_max": max(train.epochs - train.warmup_epochs - 1, 1),
        "eta_min": train.min_learning_rate,
        "base_lrs": [train.learning_rate],
        "last_epoch": taken,
        "verbose": False,
        "_step_count": taken + 1,
        "_get_lr_called_within_step": False,
        "_last_lr": [rate],
    }
