import os

import numpy as np
import pytest
from PIL import Image

from nvae_tf.core.errors import DataError
from nvae_tf.sampling import images


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_comes_back_exactly(tmp_path, channels):
    picture = np.random.default_rng(0).integers(
        0, 256, (5, 7, channels), np.uint8
    )
    path = tmp_path / "new" / "x.png"
    images.write_png(path, picture)
    with Image.open(path) as file:
        read = np.asarray(file)
    np.testing.assert_array_equal(read.reshape(picture.shape), picture)
    assert os.listdir(path.parent) == ["x.png"]


def test_failed_writing_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    images.write_png(path, np.zeros((2, 2, 1), np.uint8))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"x\.png.*No space left"):
        images.write_png(path, np.ones((2, 2, 1), np.uint8))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.png"]


def test_grid_lays_out_row_by_row():
    numbered = np.arange(5, dtype=np.uint8)[:, None, None, None]
    numbered = np.broadcast_to(numbered, (5, 2, 2, 1))
    sheet = images.grid(numbered, columns=3, fill=9)
    assert sheet[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 9]]
    assert images.grid(numbered, columns=3, gap=1).shape == (5, 8, 1)
    assert images.grid(numbered).shape == (4, 6, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 2, 2, 1), np.float32),
        np.zeros((2, 2, 1), np.uint8),
        np.zeros((0, 2, 2, 1), np.uint8),
    ],
)
def test_grid_refuses_what_is_no_batch_of_images(wrong):
    with pytest.raises(ValueError, match="uint8"):
        images.grid(wrong)


def test_values_are_clipped_and_rounded():
    values = images.to_uint8([-1.0, 0.0, 0.5, 1.0, 2.0])
    assert values.tolist() == [0, 0, 128, 255, 255]
