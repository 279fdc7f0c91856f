"""Checkpoints in the background: training goes on, and no failure is lost."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.core.errors import CheckpointError
from nvae_tf.runs import checkpoint_folder
from nvae_tf.runs.background import BackgroundStore
from nvae_tf.runs.checkpointing import CheckpointStore
from nvae_tf.runs.workdir import read_tensors

_PATIENCE = 60  # Seconds.
_TENSORS = {"c": np.arange(3.0)}


@pytest.fixture
def saves(tmp_path):
    return BackgroundStore(CheckpointStore(tmp_path, keep=3))


@pytest.fixture
def disk(monkeypatch):
    """A disk that waits until it may write, or is full."""
    original = checkpoint_folder.write
    may_write = threading.Event()
    full = []

    def write(folder, *args):
        assert may_write.wait(_PATIENCE)
        if full:
            raise full.pop()
        original(folder, *args)

    monkeypatch.setattr(checkpoint_folder, "write", write)
    yield may_write, full
    may_write.set()


def test_saving_does_not_wait_for_the_disk_and_looking_does(
    saves, tmp_path, disk
):
    may_write, _ = disk
    saves.save(1, _TENSORS, {"n": 1})
    assert CheckpointStore(tmp_path).steps() == []
    may_write.set()
    assert saves.settled().steps() == [1]
    assert saves.settled().restore(1).metadata == {"n": 1}


def test_failure_is_told_at_the_next_save_and_once(saves, disk):
    may_write, full = disk
    full.append(OSError("no room"))
    may_write.set()
    saves.save(1, _TENSORS, {})
    with pytest.raises(CheckpointError, match="no room"):
        saves.save(2, _TENSORS, {})
    saves.save(3, _TENSORS, {})
    assert saves.settled().steps() == [3]


def test_context_waits_and_tells_of_a_failure(saves, disk, caplog):
    may_write, full = disk
    may_write.set()
    with saves:
        saves.save(1, _TENSORS, {})
    assert saves.settled().steps() == [1]
    full.append(OSError("no room"))
    with pytest.raises(CheckpointError, match="no room"), saves:
        saves.save(2, _TENSORS, {})
    # What ended the context is not hidden.
    full.append(OSError("no room"))
    saves.save(2, _TENSORS, {})
    with pytest.raises(ZeroDivisionError), saves:
        raise ZeroDivisionError
    assert "no room" in caplog.text


def test_what_is_saved_stays_as_it_was():
    variable = tf.Variable([1.0, 2.0])
    tensors = read_tensors({"v": variable})
    variable.assign_add([1.0, 1.0])
    variable.scatter_nd_update([[0]], [9.0])
    np.testing.assert_array_equal(tensors["v"], [1.0, 2.0])
