"""The exponential average of the weights."""

import dataclasses

import numpy as np
import pytest

from nvae_tf.core.errors import UserError
from nvae_tf.model import flat
from nvae_tf.model.averaging import WeightAverage
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs.workdir import Workdir, load_model
from nvae_tf.training import trainer
from tests.support.run_helpers import SMALLEST, make_config, write_images


def _values(model):
    return {k: np.asarray(v) for k, v in model.named_variables().items()}


def _shift(model, amount):
    for variable in model.named_variables().values():
        variable.assign(variable + amount)


@pytest.fixture
def model():
    return NVAE(make_config("", model=SMALLEST).model, seed=1)


def _flat(model):
    return np.concatenate(
        [np.ravel(np.asarray(v)) for v in model.trainable_variables]
    )


def _require_tenth_of_a_step(model, average):
    """By a decay of 0.9, all that is averaged follows a model that moves."""
    start = _values(model)
    _shift(model, 1.0)
    # After many steps the decay is as configured, early on it is lower.
    average.update(np.float32(1000))
    with average.in_place():
        inside = _values(model)
    for name, value in start.items():
        np.testing.assert_allclose(inside[name], value + 0.1, atol=1e-5)


@pytest.mark.parametrize("part_size", [2**22, 100])
def test_average_follows_weights_and_statistics_by_its_decay(
    model, monkeypatch, part_size
):
    monkeypatch.setattr(flat, "_PART_SIZE", part_size)
    average = WeightAverage(model, 0.9)
    _require_tenth_of_a_step(model, average)
    assert (len(average.weights.pieces) > 1) == (part_size == 100)


def test_a_model_without_statistics_has_an_average():
    cells = {"architecture": "res_elu"}
    model = NVAE(make_config("", model=cells).model, seed=1)
    _require_tenth_of_a_step(model, WeightAverage(model, 0.9))


def test_first_steps_forget_the_initial_weights_quickly(model):
    average = WeightAverage(model, 0.999)
    start = _values(model)
    _shift(model, 1.0)
    average.update(np.float32(1))
    average.assign_to_model()
    for name, value in _values(model).items():
        np.testing.assert_allclose(value, start[name] + 9 / 11, atol=1e-5)


def test_model_has_its_own_values_back_after_an_error(model):
    average = WeightAverage(model, 0.9)
    _shift(model, 1.0)
    before = _values(model)
    inside = {}

    def fail():
        with average.in_place():
            inside.update(_values(model))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert any(np.any(v != before[k]) for k, v in inside.items())
    for name, value in _values(model).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an average, and the recurrence's inputs step by step."""
    path = tmp_path_factory.mktemp("ema")
    images = write_images(path / "blobs.npy")
    config = make_config(images, model=SMALLEST, train={"ema_decay": 0.5})
    trainer.train(config, path / "run")
    return path / "run"


@pytest.mark.long
def test_run_keeps_evaluates_and_offers_its_average(run):
    plain, _, plain_info = load_model(run, ema=False)
    averaged, _, info = load_model(run, ema=True)
    assert (plain_info["ema"], info["ema"]) == (False, True)
    assert info["step"] == plain_info["step"]
    assert info["nelbo"] != plain_info["nelbo"]
    tensors = Workdir(run).checkpoints().restore_latest().tensors
    np.testing.assert_allclose(_flat(averaged), tensors["average/weights"])
    assert np.abs(_flat(averaged) - _flat(plain)).max() > 1e-4
    statistics = [k for k in _values(plain) if k.endswith("/variance")]
    assert any(
        np.any(_values(plain)[k] != _values(averaged)[k]) for k in statistics
    )
    kinds = [
        line.split('"kind": "')[1].split('"')[0]
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    assert kinds.count("evaluation_ema") == kinds.count("evaluation") == 2


@pytest.mark.long
def test_average_is_what_a_run_that_keeps_one_gives(run):
    averaged, _, info = load_model(run, ema=True)
    default, _, default_info = load_model(run)
    assert default_info == info
    np.testing.assert_array_equal(_flat(default), _flat(averaged))


def _copy_without_average(run, path, config=None):
    found = Workdir(run).checkpoints().restore_latest()
    copy = Workdir(path)
    copy.write_config(config or Workdir(run).read_config())
    tensors = {
        name: value
        for name, value in found.tensors.items()
        if not name.startswith("average/")
    }
    copy.checkpoints().save(found.step, tensors, found.metadata)


def test_checkpoint_without_the_average_gives_its_weights(run, tmp_path):
    _copy_without_average(run, tmp_path)
    model, _, info = load_model(tmp_path)
    assert info["ema"] is False
    plain, _, _ = load_model(run, ema=False)
    np.testing.assert_array_equal(_flat(model), _flat(plain))
    with pytest.raises(UserError, match=r"checkpoint of step .* holds none"):
        load_model(tmp_path, ema=True)


def test_a_run_without_an_average_says_so(run, tmp_path):
    config = Workdir(run).read_config()
    train = dataclasses.replace(config.train, ema_decay=0.0)
    _copy_without_average(
        run, tmp_path, dataclasses.replace(config, train=train)
    )
    with pytest.raises(UserError, match=r"train\.ema_decay is 0"):
        load_model(tmp_path, ema=True)
    assert load_model(tmp_path)[2]["ema"] is False
