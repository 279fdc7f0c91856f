"""Runs that begin with the weights of a pretrained model."""

import dataclasses

import numpy as np
import pytest

from nvae_tf.config import presets
from nvae_tf.core.errors import CheckpointError, ConfigError
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs import model_card, pretrained
from nvae_tf.runs.workdir import Workdir, load_model
from nvae_tf.training import trainer
from nvae_tf.training.run_plan import make_plan
from tests.support.pretrained_cases import small_config, write_pretrained
from tests.support.run_helpers import SMALLEST, make_config, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "blobs.npy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "model"
    write_pretrained(path)
    return path


def _config(folder, images="images.npy", **groups):
    model = {**SMALLEST, **groups.pop("model", {})}
    train = {"initial_model": str(folder), **groups.pop("train", {})}
    return make_config(images, model=model, train=train, **groups)


def _values(model):
    named = model.named_variables("model/")
    return {name: np.asarray(variable) for name, variable in named.items()}


def _require_equal(found, wanted):
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_new_run_begins_with_the_weights(images, folder, tmp_path):
    config = _config(folder, images, train={"ema_decay": 0.9})
    run = trainer.Trainer(config, Workdir(tmp_path))
    assert run._start().step == 0
    wanted = _values(pretrained.load(folder)[0])
    _require_equal(_values(run.state.model), wanted)
    saved = Workdir(tmp_path).checkpoints().restore(0).tensors
    _require_equal(saved, wanted)
    # And their average, which is what is evaluated.
    _require_equal(
        _values(pretrained.load(folder)[0]),
        _values(load_model(tmp_path, ema=True)[0]),
    )


@pytest.mark.long
def test_what_is_resumed_does_not_read_the_model(images, folder, tmp_path):
    config = _config(folder, images)
    trainer.train(config, tmp_path / "run")
    elsewhere = dataclasses.replace(
        config,
        train=dataclasses.replace(
            config.train, initial_model="gone", epochs=config.train.epochs + 1
        ),
    )
    assert trainer.train(elsewhere, tmp_path / "run") is not None


def test_a_model_of_classes_begins_with_one_of_the_same(tmp_path):
    told = {"model": {"num_classes": 3}, "data": {"labels": True}}
    config = _config("", **told)
    model = NVAE(config.model, seed=5)
    for _, layer in model.leaves():
        if hasattr(layer, "table"):
            layer.table.assign_add(np.ones(layer.table.shape))
    pretrained.save(model, config, tmp_path / "told", {})
    again = _config(tmp_path / "told", **told)
    pretrained.require_same_architecture(again)
    found = NVAE(again.model, seed=6)
    pretrained.begin(found, tmp_path / "told")
    _require_equal(_values(found), _values(model))
    with pytest.raises(ConfigError, match=r"num_classes is 3, that .* run 0"):
        pretrained.require_same_architecture(_config(tmp_path / "told"))


def test_another_architecture_is_refused_before_any_work(
    images, folder, tmp_path
):
    config = _config(folder, images, model={"num_channels_enc": 8})
    problem = (
        rf"initial_model={folder} has another architecture: its "
        rf"model.num_channels_enc is 4, that of this run 8. "
        rf"--config=pretrained:{folder}"
    )
    with pytest.raises(ConfigError, match=problem):
        trainer.train(config, tmp_path / "run")
    assert not Workdir(tmp_path / "run").config_path.exists()
    assert "another architecture" in make_plan(config).problems[0]


def test_a_model_that_is_not_there_is_told(images, tmp_path):
    config = _config("nosuch", images)
    with pytest.raises(CheckpointError, match="no model 'nosuch'"):
        trainer.train(config, tmp_path / "run")
    assert "no model 'nosuch'" in make_plan(config).problems[0]


def test_damaged_weights_are_told(folder, tmp_path):
    model = write_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum is wrong"):
        pretrained.begin(model, tmp_path / "model")


def test_the_preset_begins_with_the_configuration(folder):
    config = presets.load(f"pretrained:{folder}")
    was = pretrained.load(folder)[1]
    assert config.model == was.model
    assert config.train.initial_model == str(folder)
    assert config.name == f"{was.name}_further"
    assert config.train.learning_rate == pytest.approx(
        was.train.learning_rate / 5
    )
    # The KL terms have their full weight from the first step.
    assert config.train.kl_const_coeff == 1
    with pytest.raises(ConfigError, match="pretrained takes a model"):
        presets.read("pretrained")
    with pytest.raises(CheckpointError, match="no model 'nosuch'"):
        presets.read("pretrained:nosuch")


def test_the_card_does_not_tell_where_the_model_lay():
    for place, told in (
        ("/home/me/models/mine", ""),
        ("models/mnist", ""),
        ("mnist", "mnist"),
        ("hf://user/repo@main", "hf://user/repo@main"),
    ):
        config = model_card.without_places(_config(place))
        assert config.train.initial_model == told


def test_runs_without_it_say_what_they_said():
    assert "initial_model" not in small_config().to_dict()["train"]
    text = _config("mnist").to_dict()["train"]["initial_model"]
    assert text == "mnist"
