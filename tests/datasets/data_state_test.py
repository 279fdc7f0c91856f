"""Changes of data files show, and nothing else does."""

import os

import numpy as np
import pytest
from PIL import Image

from nvae_tf.config import DataConfig
from nvae_tf.datasets.data_state import data_state


def _write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)


def _write_array(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.zeros((3, 4, 4), np.uint8))


def _write_text(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


@pytest.mark.parametrize(
    ("source", "named", "read", "write", "other"),
    [
        ("image_folder", "d", "d/a/1.png", _write_image, "d/notes.txt"),
        ("array", "d", "d/train.npy", _write_array, "d/notes.txt"),
        ("array", "d/i.npy", "d/i.npy", _write_array, "d/other.npy"),
        ("idx", "d", "d/t10k-images-idx3-ubyte", _write_text, "d/notes.txt"),
        ("tfrecord", "d", "d/a.tfrecord", _write_text, "d/notes.txt"),
        ("tfrecord", "d", "d/a.index.npz", _write_text, "d/notes.txt"),
    ],
)
def test_state_changes_with_the_files_that_are_read(
    tmp_path, source, named, read, write, other
):
    data = DataConfig(source=source, path=str(tmp_path / named))
    path = tmp_path / read
    write(path)
    states = [data_state(data)]
    _write_text(tmp_path / other)
    assert data_state(data) == states[0]
    # An edit in place: as many images as before, and bytes.
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    states.append(data_state(data))
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    states.append(data_state(data))
    assert len(set(states)) == 3


def test_state_changes_with_labels_beside_the_file(tmp_path):
    images, labels = tmp_path / "i.npy", tmp_path / "i_labels.npy"
    _write_array(images)
    _write_array(labels)
    states = {True: [], False: []}
    for _ in range(2):
        for is_labelled, found in states.items():
            data = DataConfig(
                source="array", path=str(images), labels=is_labelled
            )
            found.append(data_state(data))
        labels.write_bytes(b"")
    assert states[True][0] != states[True][1]
    assert states[False][0] == states[False][1]


def test_data_without_files_of_its_own_has_no_state():
    assert data_state(DataConfig(source="mnist_5k")) == ""
