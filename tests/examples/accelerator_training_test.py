"""A training without TensorFlow, from its preparation to a run's workdir."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nvae_tf.config import presets
from nvae_tf.config.model import ModelConfig
from nvae_tf.core.json_files import read_json_lines

pytest.importorskip("jax", reason='JAX is missing: pip install ".[dev]"')

pytestmark = pytest.mark.long

_NAME = "digits"
# One group of latents without a flow: the least there is to compile.
_SMALL = {
    "model.num_latent_scales": 1,
    "model.num_groups_per_scale": 1,
    "model.adaptive_groups": False,
    "model.num_flow_pairs": 0,
    "model.architecture": "res_bnswish",
    "train.batch_size": 50,
    "train.ema_decay": 0.9,
    "train.log_every": 1,
}


def _run(module: str, *arguments, ok: bool = True) -> str:
    """Runs a module of the example in a process of its own; its output."""
    process = subprocess.run(
        [sys.executable, "-m", f"examples.accelerator_training.{module}"]
        + [str(a) for a in arguments],
        capture_output=True,
        text=True,
    )
    assert (process.returncode == 0) == ok, process.stderr[-2000:]
    return process.stdout + process.stderr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of a very small model's training."""
    path = tmp_path_factory.mktemp("prepared") / "folder"
    changes = [f"--config.{k}={v}" for k, v in _SMALL.items()]
    sizes = ["--images=50", "--weighed_images=5", "--draws=4", "--samples=4"]
    _run("prepare", "--config=tiny", *changes, *sizes, f"--output={path}")
    return path


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """What a training of two epochs wrote, which was held before it began."""
    out = tmp_path_factory.mktemp("trained")
    hold = out / "hold"
    hold.touch()
    lengths = ["--seconds=240", "--evaluation_seconds=20", "--epochs=2"]
    few = ["--draws=8", "--measured_steps=8", f"--hold={hold}"]
    folder = [f"--folder={prepared}", f"--output={out}", f"--name={_NAME}"]
    with subprocess.Popen(
        [sys.executable, "-m", "examples.accelerator_training.train"]
        + [*folder, *lengths, *few],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if '"held"' in line:
                hold.unlink()
    assert process.returncode == 0
    return out


def test_weights_are_not_written_into_the_program(prepared):
    """They are many: the seed is told at run time."""
    description = json.loads((prepared / "run.json").read_text())
    weights = description["weights"]
    count = sum(np.prod(description["variables"][w][0]) for w in weights)
    assert (prepared / "initialize.program").stat().st_size < 2 * count


def test_what_was_trained_becomes_a_run(trained, tmp_path):
    import nvae_tf

    workdir = tmp_path / "run"
    arguments = [f"--results={trained}", f"--name={_NAME}", "--images=50"]
    text = _run("collect", *arguments, f"--workdir={workdir}")
    assert "is a run at step 180" in text
    assert "of 50 test images" in text
    model = nvae_tf.load(workdir)
    assert model.config == presets.load("tiny", **_changes()).model
    assert isinstance(model.config, ModelConfig)
    images = nvae_tf.sample(model, 2, seed=0)
    assert images.shape[0] == 2
    records = list(read_json_lines(workdir / "metrics.jsonl"))
    kinds = [r["kind"] for r in records]
    # Nothing was measured or planned before it was let go.
    steps = ["held", "resumed", "planned", "trained"]
    assert [k for k in kinds if k in steps] == steps
    losses = [r["nelbo"] for r in records if r["kind"] == "train"]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    (bounds,) = [r for r in records if r["kind"] == "bounds"]
    # More draws bound better, and of as many images as there was time for.
    assert bounds["nll"][-1] < bounds["nll"][0]


def test_results_of_another_name_are_missed(trained, tmp_path):
    text = _run(
        "collect",
        f"--results={trained}",
        "--name=letters",
        f"--workdir={tmp_path / 'run'}",
        ok=False,
    )
    assert "letters_average.npz cannot be read" in text
    assert "Traceback" not in text


def _changes() -> dict:
    return {k.replace(".", "__"): v for k, v in _SMALL.items()}
