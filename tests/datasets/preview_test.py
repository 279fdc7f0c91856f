import numpy as np
import pytest
from PIL import Image

from nvae_tf.core.errors import DataError, UserError
from nvae_tf.datasets.preview import preview
from tests.support.data_helpers import binary_model, make_config, write_picture
from tests.support.in_process import run

CONFIG = """
import ml_collections
from nvae_tf.config import Config

def get_config():
    config = ml_collections.ConfigDict(Config().to_dict())
    config.model.update(
        image_size=8, image_channels=1, padding=2, num_bits=1,
        likelihood="bernoulli",
    )
    config.data.update(path=PATH, binarize=True, **DATA)
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


def _config(tmp_path, path, **data):
    text = CONFIG.replace("PATH", repr(path))
    text = text.replace("DATA", repr({"source": "array", **data}))
    file = tmp_path / "config.py"
    file.write_text(text)
    return f"--config={file}"


def test_commands_prepare_and_preview(tmp_path, path, capsys):
    config = _config(tmp_path, path)
    run("data prepare", config, f"--output={tmp_path}/out")
    assert "train: " in capsys.readouterr().out
    config = _config(tmp_path, f"{tmp_path}/out", source="tfrecord")
    run("data preview", config, f"--output={tmp_path}/grid.png")
    printed = capsys.readouterr().out
    assert "[9, 12, 12, 1] float32" in printed
    assert "0 to 1" in printed
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (40, 40)


def test_data_that_is_not_there_is_named(tmp_path):
    config = _config(tmp_path, f"{tmp_path}/none.npy")
    with pytest.raises(UserError, match=r"data\.path is '.*/none\.npy'"):
        run("data preview", config, f"--output={tmp_path}/grid.png")
    assert not (tmp_path / "grid.png").exists()


def test_batch_without_a_readable_image_is_told_of(tmp_path):
    pictures = tmp_path / "pictures"
    write_picture(pictures / "train" / "0.png", size=(8, 8))
    for name in "ab":
        (pictures / "test").mkdir(exist_ok=True)
        (pictures / "test" / f"{name}.png").write_bytes(b"no picture")
    write_picture(pictures / "test" / "c.png", size=(8, 8))
    config = make_config(
        source="image_folder",
        path=str(pictures),
        split_by="folder",
        skip_corrupt=True,
    )
    assert len(preview(config, "test", 3).batch) == 1
    with pytest.raises(DataError, match="None of the first 2 images of"):
        preview(config, "test", 2)
