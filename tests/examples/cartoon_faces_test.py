"""Cartoon faces: drawn by parts, and none of them in both splits."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from examples import cartoon_faces
from nvae_tf.core.errors import DataError

_DRAWS = """#!/bin/sh
for seed in $(seq $3 $(($4 - 1))); do
  echo $2 > $5/$seed.png
  echo hair$seed
done
"""
_FAILS = """#!/bin/sh
echo "Cannot find package" >&2
exit 1
"""


@pytest.fixture(name="node")
def _node(tmp_path, monkeypatch):
    """Puts a script in the place of Node.js."""

    def install(script: str):
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "node").write_text(script)
        (folder / "node").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return install


def test_every_seed_is_drawn_once(node, tmp_path, monkeypatch):
    node(_DRAWS)
    monkeypatch.setattr(cartoon_faces, "_STRIDE", 4)
    faces = tmp_path / "train"
    hair = cartoon_faces.draw(pathlib.Path("faces.mjs"), range(5, 15), faces)
    assert hair == [f"hair{seed}" for seed in range(5, 15)]
    assert sorted(int(p.stem) for p in faces.iterdir()) == list(range(5, 15))


def test_what_node_says_is_passed_on(node, tmp_path):
    node(_FAILS)
    with pytest.raises(DataError, match="Cannot find package"):
        cartoon_faces.draw(
            pathlib.Path("faces.mjs"), range(5), tmp_path / "train"
        )


def _write(folder, contents):
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def test_faces_of_both_splits_are_removed_from_one(tmp_path):
    train, test = tmp_path / "train", tmp_path / "test"
    _write(train, {"0.png": b"a", "1.png": b"b"})
    _write(test, {"2.png": b"b", "3.png": b"c", "4.png": b"b"})
    assert cartoon_faces.remove_known(test, train) == 2
    assert [path.name for path in test.iterdir()] == ["3.png"]
    assert len(list(train.iterdir())) == 2


def test_hair_is_told_by_its_name(tmp_path):
    for number in range(3):
        shade = Image.new("RGB", (64, 64), (0, 0, 80 * number))
        shade.save(tmp_path / f"{number:06d}.png")
    hair = ["long", "bald", "long"]
    cartoon_faces.write_hair(tmp_path, hair, tmp_path / "hair.npz")
    with np.load(tmp_path / "hair.npz") as told:
        assert told["x_train"].shape == (3, 32, 32, 3)
        assert told["x_train"].dtype == np.uint8
        assert told["x_train"][:, 0, 0, 2].tolist() == [0, 80, 160]
        assert told["y_train"].tolist() == [1, 0, 1]
