"""Configurations: what is refused, what they imply, how they are written."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from nvae_tf.config import (
    ARCHITECTURES,
    Config,
    DataConfig,
    LatentShape,
    ModelConfig,
    TrainConfig,
    cell_operations,
    config_from_dict,
)
from nvae_tf.core.errors import ConfigError

GROUPS = {
    field.name: type(getattr(Config(), field.name))
    for field in dataclasses.fields(Config)
    if dataclasses.is_dataclass(getattr(Config(), field.name))
}


def test_no_values_give_the_defaults():
    assert config_from_dict({}) == Config()


def test_configs_survive_json():
    config = config_from_dict(
        {
            "name": "run",
            "model": {"num_latent_scales": 2, "adaptive_groups": True},
            "train": {"regularization_init": 1.0},
            "evaluation": {"image_temperatures": [0.5, 1]},
        }
    )
    text = json.dumps(config.to_dict())
    assert config_from_dict(json.loads(text)) == config
    assert config.evaluation.image_temperatures == (0.5, 1.0)


def test_an_unknown_top_level_key_names_its_neighbour():
    with pytest.raises(ConfigError, match=r"key precison.*mean precision"):
        config_from_dict({"precison": "float32"})


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_an_unknown_key_of_a_group_names_its_neighbour(group):
    key = dataclasses.fields(GROUPS[group])[0].name
    with pytest.raises(
        ConfigError, match=rf"{group}\.{key}x.*mean {group}\.{key}\?"
    ):
        config_from_dict({group: {f"{key}x": 1}})


def test_an_unknown_key_without_neighbours_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"train\.zzzz.*epochs, batch_size"):
        config_from_dict({"train": {"zzzz": 1}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"epochs": "many"}}, "train.epochs must be of type int"),
        ({"train": {"epochs": 2.5}}, "train.epochs must be of type int"),
        ({"train": {"epochs": True}}, "train.epochs must be of type int"),
        ({"train": {"epochs": None}}, "train.epochs must be of type int"),
        ({"train": {"learning_rate": "1"}}, "learning_rate must be .* float"),
        ({"train": {"learning_rate": False}}, "learning_rate must be .* float"),
        ({"train": {"regularization_init": "x"}}, "must be of type float"),
        ({"model": {"use_se": 1}}, "model.use_se must be of type bool"),
        ({"data": {"path": 7}}, "data.path must be of type str"),
        ({"evaluation": {"image_temperatures": 1.0}}, "must be a list"),
        ({"evaluation": {"image_temperatures": ["a"]}}, "must be of type"),
        ({"model": 3}, "config.model must be a group of keys, not 3"),
    ],
)
def test_wrong_types_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values)


def test_whole_numbers_serve_as_floats():
    config = config_from_dict(
        {"train": {"learning_rate": 1, "regularization_init": 2}}
    )
    assert config.train.learning_rate == 1.0
    assert isinstance(config.train.learning_rate, float)
    assert isinstance(config.train.regularization_init, float)


@pytest.mark.parametrize(
    "name",
    [
        field.name
        for field in dataclasses.fields(ModelConfig)
        if field.name.startswith(("num_", "image_", "min_"))
        and field.name
        not in ("num_classes", "num_flow_pairs", "num_preprocess_blocks")
    ],
)
def test_sizes_of_zero_are_refused(name):
    with pytest.raises(ConfigError, match=rf"model\.{name}"):
        ModelConfig(**{name: 0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 28, "num_latent_scales": 2}, None),
        ({"image_size": 28, "num_latent_scales": 3}, "multiple of 8"),
        ({"image_size": 28, "padding": 2, "num_latent_scales": 3}, None),
        ({"image_size": 33}, "33.*multiple of 2"),
        ({"num_flow_pairs": -1}, "num_flow_pairs is -1"),
        ({"padding": -1}, "padding is -1"),
        ({"num_bits": 9}, "num_bits is 9; it must be 1 to 8"),
        ({"num_preprocess_cells": 0}, "num_preprocess_cells"),
        ({"likelihood": "gaussian"}, "bernoulli, mixture, normal"),
        ({"likelihood": "bernoulli"}, "needs model.num_bits=1"),
        ({"architecture": "resnet"}, "res_mbconv"),
        (
            {"architecture": "mbconv_den", "num_channels_dec": 20},
            "a multiple of 8, not 20",
        ),
        ({"architecture": "mbconv_den", "num_channels_dec": 24}, None),
    ],
)
def test_impossible_models_are_refused(values, message):
    if message is None:
        ModelConfig(**values)
        return
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 5}, "warmup_epochs is 5.*only 5 epochs"),
        ({"batch_size": 0}, "train.batch_size is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"regularization_init": 0.0}, "log scale"),
        ({"regularization_init": 1.0, "regularization": 0.0}, "log scale"),
    ],
)
def test_impossible_training_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "web"}, "tfds, image_folder"),
        ({"resize": "stretch"}, "random_crop"),
        ({"bits": 17}, "data.bits is 17"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
    ],
)
def test_impossible_data_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**values)


def test_bernoulli_pixels_have_to_be_binarised():
    values = {"model": {"likelihood": "bernoulli", "num_bits": 1}}
    with pytest.raises(ConfigError, match=r"data\.binarize=True"):
        config_from_dict(values)
    config_from_dict(values | {"data": {"binarize": True}})


def test_binary_pixels_have_one_bit():
    with pytest.raises(ConfigError, match="num_bits is 8; set it to 1"):
        config_from_dict({"data": {"binarize": True}})


def test_configs_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.epochs = 1


# Scales, groups of the finest, adaptive, least -> finest first. Cases of
# tests/data/reference/likelihoods.npz and of the paper's table.
@pytest.mark.parametrize(
    ("case", "groups"),
    [
        ((1, 30, False, 1), (30,)),
        ((2, 10, True, 1), (10, 5)),
        ((3, 20, True, 1), (20, 10, 5)),
        ((5, 16, True, 4), (16, 8, 4, 4, 4)),
        ((3, 7, True, 2), (7, 3, 2)),
        ((4, 3, True, 1), (3, 1, 1, 1)),
        ((3, 4, False, 1), (4, 4, 4)),
        # The bound does not lift the finest scale.
        ((2, 2, True, 3), (2, 3)),
    ],
)
def test_adaptive_groups_halve_towards_coarser_scales(case, groups):
    scales, finest, adaptive, least = case
    config = ModelConfig(
        image_size=64,
        num_latent_scales=scales,
        num_groups_per_scale=finest,
        adaptive_groups=adaptive,
        min_groups_per_scale=least,
    )
    assert config.groups_per_scale == groups
    assert config.groups_top_down == groups[::-1]
    assert config.num_groups == sum(groups)


def test_groups_agree_with_the_authors():
    reference = pathlib.Path(__file__).parents[1] / "data" / "reference"
    with np.load(reference / "likelihoods.npz") as golden:
        cases = [key for key in golden.files if key.startswith("groups/")]
        assert cases
        for key in cases:
            scales, finest, adaptive, least = key.split("/")[1].split("_")
            config = ModelConfig(
                image_size=256,
                num_latent_scales=int(scales),
                num_groups_per_scale=int(finest),
                adaptive_groups=adaptive == "1",
                min_groups_per_scale=int(least),
            )
            assert list(config.groups_per_scale) == golden[key].tolist()


def test_latents_come_top_down_from_the_coarsest_scale():
    config = ModelConfig(
        image_size=28,
        padding=2,
        num_latent_scales=2,
        num_groups_per_scale=2,
        adaptive_groups=True,
        num_preprocess_blocks=2,
        num_latent_per_group=20,
        num_channels_enc=32,
        num_channels_dec=16,
    )
    assert config.padded_size == 32
    assert config.total_downsampling == 8
    assert config.scale_sizes == (4, 8)
    assert config.latent_shapes == (
        LatentShape(4, 4, 20),
        LatentShape(8, 8, 20),
        LatentShape(8, 8, 20),
    )
    assert config.latent_width == (256, 128)


def test_bits_per_dim_leave_out_the_padding():
    config = ModelConfig(image_size=28, padding=2, image_channels=1)
    assert config.num_dimensions == 28 * 28


def test_one_group_is_the_plain_vae():
    assert ModelConfig(num_groups_per_scale=1).is_plain_vae
    assert not ModelConfig(num_groups_per_scale=2).is_plain_vae


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_architectures_name_the_operations_of_every_kind(architecture):
    for kind in ("enc", "dec", "pre", "post"):
        assert cell_operations(architecture, kind)


def test_work_of_a_convolution_grows_with_batch_pixels_and_width():
    # 32 pixels, halved once before the finest scale: 16, of twice the width.
    config = ModelConfig(
        image_size=32,
        num_latent_scales=2,
        num_preprocess_blocks=1,
        num_channels_enc=8,
        num_channels_dec=8,
    )
    assert config.convolution_work(3) == 3 * 16**2 * 16**2
