"""Videos show the frames that were given, at the speed that was asked for."""

import sys

import av
import numpy as np
import pytest

from nvae_tf.core.errors import DataError
from nvae_tf.sampling import video


def _read(path):
    """Frames uint8 `[N, H, W, 3]` and frames per second."""
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
        frames = [
            frame.to_ndarray(format="rgb24")
            for frame in container.decode(video=0)
        ]
    return np.stack(frames), rate


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_frames_come_back_in_order_and_colour(tmp_path, channels):
    frames = np.zeros((7, 32, 48, channels), np.uint8)
    for number in range(7):
        frames[number, ..., 0] = 30 * number
        frames[number, :, 24:, -1 if channels == 1 else 2] = 200
    path = tmp_path / "deep" / "way.mp4"
    video.write_mp4(path, frames, 7.5)
    found, rate = _read(path)
    assert rate == pytest.approx(7.5)
    expected = frames if channels > 1 else np.repeat(frames, 3, axis=-1)
    difference = np.abs(found.astype(int) - expected[..., :3])
    # Away from the edge, where colours at half the resolution mix.
    assert difference[:, :, :20].max() < 12
    assert difference[:, :, 28:].max() < 12


def test_odd_sides_lose_their_last_pixels(tmp_path):
    frames = np.full((3, 33, 35, 1), 90, np.uint8)
    video.write_mp4(tmp_path / "x.mp4", frames, 12)
    found, _ = _read(tmp_path / "x.mp4")
    assert found.shape == (3, 32, 34, 3)
    assert np.abs(found.astype(int) - 90).max() < 5


def test_missing_package_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"av.*\[video\]"):
        video.write_mp4(
            tmp_path / "x.mp4", np.zeros((1, 32, 32, 1), np.uint8), 12
        )
    assert not list(tmp_path.iterdir())
