"""The commands as a user runs them: what they print, write and refuse."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import nvae_tf
from nvae_tf.core.errors import CheckpointError, UserError
from tests.support.in_process import run
from tests.support.model_cases import random_model
from tests.support.run_helpers import make_config, write_images

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(*arguments, status=0):
    """Runs python with arguments; returns what it printed."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == status, result.stderr
    return result.stdout if status == 0 else result.stderr


def _refuse(*arguments):
    """Runs what must fail; returns its message, a single line."""
    error = _run(*arguments, status=2)
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    images = write_images(folder / "blobs.npy")
    config = make_config(images)
    nvae_tf.save(random_model(config.model), folder / "w", config)
    return folder / "w"


def test_evaluate_prints_and_writes_the_same_numbers(workdir, capsys):
    run(
        "eval likelihood",
        f"--workdir={workdir}",
        "--num_importance_samples=4",
        "--split=validation",
    )
    printed = capsys.readouterr().out
    record = json.loads((workdir / "evaluation.json").read_text())
    assert record["num_importance_samples"] == 4
    assert f"{record['nelbo']:.3f} nats" in printed
    assert f"{record['nll']:.3f} nats" in printed
    assert record["nelbo"] == pytest.approx(
        record["reconstruction_nll"] + record["kl"]
    )
    assert record["bits_per_dim"] == pytest.approx(
        record["nelbo"] / (np.log(2) * 64)
    )


def test_sample_writes_a_grid_that_its_seed_decides(workdir, tmp_path):
    pictures = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / f"{name}.png"
        run(
            "sample",
            f"--workdir={workdir}",
            "--num=5",
            f"--seed={seed}",
            "--temperature=1.0",
            "--batch_size=2",
            f"--output={path}",
        )
        pictures.append(np.asarray(Image.open(path)))
    # 5 images of 8x8 in 3 columns, 2 pixels between them.
    assert pictures[0].shape[:2] == (18, 28)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_reconstruct_shows_originals_beside_reconstructions(workdir, tmp_path):
    path = tmp_path / "r.png"
    run(
        "reconstruct",
        f"--workdir={workdir}",
        "--split=train",
        "--num=6",
        f"--output={path}",
    )
    picture = np.asarray(Image.open(path))
    # Each pair, larger than it is, has its bound in nats below.
    assert picture.shape[0] > 18
    assert picture.shape[1] > 78
    values, counts = np.unique(picture, return_counts=True)
    assert {0, 255} <= set(values[counts > 100])


@pytest.mark.parametrize(
    "command", ["eval likelihood", "sample", "reconstruct"]
)
def test_workdir_without_a_run_is_named(command, tmp_path):
    with pytest.raises(UserError, match=r"nothing.*nvae train"):
        run(command, f"--workdir={tmp_path / 'nothing'}")


def test_workdir_without_a_checkpoint_is_named(workdir, tmp_path):
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(UserError, match="no checkpoint"):
        run("sample", f"--workdir={tmp_path}")


def test_truncated_checkpoint_is_named(workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    for tensors in copy.glob("checkpoints/*/tensors.safetensors"):
        tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        run("sample", f"--workdir={copy}")


def test_checkpoint_of_another_configuration_is_named(workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    config = json.loads((copy / "config.json").read_text())
    config["model"]["num_latent_per_group"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"another configuration.*config\.json"
    ):
        run("sample", f"--workdir={copy}")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--config.train.bach_size=3", "train.bach_size"),
        ("--config.model.num_latent_scales=7", "multiple of"),
        ("--config.model.likelihood=gauss", "model.likelihood"),
        ("--config.train.epochs=x", "epochs"),
    ],
)
def test_bad_configuration_is_refused_by_its_key(flag, expected, tmp_path):
    message = _refuse(
        "train.py",
        "--config=configs/mnist_demo.py",
        f"--workdir={tmp_path / 'w'}",
        flag,
    )
    assert expected in message
    assert not (tmp_path / "w").exists()


def test_train_without_a_workdir_says_what_to_give():
    message = _refuse("train.py", "--config=configs/tiny.py")
    assert "--workdir" in message


def test_script_of_a_clone_shows_the_flags_of_training():
    printed = _run("train.py", "--help")
    for word in ("--workdir", "--config", "goes on where"):
        assert word in printed
