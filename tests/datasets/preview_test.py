import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from nvae_tf.datasets.preview import preview
from tests.support.data_helpers import binary_model, make_config

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
import ml_collections
from nvae_tf.config import Config

def get_config():
    config = ml_collections.ConfigDict(Config().to_dict())
    config.model.update(
        image_size=8, image_channels=1, padding=2, num_bits=1,
        likelihood="bernoulli",
    )
    config.data.update(source="array", path=PATH, binarize=True)
    config.train.batch_size = 9
    return config
"""


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (50, 8, 8), np.uint8))
    return str(tmp_path / "x.npy")


def test_preview_is_the_batch_that_the_model_sees(path):
    config = make_config(
        source="array",
        path=path,
        binarize=True,
        model=binary_model(padding=2),
        train={"batch_size": 9},
    )
    shown = preview(config, "train")
    assert shown.batch.shape == (9, 12, 12, 1)
    assert shown.num_levels == 2
    assert shown.num_batches == shown.num_images // 9
    held_out = preview(config, "validation", batch_size=64)
    assert len(held_out.batch) == held_out.num_images
    assert held_out.num_images + shown.num_images == 50


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "nvae_tf", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_commands_prepare_and_preview(tmp_path, path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.replace("PATH", repr(path)))
    prepared = run(
        "data",
        "prepare",
        f"--config={config}",
        f"--output={tmp_path}/out",
    )
    assert prepared.returncode == 0, prepared.stderr
    assert "train: " in prepared.stdout
    result = run(
        "data",
        "preview",
        f"--config={config}",
        "--config.data.source=tfrecord",
        f"--config.data.path={tmp_path}/out",
        f"--output={tmp_path}/grid.png",
    )
    assert result.returncode == 0, result.stderr
    assert "[9, 12, 12, 1] float32" in result.stdout
    assert "0 to 1" in result.stdout
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (40, 40)


def test_mistakes_end_a_command_with_status_2(tmp_path, path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.replace("PATH", repr(path)))
    result = run(
        "data",
        "preview",
        f"--config={config}",
        f"--config.data.path={tmp_path}/none.npy",
        f"--output={tmp_path}/grid.png",
    )
    assert result.returncode == 2
    assert f"error: data.path is '{tmp_path}/none.npy'" in result.stderr
    assert "Traceback" not in result.stderr
