"""`evaluate`, `evaluate_samples` and `train_features` as a user runs them."""

import json
import re
import signal

import keras
import numpy as np
import pytest
from PIL import Image

from nvae_tf.core.errors import ConfigError, DataError, UserError
from nvae_tf.core.json_files import read_json_lines
from nvae_tf.evaluation import partial_results
from nvae_tf.evaluation.evaluator import Evaluation, Evaluator
from nvae_tf.evaluation.features import load_features
from nvae_tf.runs import pretrained
from nvae_tf.runs.workdir import Workdir, load_model, read_tensors
from tests.support.feature_graphs import write_inception_graph
from tests.support.hidden_packages import hide_packages
from tests.support.in_process import run
from tests.support.model_cases import random_model
from tests.support.run_helpers import make_config, write_images

# Keras reads its own variables in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = make_config(
        write_images(folder / "blobs.npy", 120),
        data={"validation_fraction": 0.3},
    )
    model = random_model(config.model)
    run_ = Workdir(folder / "w")
    run_.write_config(config)
    run_.checkpoints().save(
        3, read_tensors(model.named_variables("model/")), {}
    )
    return folder / "w"


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A network whose features are the pixels."""
    images = keras.Input((None, None, 1))
    x = keras.layers.AveragePooling2D(2)(images)
    x = keras.layers.Conv2D(5, 2, kernel_initializer="ones")(x)
    path = tmp_path_factory.mktemp("features") / "pixels.keras"
    keras.Model(images, x).save(path)
    return path


def _evaluate(workdir, *arguments):
    run(
        "eval likelihood",
        f"--workdir={workdir}",
        "--num_importance_samples=3",
        "--batch_size=8",
        *arguments,
    )
    return json.loads((workdir / "evaluation.json").read_text())


@pytest.mark.long
def test_stopped_evaluation_goes_on_to_the_numbers_of_one_never_stopped(
    workdir, monkeypatch, capsys
):
    expected = _evaluate(workdir)
    assert (workdir / "evaluation.png").stat().st_size > 5000
    assert not (workdir / partial_results.FOLDER).exists()
    passes = []
    is_stopped_after = 4

    def save(self, progress):
        passes.append((progress.batch, progress.draw))
        if len(passes) == is_stopped_after:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(
        partial_results.PartialResult, "save_now_and_then", save
    )
    with pytest.raises(SystemExit) as stop:
        _evaluate(workdir)
    assert stop.value.code == 75
    assert "Start the same command to go on" in capsys.readouterr().err
    # Other settings know nothing of it; nor does it matter to them that there
    # is no matplotlib.
    with monkeypatch.context() as without:
        hide_packages(without, "matplotlib")
        other = _evaluate(
            workdir, "--split=train", "--num=10", "--draws_per_pass=5"
        )
    assert other["num_images"] == 10
    assert (other["step"], other["split"]) == (3, "train")
    printed = capsys.readouterr().out
    assert "Going on" not in printed
    assert "No evaluation.png" in printed
    passes.clear()
    is_stopped_after = None
    assert _evaluate(workdir) == expected
    # After 4 passes, 3 for each batch.
    assert passes[0] == (1, 2)
    printed = capsys.readouterr().out
    assert "Going on from" in printed
    assert f"{expected['nll']:.3f} nats" in printed
    assert f"+- {expected['nll_standard_error']:.3f}" in printed
    lines = (workdir / "evaluation.jsonl").read_text().splitlines()
    splits = [json.loads(line)["split"] for line in lines]
    assert splits == ["test", "train", "test"]


def test_evaluation_that_is_not_finite_is_shown_and_drawn(
    workdir, monkeypatch, tmp_path, capsys
):
    nan = float("nan")
    unknown = Evaluation(
        4, 3, *[nan] * 6, [1.0, nan, nan], [0] * 3, [1.0, nan], nan, nan
    )
    monkeypatch.setattr(Evaluator, "__call__", lambda *_, **__: unknown)
    run(
        "eval likelihood",
        f"--workdir={workdir}",
        f"--output={tmp_path}",
    )
    printed = capsys.readouterr().out
    assert "NELBO             not finite nats   not finite bits/dim" in printed
    assert (
        "KL per group, top-down        1.00  not finite  not finite" in printed
    )
    assert (tmp_path / "evaluation.png").exists()
    (record,) = read_json_lines(tmp_path / "evaluation.jsonl")
    assert record["nelbo"] is None
    assert record["kl_per_group"] == [1.0, None, None]


def _compare(workdir, features, *arguments):
    run(
        "eval samples",
        f"--workdir={workdir}",
        f"--features={features}",
        "--batch_size=16",
        *arguments,
    )
    return json.loads((workdir / "sample_quality.json").read_text())


@pytest.fixture(scope="module")
def drawn(workdir, features):
    return _compare(workdir, features, "--num=40")


def test_samples_in_a_file_compare_like_those_that_are_drawn(
    workdir, features, drawn, tmp_path, capsys
):
    assert drawn["num_samples"] == 40
    assert drawn["num_real"] > 60
    assert drawn["num_features"] == 5
    # Binary data: mean images, as the paper shows.
    assert drawn["pixels"] == "mean"
    assert drawn["computed_in"] == "float32"
    # As published FIDs are.
    assert drawn["temperature"] == 1.0
    path = tmp_path / "samples.npz"
    kept = _compare(workdir, features, "--num=40", f"--samples_output={path}")
    assert np.load(path)["arr_0"].shape == (40, 8, 8, 1)
    printed = capsys.readouterr().out
    assert f"{kept['frechet_distance']:.3f}" in printed
    # Published FIDs are of another network.
    assert "Frechet distance (pixels.keras)" in printed
    assert "FID" not in printed
    assert "fid" not in kept
    given = _compare(workdir, features, f"--samples={path}")
    for name in ("frechet_distance", "kid", "precision", "recall"):
        assert given[name] == kept[name]
        assert kept[name] == pytest.approx(drawn[name], rel=1e-3)


@pytest.mark.long
def test_samples_of_a_pretrained_model_compare_like_those_of_its_run(
    workdir, features, drawn, tmp_path, monkeypatch, capsys
):
    model, config, _ = load_model(workdir)
    pretrained.save(model, config, tmp_path / "m", {})
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"--model={tmp_path / 'm'}",
        f"--data_path={workdir.parent / 'blobs.npy'}",
        f"--features={features}",
        "--batch_size=16",
        "--num=40",
    ]
    run("eval samples", *arguments)
    printed = capsys.readouterr().out
    assert f"{drawn['frechet_distance']:.3f}" in printed
    assert "--output" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    run("eval samples", *arguments, "--output=kept")
    record = json.loads((tmp_path / "kept/sample_quality.json").read_text())
    for name in ("frechet_distance", "kid", "num_real"):
        assert record[name] == drawn[name]


def test_real_images_as_samples_are_as_good_as_can_be(
    workdir, features, drawn, tmp_path
):
    blobs = np.load(workdir.parent / "blobs.npy")
    folder = tmp_path / "real"
    folder.mkdir()
    for i, image in enumerate(blobs):
        Image.fromarray(image).save(folder / f"{i}.png")
    real = _compare(workdir, features, f"--samples={folder}")
    distance = "frechet_distance"
    assert real[distance] < 0.05 * drawn[distance]
    assert real["precision"] > 0.9
    assert real["recall"] > 0.9


def test_graph_of_published_fids_gives_what_is_called_fid(
    workdir, tmp_path, capsys
):
    graph = write_inception_graph(tmp_path / "graph.pb")
    record = _compare(workdir, graph, "--num=12")
    assert record["fid"] == record["frechet_distance"] > 0
    printed = capsys.readouterr().out
    assert re.search(rf"FID +{record['fid']:.3f}", printed)
    assert "Frechet distance (" not in printed


def test_too_few_or_contradicting_samples_are_refused(
    workdir, features, tmp_path
):
    few = tmp_path / "few.npy"
    np.save(few, np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(DataError, match="3 samples"):
        _compare(workdir, features, f"--samples={few}")
    with pytest.raises(ConfigError, match="--samples_output"):
        _compare(
            workdir, features, f"--samples={few}", "--samples_output=s.npz"
        )
    with pytest.raises(UserError, match="--readjust_bn is for draws"):
        _compare(workdir, features, f"--samples={few}", "--readjust_bn")
    with pytest.raises(UserError, match=r"nvae train makes one"):
        _compare(tmp_path / "nothing", features)


def test_what_is_wrong_shows_before_anything_is_drawn(
    workdir, features, monkeypatch
):
    def damaged(*_, **__):
        raise DataError("7.png cannot be read")

    drawn = []
    monkeypatch.setattr(
        "nvae_tf.sampling.illustrator.Illustrator.draw",
        lambda *_, **__: drawn.append(1),
    )
    for options in (["--num_neighbours=40"], ["--num_real=3"]):
        with pytest.raises(DataError, match="needs more than that"):
            _compare(workdir, features, "--num=40", *options)
    monkeypatch.setattr(
        "nvae_tf.evaluation.reference_features.reference_features", damaged
    )
    with pytest.raises(DataError, match=r"7\.png cannot be read"):
        _compare(workdir, features, "--num=40")
    assert not drawn


@pytest.mark.long
def test_trained_features_tell_classes_apart(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 300)
    images = rng.integers(0, 100, (600, 8, 8)).astype(np.uint8)
    images[labels == 1, 2:4] += 150
    data, output = tmp_path / "data.npz", tmp_path / "f.keras"
    np.savez(data, x_train=images, y_train=labels)
    options = [f"--data={data}", "--num_features=7", "--epochs=12"]
    run("eval features", f"--output={output}", *options)
    assert "7 features; 100.0% of 60" in capsys.readouterr().out
    found = load_features(str(output)).extract([images[..., None]])
    assert found.shape == (600, 7)
    means = [found[labels == label].mean(axis=0) for label in (0, 1)]
    spread = found[labels == 0].std(axis=0).mean()
    assert np.abs(means[0] - means[1]).max() > 3 * spread


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros(3)}, "x_train"),
        ({"x_train": np.zeros((3, 8, 8)), "y_train": [0, 1, 1]}, "uint8"),
        (None, "give an .npz file"),
    ],
)
def test_labelled_images_that_are_none_are_named(tmp_path, arrays, message):
    path = tmp_path / "data.npz"
    if arrays is None:
        path.write_bytes(b"text")
    else:
        np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        run("eval features", f"--data={path}", f"--output={path}.keras")
    with pytest.raises(ConfigError, match=r"must end in \.keras"):
        run("eval features", f"--data={path}", "--output=f.h5")
