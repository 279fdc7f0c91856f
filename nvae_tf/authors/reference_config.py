"""The configuration that a checkpoint of the authors' program describes."""

import argparse
import dataclasses
import logging
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from nvae_tf.config import (
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    config_from_dict,
)
from nvae_tf.core.errors import CheckpointError, ConfigError
from nvae_tf.core.reading import shown

__all__ = [
    "BINARY_PADDING",
    "DATASETS",
    "MODEL_FIELDS",
    "OLD_DEFAULTS",
    "TRAIN_FIELDS",
    "config_from_reference",
    "plain_arguments",
]

_LOG = logging.getLogger(__name__)

# Values of arguments that older checkpoints lack.
OLD_DEFAULTS = {
    "ada_groups": False,
    "min_groups_per_scale": 1,
    "num_mixture_dec": 10,
}
# Fields of their `args` -> ours.
MODEL_FIELDS = {
    "num_latent_scales": "num_latent_scales",
    "num_groups_per_scale": "num_groups_per_scale",
    "num_latent_per_group": "num_latent_per_group",
    "ada_groups": "adaptive_groups",
    "min_groups_per_scale": "min_groups_per_scale",
    "num_channels_enc": "num_channels_enc",
    "num_channels_dec": "num_channels_dec",
    "num_preprocess_blocks": "num_preprocess_blocks",
    "num_preprocess_cells": "num_preprocess_cells",
    "num_postprocess_cells": "num_postprocess_cells",
    "num_cell_per_cond_enc": "num_cells_enc",
    "num_cell_per_cond_dec": "num_cells_dec",
    "arch_instance": "architecture",
    "use_se": "use_se",
    "res_dist": "residual_posterior",
    "num_nf": "num_flow_pairs",
}
TRAIN_FIELDS = {
    "epochs": "epochs",
    "warmup_epochs": "warmup_epochs",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "learning_rate_min": "min_learning_rate",
    "weight_decay": "weight_decay",
    "kl_anneal_portion": "kl_anneal_portion",
    "kl_const_portion": "kl_const_portion",
    "kl_const_coeff": "kl_const_coeff",
    "weight_decay_norm": "regularization",
    "seed": "seed",
}
# Their names of datasets -> ours; the binary ones are padded by 2.
DATASETS = {
    "mnist": DataConfig(source="tfds", name="mnist", binarize=True),
    "omniglot": DataConfig(
        source="tfds",
        name="omniglot",
        binarize=True,
        resize="resize",
        convert_colors=True,
    ),
    "stacked_mnist": DataConfig(
        source="tfds", name="stacked_mnist", resize="resize"
    ),
    "cifar10": DataConfig(source="tfds", name="cifar10", flip=True),
    "celeba_64": DataConfig(
        source="tfds", name="celeb_a", resize="celeba", flip=True
    ),
    "imagenet_32": DataConfig(
        source="tfds", name="downsampled_imagenet/32x32", flip=True
    ),
    "celeba_256": DataConfig(source="tfds", name="celeb_a_hq/256", flip=True),
    "ffhq": DataConfig(source="tfds", name="ffhq/256", flip=True),
    **{
        f"lsun_{kind}_{size}": DataConfig(
            source="tfds",
            name=f"lsun/{kind}",
            resize="random_crop",
            flip=True,
        )
        for kind in ("bedroom", "church")
        for size in (64, 128, 256)
    },
}
BINARY_PADDING = 2


def config_from_reference(args: Any, state: Mapping[str, Any], path) -> Config:
    """The configuration that a checkpoint's `args` and tensors describe.

    The image size and channels, which `args` lack, follow from the tensors.
    Settings of training that make no sense here do not keep the weights from
    being loaded: they are reported and take their defaults.

    Args:
      args: the `argparse.Namespace` of the checkpoint.
      state: its `state_dict`.
      path: of the file, for messages.

    Raises:
      CheckpointError: if a field is missing or makes no sense.
    """
    values = {**OLD_DEFAULTS, **plain_arguments(args)}
    missing = sorted({*MODEL_FIELDS, "dataset"} - set(values))
    if missing:
        raise CheckpointError(
            f"{path}: 'args' has no plain value of {', '.join(missing)}; the "
            "file is not a checkpoint of the NVAE authors' program."
        )
    # Of a text within limits it is what the text says.
    dataset = shown(values["dataset"])
    if dataset not in DATASETS:
        _LOG.warning(
            "%s was trained on '%s', which is not known here: set data.source "
            "before training or evaluating.",
            path,
            dataset,
        )
    data = DATASETS.get(dataset, DataConfig(source="image_folder"))
    try:
        config = config_from_dict(
            {
                "name": dataset,
                "model": _model(values, state, path, data.binarize),
                "data": dataclasses.asdict(data),
                "train": _train(values, path),
            }
        )
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: 'args' makes no sense: {error}"
        ) from error
    _require_weights(config.model, state, path)
    return config


def _require_weights(
    model: ModelConfig, state: Mapping[str, Any], path
) -> None:
    """Raises CheckpointError if a model is far larger than its tensors.

    Whoever wrote the arguments may ask for any model: its weights must be
    there before it is built.
    """
    cells = (
        model.num_preprocess_blocks
        * (model.num_preprocess_cells + model.num_postprocess_cells)
        + (model.num_groups - 1) * model.num_cells_dec
        + 2 * model.num_groups * model.num_flow_pairs
    )
    if not model.is_plain_vae:
        cells += model.num_groups * model.num_cells_enc
    # Tensors may share what is stored, and stand for more of it than there is.
    stored = {}
    for array in state.values():
        while isinstance(array.base, np.ndarray):
            array = array.base
        stored[id(array)] = array.size
    weights = sum(stored.values())
    if cells > len(state) or model.least_weights() > weights:
        raise CheckpointError(
            f"{path} holds {len(state):,} tensors with {weights:,} weights, "
            "too few for the model that its 'args' describe: they do not "
            "belong together."
        )


def plain_arguments(args: Any) -> dict[str, Any]:
    """The numbers, texts and truths in a checkpoint's `args`, by name.

    What is none of them, which the authors' program has not, is left out.
    """
    given = vars(args) if isinstance(args, argparse.Namespace) else {}
    plain = {name: _plain(value) for name, value in given.items()}
    return {
        name: value
        for name, value in plain.items()
        if value is None or isinstance(value, bool | int | float | str)
    }


def _plain(value):
    """Whole numbers as ints, whatever type they were saved in."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _model(values: dict, state: Mapping[str, Any], path, is_binary) -> dict:
    prior, stem = (
        np.shape(state.get(key, ())) for key in ("prior_ftr0", "stem.weight")
    )
    if len(prior) != 3 or len(stem) != 4:
        raise CheckpointError(
            f"{path} lacks the tensors 'prior_ftr0' [C,H,W] and 'stem.weight' "
            "[O,I,H,W], from which the image size and channels follow."
        )
    model = {ours: values[theirs] for theirs, ours in MODEL_FIELDS.items()}
    try:
        blocks, scales = (
            operator.index(model[key])
            for key in ("num_preprocess_blocks", "num_latent_scales")
        )
        size = prior[1] * 2 ** max(0, min(blocks + scales - 1, 20))
    except TypeError as error:
        raise CheckpointError(
            f"{path}: 'num_preprocess_blocks' and 'num_latent_scales' in "
            f"'args' must be whole numbers: {error}."
        ) from error
    widths = (
        ("num_channels_enc", "stem.weight", stem[0]),
        (
            "num_channels_dec",
            "prior_ftr0",
            prior[0] * prior[1] // max(size, 1),
        ),
    )
    for key, tensor, width in widths:
        # Before anything of such a width is built.
        if values[key] != width:
            raise CheckpointError(
                f"{path}: {key!r} in 'args' is {shown(values[key])}, but the "
                f"tensor {tensor!r} is of a model with {width}: they do not "
                "belong together."
            )
    padding = BINARY_PADDING if is_binary else 0
    mixtures = values["num_mixture_dec"]
    likelihood = "normal" if mixtures == 1 else "mixture"
    return {
        **model,
        "image_size": size - 2 * padding,
        "image_channels": stem[1],
        "padding": padding,
        "num_bits": 1 if is_binary else values.get("num_x_bits", 8),
        "likelihood": "bernoulli" if is_binary else likelihood,
        "num_mixtures": mixtures,
    }


def _train(values: dict, path) -> dict:
    train = {
        ours: values[theirs]
        for theirs, ours in TRAIN_FIELDS.items()
        if theirs in values
    }
    if values.get("weight_decay_norm_anneal"):
        train["regularization_init"] = values.get("weight_decay_norm_init")
    try:
        config_from_dict({"train": train})
    except ConfigError as error:
        _LOG.warning(
            "%s: the settings of training are not usable and take their "
            "defaults: %s",
            path,
            error,
        )
        return dataclasses.asdict(TrainConfig())
    return train
