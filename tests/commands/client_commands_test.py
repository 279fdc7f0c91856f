"""`nvae client ...` beside what a server does: files that are read and written.

With a server they are tested in tests/serving/export_client_test.py.
"""

import contextlib
import os

import numpy as np
import pytest
from PIL import Image

from nvae_tf.commands.client.flags import ServerFlags
from nvae_tf.core.errors import UserError
from tests.support.in_process import run as nvae


class _Client:
    """Answers as a server's client does, at once."""

    image_shape = (4, 4, 1)

    def reconstruct(self, images, seeds, labels):
        return images

    def score(self, images, seeds, labels):
        values = np.arange(len(images), dtype=np.float32)
        return {"nelbo": values, "bits_per_dim": values}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.setattr(
        ServerFlags, "connect", lambda _: contextlib.nullcontext(_Client())
    )


def _write_image(path, level=0):
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (4, 4), level).save(path, "PNG")
    return path


@pytest.mark.parametrize("command", ["sample", "reconstruct"])
def test_output_of_no_kind_is_refused_before_a_server_is_asked(
    monkeypatch, command
):
    monkeypatch.setattr(ServerFlags, "connect", lambda _: pytest.fail("asked"))
    with pytest.raises(UserError, match=r"grid\.jpg must end in \.png"):
        nvae(f"client {command}", "--output=grid.jpg")


@pytest.mark.parametrize(
    ("names", "results"),
    [
        (["a/1.png", "b/2.png"], ["1.png", "2.png"]),
        (["a/1.png", "b/1.png"], ["1_1.png", "2_1.png"]),
        (["a/x.jpg", "a/x.png"], ["1_x.png", "2_x.png"]),
        (["a/X.png", "b/x.png"], ["1_X.png", "2_x.png"]),
    ],
)
def test_every_image_has_a_reconstruction_of_its_own(tmp_path, names, results):
    for level, name in enumerate(names):
        _write_image(tmp_path / name, level)
    images = ",".join(str(tmp_path / name) for name in names)
    output = tmp_path / "out"
    nvae("client reconstruct", f"--images={images}", f"--output={output}/")
    written = sorted(output.iterdir())
    assert [path.name for path in written] == results
    for level, path in enumerate(written):
        with Image.open(path) as image:
            assert image.getpixel((0, 0)) == level


def test_scores_keep_names_that_are_no_text(tmp_path):
    photos = tmp_path / "photos"
    _write_image(photos / os.fsdecode(b"caf\xe9.png"))
    table = tmp_path / "scores.csv"
    nvae("client score", f"--images={photos}", f"--output={table}")
    assert b"/caf\xe9.png,0.0,0.0\n" in table.read_bytes()
