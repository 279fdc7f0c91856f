"""A run that is told the classes of its images, from its first step on."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config import Config
from nvae_tf.config.schedules import Coefficients
from nvae_tf.core.errors import DataError, UserError
from nvae_tf.evaluation.evaluator import Evaluator
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.runs.workdir import Workdir, load_model
from nvae_tf.training import diagnosis, dry_run, trainer
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.run_plan import make_plan
from nvae_tf.training.train_step import TrainStep
from tests.support import model_cases
from tests.support.run_helpers import (
    SMALLEST,
    assert_ended_alike,
    make_config,
    write_images,
)
from tests.support.shared_graphs import shared_graphs

pytestmark = pytest.mark.early

_CLASSES = 4


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = write_images(tmp_path_factory.mktemp("data") / "blobs.npy")
    # By where the blob is.
    shown = np.load(path).astype(float)
    rows = (shown * np.arange(8)[None, :, None]).sum((1, 2)) / shown.sum((1, 2))
    labels = np.argsort(np.argsort(rows)) * _CLASSES // len(rows)
    np.save(path.with_name("blobs_labels.npy"), labels)
    return path


@pytest.fixture(scope="module", autouse=True)
def _graphs():
    with shared_graphs():
        yield


def _config(images, *, labels=True, **groups) -> Config:
    groups = {
        "model": {**SMALLEST, "num_groups_per_scale": 3},
        "train": {"ema_decay": 0.9},
        "data": {"labels": labels},
    } | groups
    return make_config(images, **groups)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished")
    return path, trainer.train(_config(images), path)


@pytest.mark.long
def test_classes_are_counted_and_kept_with_the_run(finished, images):
    path, evaluation = finished
    assert np.isfinite(evaluation.nll)
    config = Workdir(path).read_config()
    assert config.model.num_classes == _CLASSES
    assert config.data.labels
    model, _, _ = load_model(path)
    assert model.config.num_classes == _CLASSES
    tables = [v for k, v in model.named_variables().items() if "class_" in k]
    assert tables
    # Every class was met, and moved its row.
    for table in tables:
        assert (np.abs(np.asarray(table)).max(axis=1) > 0).all()
    # The same command, which counts them again, finds the run complete.
    assert trainer.train(_config(images), path) is None


@pytest.mark.long
def test_interrupted_run_ends_as_if_never_interrupted(
    finished, images, tmp_path, monkeypatch
):
    path, _ = finished
    original = trainer.Trainer._log

    class EndedError(Exception):
        pass

    def log(self, attempt):
        original(self, attempt)
        if self.step == 5:
            raise EndedError

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_log", log)
        with pytest.raises(EndedError):
            trainer.train(_config(images), tmp_path)
    trainer.train(_config(images), tmp_path)
    assert_ended_alike(path, tmp_path, step=6)


@pytest.mark.long
def test_labels_cannot_come_or_go_within_a_run(finished, images):
    path, _ = finished
    with pytest.raises(UserError, match=r"data\.labels \(True there, False"):
        trainer.train(_config(images, labels=False), path)


@pytest.mark.long
def test_run_without_labels_says_nothing_of_them(images, tmp_path):
    config = _config(images, labels=False, train={"epochs": 1})
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, warmup_epochs=0)
    )
    trainer.train(config, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert "num_classes" not in written["model"]
    assert "labels" not in written["data"]
    state = Workdir(tmp_path).checkpoints().restore_latest().metadata
    assert "num_classes" not in state["model"]
    assert Workdir(tmp_path).read_config() == config


def test_sources_without_labels_are_refused_before_a_workdir_is_made(
    tmp_path,
):
    path = write_images(tmp_path / "plain.npy")
    with pytest.raises(DataError, match=r"data\.labels"):
        trainer.train(_config(path), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_dry_run_counts_classes(images, tmp_path):
    told, untold = (
        make_plan(_config(images, labels=labels)) for labels in (True, False)
    )
    width = _config(images).model.latent_width[1]
    assert told.num_parameters - untold.num_parameters == _CLASSES * width
    assert not told.problems
    assert (told.num_classes, untold.num_classes) == (_CLASSES, 0)
    plain = write_images(tmp_path / "plain.npy")
    assert "data.labels" in dry_run.describe(_config(plain))


# --- steps ------------------------------------------------------------------


def _step(num_classes=3):
    config = model_cases.small(num_classes=num_classes)
    model = NVAE(config, seed=3)
    return TrainStep(
        model, Adamax(model.trainable_variables), SpectralRegularizer(model)
    )


def _batch(step, count=4):
    x = model_cases.images(step.model.config, count)
    labels = np.arange(count, dtype=np.int32) % 3
    return tf.constant(x), tf.constant(labels)


_COEFFICIENTS = Coefficients(*map(tf.constant, (0.4, 1e-2, 1e-2)))


def test_gradient_goes_to_the_classes_of_the_batch():
    step = _step()
    x, _ = _batch(step)
    _, _, gradient, _ = step.gradients(
        (x, tf.constant([0, 0, 2, 2])), _COEFFICIENTS, tf.constant([0, 1])
    )
    names = {id(v): name for name, v in step.model.named_variables().items()}
    start = 0
    for weight in step.optimizer.parameters:
        size = int(np.prod(weight.shape))
        if "class_" in names[id(weight)]:
            rows = gradient[start : start + size].numpy().reshape(weight.shape)
            assert (np.abs(rows).max(axis=1) > 0).tolist() == [
                True,
                False,
                True,
            ]
        start += size


@pytest.mark.long
def test_passes_of_a_step_bring_their_labels():
    one, several = _step(), _step()
    x, labels = _batch(one)
    seed = tf.constant([0, 1])
    first = one((x, labels), _COEFFICIENTS, seed=seed)
    second = several.accumulated(
        [(x, labels), (x, labels)], _COEFFICIENTS, [seed, seed]
    )
    np.testing.assert_allclose(first.total_loss, second.total_loss, rtol=1e-5)
    for name, variable in one.named_variables().items():
        np.testing.assert_allclose(
            several.named_variables()[name],
            variable,
            rtol=1e-4,
            atol=1e-5,
            err_msg=name,
        )


def test_a_failed_step_is_looked_into():
    step = _step()
    x, labels = _batch(step)
    table = step.model.named_variables()["decoder/class_1/table"]
    value = np.zeros(table.shape, np.float32)
    value[2] = np.nan
    table.assign(value)
    found = diagnosis.diagnose(step, (x, labels), (0.4, 1e-2, 1e-2), [0, 1])
    assert found.found
    assert any("class_1/table" in name for name in found.variables)
    assert "class_1" in str(found.layer)
    bad = tf.concat([x[:1] * np.nan, x[1:]], axis=0)
    found = diagnosis.diagnose(step, (bad, labels), (0.4, 1e-2, 1e-2), [0, 1])
    assert "row 0" in found.images


# --- evaluation -------------------------------------------------------------


@pytest.mark.long
def test_estimates_are_those_of_the_images_classes():
    config = model_cases.small(num_classes=3)
    model = model_cases.random_model(config)
    x = model_cases.images(config, 6)
    labels = np.array([0, 1, 2, 2, 1, 0], np.int32)
    evaluator = Evaluator(model)

    def measure(labels, size=6, **options):
        found = []
        batches = [
            (
                x[i : i + size],
                np.ones(len(x[i : i + size]), np.float32),
                labels[i : i + size],
            )
            for i in range(0, len(x), size)
        ]
        evaluator(
            [tuple(map(tf.constant, batch)) for batch in batches],
            3,
            on_images=lambda nelbo, nll: found.append(nll),
            **options,
        )
        return np.concatenate(found)

    whole = measure(labels)
    np.testing.assert_allclose(measure(labels, size=3), whole, rtol=1e-5)
    np.testing.assert_allclose(
        measure(labels, draws_per_pass=3), whole, rtol=1e-5
    )
    other = measure(np.array([1, 1, 2, 2, 1, 0], np.int32))
    assert abs(other[0] - whole[0]) > 1e-3
    np.testing.assert_allclose(other[1:], whole[1:], rtol=1e-5)
