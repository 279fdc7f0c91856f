"""Tests of configurations that nobody means, or that somebody made to hurt."""

import dataclasses
import json
import math
import pathlib

import pytest

from nvae_tf.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TrainConfig,
    config_from_dict,
    presets,
)
from nvae_tf.core.errors import ConfigError
from tests.support.refusals import refused

_GROUPS = {
    "model": ModelConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
    "checkpoint": CheckpointConfig,
}


def _numbers(kind):
    return [
        (group, field.name)
        for group, cls in _GROUPS.items()
        for field in dataclasses.fields(cls)
        if kind in field.type.split(" | ")
    ]


def _refused(values, part=""):
    with refused(ConfigError, part, longest=800, cpu_seconds=5):
        config_from_dict(values)


@pytest.mark.parametrize(
    "value",
    [2**31, 10**4000, -1, -(10**4000)],
    ids=["2**31", "huge", "-1", "low"],
)
@pytest.mark.parametrize(("group", "name"), _numbers("int"))
def test_every_integer_has_a_least_and_a_most(group, name, value):
    _refused({group: {name: value}}, f"{group}.{name}")


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 10**400],
    ids=["nan", "inf", "-inf", "huge"],
)
@pytest.mark.parametrize(("group", "name"), _numbers("float"))
def test_every_number_is_finite(group, name, value):
    _refused({group: {name: value}}, f"{group}.{name}")


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 4096, "num_latent_scales": 10, "num_channels_enc": 64},
        {"image_size": 4096, "num_latent_scales": 10, "num_channels_dec": 64},
    ],
)
def test_channels_that_grow_with_the_scales_have_a_most(values):
    _refused({"model": values}, "channels at the coarsest scale")


@pytest.mark.parametrize(
    "values",
    [
        {"name": "\0"},
        {"name": "\ud800"},
        {"name": "x" * 10**6},
        {"name": ["x"] * 10**6},
        {"x" * 10**6: 1},
        {"data": "x" * 10**6},
        {"data": {"path": "a\0b"}},
        {"data": {"source": "x" * 10**6}},
        {"precision": "x" * 10**6},
        {"model": {"use_se": 10**5000}},
        {"evaluation": {"image_temperatures": [0.5] * 10**6}},
        {"evaluation": {"image_temperatures": [math.nan]}},
        {"evaluation": {"image_temperatures": [-1]}},
        {"evaluation": {"image_temperatures": "x" * 10**6}},
    ],
)
def test_what_is_long_or_no_text_is_refused_in_a_short_sentence(values):
    _refused(values)


def test_paper_and_everything_near_it_is_far_from_the_limits():
    for name in presets.names():
        if name not in ("pretrained", "workdir"):
            presets.load(name)
    big = {"num_latent_scales": 7, "num_groups_per_scale": 200}
    config_from_dict({"model": {"image_size": 1024, **big}})


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"def get_config(:\n", "SyntaxError"),
        (b"", "get_config"),
        (b"\0", "null bytes"),
        (b'x = "\xff"\n', "SyntaxError"),
        (b"def f():\n    f()\nf()\n", "RecursionError"),
        (b"raise SystemExit(0)\n", "SystemExit"),
        (b"raise ValueError('x' * 10**6)\n", "ValueError"),
        (b"def get_config():\n    return 3\n", "ConfigDict"),
        (b"get_config = 3\n", "TypeError"),
    ],
)
def test_file_that_is_no_configuration_is_refused(tmp_path, content, part):
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=part) as caught:
        presets.read(str(path))
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    "name", ["", ".", "/", "/dev/null", "/dev/zero", "a\0", "x" * 10**6, ":"]
)
def test_what_is_no_file_is_no_configuration(name):
    with pytest.raises(ConfigError, match="no preset") as caught:
        presets.read(name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 10**5,
        "[]",
        '{"model": {"nope": 1}}',
        '{"model": 1}',
        '{"train": {"seed": "0"}}',
        '{"train": {"seed": 1, "seed": 2}}',
        '{"train": {"learning_rate": NaN}}',
        '{"model": {"num_groups_per_scale": 1000000000}}',
    ],
)
def test_configuration_of_a_damaged_workdir_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        presets.read(f"workdir:{tmp_path}")
    assert len(str(caught.value)) < 800


def test_configuration_of_a_workdir_is_read_back(tmp_path):
    config = presets.load("tiny", train__regularization_init=None)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert presets.load(f"workdir:{tmp_path}") == config
    (tmp_path / "config.json").write_text(json.dumps(Config().to_dict()))
    assert presets.load(f"workdir:{tmp_path}") == Config()


def test_a_name_is_a_preset_whatever_lies_in_the_folder(tmp_path, monkeypatch):
    expected = presets.load("omniglot")
    monkeypatch.chdir(tmp_path)
    for name in ("mnist", "omniglot"):
        pathlib.Path(name).write_text("raise SystemExit")
    # One preset reads the other by name, too.
    assert presets.load("omniglot") == expected
    pathlib.Path("mine").mkdir()
    pathlib.Path("mine/mnist").write_text("raise SystemExit")
    with pytest.raises(ConfigError, match="mine/mnist is not a config"):
        presets.load("mine/mnist")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"train__batch_size__x": 3}, "batch_size is no group"),
        ({"name__x": 3}, "name is no group"),
        ({"train": {"batch_size": 8}}, "train is a group of keys.* train__"),
        ({"train__nosuch": 1}, "train.nosuch"),
    ],
)
def test_changes_of_a_preset_that_cannot_be_are_told(changes, part):
    with pytest.raises(ConfigError, match=part):
        presets.load("tiny", **changes)


def test_images_have_as_many_channels_as_can_be_drawn():
    config_from_dict({"model": {"image_channels": 4}})
    _refused({"model": {"image_channels": 5}})
