"""Runs as users have them, small enough for a test."""

from __future__ import annotations

import pathlib

import nvae_tf
from tests.support.model_cases import random_model

# As of a run on MNIST, with two groups at two scales.
_DIGITS = {
    "num_latent_scales": 2,
    "num_groups_per_scale": 1,
    "num_latent_per_group": 2,
    "num_channels_enc": 4,
    "num_channels_dec": 4,
    "num_preprocess_blocks": 1,
    "num_preprocess_cells": 1,
    "num_postprocess_cells": 1,
    "num_cells_enc": 1,
    "num_cells_dec": 1,
    "architecture": "res_bnswish",
    "use_se": False,
}


def digits_config() -> nvae_tf.Config:
    """Of such a run."""
    changes = {f"model__{key}": value for key, value in _DIGITS.items()}
    return nvae_tf.load_config("mnist_demo", **changes)


def write_demo(path: pathlib.Path) -> None:
    """Writes such a run, without training it."""
    config = digits_config()
    nvae_tf.save(random_model(config.model), path, config)
