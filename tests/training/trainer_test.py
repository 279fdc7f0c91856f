"""The training loop: resume, stopping, and what a workdir holds."""

import dataclasses
import json
import signal
import threading
import types

import numpy as np
import pytest

from nvae_tf.config import schedules
from nvae_tf.core.errors import RESUME_STATUS, CheckpointError, UserError
from nvae_tf.datasets import pipeline
from nvae_tf.distribute.devices import Devices, open_devices
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs import checkpoint_folder
from nvae_tf.runs.workdir import Workdir, load_model
from nvae_tf.training import new_run, trainer
from nvae_tf.training.run_state import RunState
from nvae_tf.training.watchdog import Watchdog
from tests.support.run_helpers import (
    SMALLEST,
    assert_ended_alike,
    make_config,
    write_images,
)
from tests.support.shared_graphs import shared_graphs

pytestmark = pytest.mark.early


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "blobs.npy")


@pytest.fixture(scope="module", autouse=True)
def _graphs():
    with shared_graphs():
        yield


def _config(images):
    """Three groups, in a loop, and an average of the weights."""
    return make_config(
        images,
        model={**SMALLEST, "num_groups_per_scale": 3},
        train={"ema_decay": 0.9},
    )


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """A run from its first step to its last, without a break."""
    path = tmp_path_factory.mktemp("finished")
    evaluation = trainer.train(_config(images), path)
    return path, evaluation


def _stop_after(monkeypatch, step):
    """Sends SIGTERM to this process once the step is taken."""
    original = trainer.Trainer._log

    def log(self, attempt):
        original(self, attempt)
        if self.step == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "_log", log)


def test_interrupted_run_ends_as_if_never_interrupted(
    finished, images, tmp_path, monkeypatch
):
    path, _ = finished
    config = _config(images)
    with monkeypatch.context() as patch:
        _stop_after(patch, 4)
        with pytest.raises(SystemExit) as stopped:
            trainer.train(config, tmp_path)
    assert stopped.value.code == RESUME_STATUS
    assert Workdir(tmp_path).checkpoints().steps()[-1] == 4
    trainer.train(config, tmp_path)
    assert_ended_alike(path, tmp_path, step=6)
    assert (tmp_path / "metrics.jsonl").read_text() == (
        path / "metrics.jsonl"
    ).read_text()


def test_metrics_hold_every_step_and_every_evaluation(finished, images):
    path, evaluation = finished
    records = [
        json.loads(line)
        for line in (path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [r["step"] for r in records if r["kind"] == "train"] == [
        *range(1, 7)
    ]
    plain, averaged = (
        [r for r in records if r["kind"] == kind]
        for kind in ("evaluation", "evaluation_ema")
    )
    assert [r["step"] for r in averaged] == [r["step"] for r in plain] == [3, 6]
    assert averaged[-1]["nelbo"] != plain[-1]["nelbo"]
    last = plain[-1]
    assert last["nelbo"] == pytest.approx(evaluation.nelbo)
    held_out = pipeline.open_source(make_config(images), "validation")
    assert last["num_images"] == len(held_out) > 0
    train = records[0]
    for name in (
        "total_loss",
        "nelbo",
        "beta",
        "regularization",
        "learning_rate",
        "spectral",
        "batch_norm",
    ):
        assert np.isfinite(train[name]), name
    assert len(train["kl_per_group"]) == len(train["active_latents"]) == 3


@pytest.mark.long
def test_training_lowers_the_loss(images, tmp_path):
    config = make_config(
        images,
        model=SMALLEST,
        train={"epochs": 12},
        evaluation={"every_epochs": 12},
    )
    trainer.train(config, tmp_path)
    losses = [
        json.loads(line)["nelbo"]
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert np.mean(losses[-6:-1]) < 0.8 * np.mean(losses[:3])


def test_tensorboard_gets_scalars_and_pictures(finished):
    path, _ = finished
    (events,) = (path / "tensorboard").iterdir()
    content = events.read_bytes()
    for tag in (
        b"train/nelbo",
        b"train_kl_per_group/02",
        b"evaluation/nelbo",
        b"samples/temperature_0.7",
        b"ema_samples/temperature_0.7",
        b"reconstructions",
    ):
        assert tag in content, tag


def test_loaded_model_is_the_trained_one(finished):
    path, evaluation = finished
    model, config, info = load_model(path, ema=False)
    assert info["step"] == 6
    assert info["nelbo"] == pytest.approx(evaluation.nelbo)
    assert config.name == "blobs"
    saved = Workdir(path).checkpoints().restore_latest().tensors
    for name, variable in model.named_variables("model/").items():
        np.testing.assert_array_equal(variable, saved[name], err_msg=name)


def test_finished_run_is_left_alone(finished, images):
    path, _ = finished
    assert trainer.train(_config(images), path) is None


def test_another_configuration_is_refused_by_the_keys_that_differ(
    finished, images
):
    path, _ = finished
    train = dataclasses.replace(_config(images).train, seed=5, epochs=9)
    config = dataclasses.replace(_config(images), train=train)
    with pytest.raises(UserError, match=r"train\.seed \(0 there, 5 now"):
        trainer.train(config, path)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "way_out"),
    [
        (10, 1, r"Set --config\.train\.batch_size=12"),
        (2, 5, "Choose a number of processes"),
    ],
)
def test_another_number_of_images_per_step_is_refused(
    finished, images, batch_size, accumulate, way_out
):
    path, _ = finished
    before = Workdir(path).config_path.read_bytes()
    train = dataclasses.replace(
        _config(images).train,
        batch_size=batch_size,
        accumulate=accumulate,
        epochs=9,
    )
    config = dataclasses.replace(_config(images), train=train)
    with pytest.raises(UserError, match=rf"12 images per step.* {way_out}"):
        trainer.train(config, path)
    assert Workdir(path).config_path.read_bytes() == before


def test_replicas_are_not_compiled(images, tmp_path):
    config = dataclasses.replace(_config(images), jit_compile=True)
    strategy = types.SimpleNamespace(num_replicas_in_sync=2)
    devices = Devices(strategy, num_workers=2)
    with pytest.raises(UserError, match="jit_compile is for one device"):
        RunState(config, Workdir(tmp_path), devices, 3)


@pytest.mark.long
def test_schedules_may_change_and_it_is_recorded(images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _stop_after(patch, 2)
        with pytest.raises(SystemExit):
            trainer.train(make_config(images, model=SMALLEST), tmp_path)
    config = make_config(
        images, model=SMALLEST, train={"epochs": 1, "warmup_epochs": 0}
    )
    trainer.train(config, tmp_path)
    assert Workdir(tmp_path).read_config() == config
    records = [
        json.loads(line)
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    (change,) = [r for r in records if r["kind"] == "config"]
    assert change["step"] == 2
    assert "train.epochs (2 there, 1 now)" in change["changed"]


def test_failed_start_does_not_bind_the_workdir(images, tmp_path):
    wrong = make_config(images.with_name("nothing.npy"))
    with pytest.raises(UserError, match=r"nothing\.npy"):
        trainer.train(wrong, tmp_path)
    assert trainer.train(
        make_config(images, model=SMALLEST, train={"epochs": 1}), tmp_path
    )


def test_evaluation_cut_short_is_made_up_for(images, tmp_path, monkeypatch):
    config = make_config(images, model=SMALLEST)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trainer.train(config, whole)
    with monkeypatch.context() as patch:
        original = trainer.Trainer._save

        def save(self):
            original(self)
            if self.step == 3:
                signal.raise_signal(signal.SIGTERM)

        patch.setattr(trainer.Trainer, "_save", save)
        with pytest.raises(SystemExit):
            trainer.train(config, stopped)
    checkpoint = Workdir(stopped).checkpoints().restore_latest()
    assert checkpoint.metadata["evaluation_due"]
    trainer.train(config, stopped)
    assert (stopped / "metrics.jsonl").read_text() == (
        whole / "metrics.jsonl"
    ).read_text()


def test_steps_are_taken_while_a_checkpoint_is_written(
    images, tmp_path, monkeypatch
):
    """The first step's checkpoint is written once the second is taken."""
    second = threading.Event()
    write, log = checkpoint_folder.write, trainer.Trainer._log

    def waiting(folder, checkpoint, note):
        if checkpoint.step == 1:
            assert second.wait(60)
        write(folder, checkpoint, note)

    def telling(self, attempt):
        log(self, attempt)
        if self.step == 2:
            second.set()

    monkeypatch.setattr(checkpoint_folder, "write", waiting)
    monkeypatch.setattr(trainer.Trainer, "_log", telling)
    config = make_config(
        images,
        model=SMALLEST,
        train={"epochs": 1, "warmup_epochs": 0},
        checkpoint={"every_steps": 1, "keep": 9},
    )
    trainer.train(config, tmp_path)
    store = Workdir(tmp_path).checkpoints()
    assert store.steps() == [0, 1, 2, 3]
    # What it held when it was to be saved.
    weights = [
        store.restore(step).tensors["model/image/head/bias"]
        for step in store.steps()
    ]
    assert len({w.tobytes() for w in weights}) == 4


def test_held_out_images_are_looked_at_before_the_first_step(tmp_path):
    images = tmp_path / "images.npz"
    np.savez(
        images,
        train=np.zeros((12, 8, 8), np.uint8),
        test=np.zeros((4, 10, 10), np.uint8),
    )
    with pytest.raises(UserError, match="10"):
        trainer.train(make_config(images), tmp_path / "w")


def test_workdir_that_is_a_file_is_named(images):
    with pytest.raises(UserError, match="cannot be written to"):
        trainer.train(make_config(images), images)


def test_two_runs_in_one_workdir_are_refused(images, tmp_path):
    with (
        Workdir(tmp_path).locked(),
        pytest.raises(UserError, match="Another process is training"),
    ):
        trainer.train(make_config(images), tmp_path)


def test_changed_data_is_noticed_on_resume(images, tmp_path, monkeypatch):
    config = make_config(images, model=SMALLEST)
    with monkeypatch.context() as patch:
        _stop_after(patch, 1)
        with pytest.raises(SystemExit):
            trainer.train(config, tmp_path)
    write_images(images, 60)
    try:
        with pytest.raises(UserError, match="steps_per_epoch 3, but it is 4"):
            trainer.train(config, tmp_path)
    finally:
        write_images(images)


_BREAKABLE = {
    "epochs": 4,
    "skips_before_rollback": 2,
    "max_rollbacks": 2,
    "rollback_learning_rate": 0.5,
}


def _break_step(monkeypatch, broken):
    """Makes the weights NaN before the steps for which `broken` holds."""
    original = trainer.Trainer._take_step

    def take_step(self):
        head = self.state.model.parts["image"].parts["head"]
        whole = head.bias.numpy()
        if broken(self):
            head.bias.assign(np.full_like(whole, np.nan))
        attempt = original(self)
        if broken(self):
            head.bias.assign(whole)
        return attempt

    monkeypatch.setattr(trainer.Trainer, "_take_step", take_step)


def _records(path, kind):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def _break_until_it_went_back(monkeypatch):
    _break_step(
        monkeypatch,
        lambda run: run.step >= 4 and not run.state.recovery.history,
    )


@pytest.fixture(scope="module")
def gone_back(images, tmp_path_factory):
    """A run that went back once."""
    path = tmp_path_factory.mktemp("gone_back")
    with pytest.MonkeyPatch.context() as patch:
        _break_until_it_went_back(patch)
        trainer.train(
            make_config(images, model=SMALLEST, train=_BREAKABLE), path
        )
    return path


def test_steps_skipped_in_a_row_send_the_run_back(images, gone_back):
    (event,) = _records(gone_back, "rollback")
    # Read a step late: steps 5 and 6 were skipped, 6 ends an epoch.
    assert event["step"] == 3
    assert event["failed_at"] == 6
    steps = _records(gone_back, "train")
    assert [r["step"] for r in steps] == [*range(1, 13)]
    assert not any(r["skipped"] for r in steps)
    # Warm-up is over after the first epoch; the schedule then falls.
    config = make_config(images, model=SMALLEST, train=_BREAKABLE)
    expected = [
        schedules.coefficients(config.train, step, 3).learning_rate
        for step in range(12)
    ]
    rates = [r["learning_rate"] for r in steps]
    np.testing.assert_allclose(rates[:3], expected[:3], rtol=1e-6)
    np.testing.assert_allclose(
        rates[3:], 0.5 * np.array(expected[3:]), rtol=1e-6
    )
    checkpoint = Workdir(gone_back).checkpoints().restore_latest()
    assert checkpoint.step == 12
    assert len(checkpoint.metadata["rollbacks"]) == 1


@pytest.mark.long
def test_run_that_went_back_is_resumed_as_it_was(
    images, gone_back, tmp_path, monkeypatch
):
    _break_until_it_went_back(monkeypatch)
    config = make_config(images, model=SMALLEST, train=_BREAKABLE)
    with monkeypatch.context() as patch:
        original = trainer.Trainer._recover

        def recover(self, *arguments):
            original(self, *arguments)
            signal.raise_signal(signal.SIGTERM)

        patch.setattr(trainer.Trainer, "_recover", recover)
        with pytest.raises(SystemExit):
            trainer.train(config, tmp_path)
    trainer.train(config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == (
        gone_back / "metrics.jsonl"
    ).read_text()


def test_run_that_fails_again_and_again_stops_with_a_diagnosis(
    images, tmp_path, monkeypatch
):
    original = trainer.Trainer._take_step

    def take_step(self):
        head = self.state.model.parts["image"].parts["head"]
        if self.step >= 4:
            head.bias.assign(np.full(head.bias.shape, np.nan, np.float32))
        return original(self)

    monkeypatch.setattr(trainer.Trainer, "_take_step", take_step)
    config = make_config(images, model=SMALLEST, train=_BREAKABLE)
    with pytest.raises(UserError) as stopped:
        trainer.train(config, tmp_path)
    message = str(stopped.value)
    assert "up to step 6" in message
    assert "after going back 2 times" in message
    assert "model/image/head" in message
    assert "reconstruction_nll" in message
    events = _records(tmp_path, "rollback")
    # The second time to an earlier one: the first may be the cause.
    assert [e["step"] for e in events] == [0]
    history = json.loads((tmp_path / "recovery.json").read_text())
    assert [r["target"] for r in history["rollbacks"]] == [3, 0]


def test_imported_run_goes_back_to_the_epoch_it_came_with(
    images, tmp_path, monkeypatch
):
    config = make_config(
        images, model=SMALLEST, train={**_BREAKABLE, "epochs": 2}
    )
    train_step = new_run.fresh_train_step(NVAE(config.model), config)
    new_run.write_run(
        Workdir(tmp_path), train_step, config, kind="import", epoch=1
    )
    _break_step(monkeypatch, lambda run: not run.state.recovery.history)
    trainer.train(config, tmp_path)
    (event,) = _records(tmp_path, "rollback")
    assert (event["step"], event["failed_at"]) == (3, 6)
    assert [r["step"] for r in _records(tmp_path, "train")] == [4, 5, 6]
    checkpoints = Workdir(tmp_path).checkpoints()
    assert checkpoints.steps() == [0, 3, 6]
    assert len(checkpoints.restore(3).metadata["rollbacks"]) == 1


@pytest.mark.long
def test_too_long_gradients_are_skipped_like_infinite_ones(images, tmp_path):
    config = make_config(
        images, model=SMALLEST, train={**_BREAKABLE, "max_gradient_norm": 1e-6}
    )
    with pytest.raises(UserError, match="not finite or too long"):
        trainer.train(config, tmp_path)


def test_watchdog_hears_of_every_step(images, tmp_path):
    heard = []

    class Listener(Watchdog):
        def beat(self, what=""):
            heard.append(what)

    config = make_config(
        images, model=SMALLEST, train={"epochs": 1, "warmup_epochs": 0}
    )
    devices = open_devices()
    run = trainer.Trainer(
        config, Workdir(tmp_path), devices, Listener(0, tmp_path)
    )
    run.run()
    assert [what for what in heard if what] == ["step 1", "step 2", "step 3"]
    # Evaluation, too: as many passes as draws of every batch.
    assert len(heard) > 5


@pytest.mark.long
def test_best_checkpoint_is_the_one_with_the_lowest_nelbo(images, tmp_path):
    config = make_config(
        images,
        model=SMALLEST,
        train={"epochs": 4},
        checkpoint={"keep": 1},
    )
    trainer.train(config, tmp_path)
    scores = {r["step"]: r["nelbo"] for r in _records(tmp_path, "evaluation")}
    best = min(scores, key=scores.get)
    assert Workdir(tmp_path).checkpoints().best_step() == best
    for checkpoint in ("best", str(best)):
        _, _, info = load_model(tmp_path, checkpoint=checkpoint)
        assert info["step"] == best
        assert info["nelbo"] == pytest.approx(scores[best])
    for checkpoint in ("5", "last"):
        with pytest.raises(CheckpointError, match="must be latest, best or"):
            load_model(tmp_path, checkpoint=checkpoint)


@pytest.mark.long
def test_data_dependent_initialisation_happens_once(images, tmp_path):
    config = make_config(
        images,
        model={**SMALLEST, "architecture": "res_elu"},
        train={"learning_rate": 0.0, "min_learning_rate": 0.0},
    )
    run = trainer.Trainer(config, Workdir(tmp_path))
    cell = run.state.model.parts["encoder"].parts["preprocess"].cells[0]
    conv = cell.parts["op_0"].parts["conv"]
    before = conv.g.numpy()
    run._start()
    chosen = conv.g.numpy()
    assert not np.allclose(before, chosen)
    run.run()
    np.testing.assert_array_equal(chosen, conv.g)
