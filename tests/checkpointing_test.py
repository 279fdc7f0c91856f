"""Checkpoints: whole or absent, verified, and only the last ones kept."""

import errno
import logging

import numpy as np
import pytest

from nvae_tf import checkpointing
from nvae_tf.checkpointing import CheckpointStore
from nvae_tf.errors import CheckpointError

_TENSORS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "c": np.array(7, np.int64),
}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=3)


def _flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_saved_comes_back(store):
    store.save(12, _TENSORS, {"position": [1, 2]})
    checkpoint = store.restore_latest()
    assert checkpoint.step == 12
    assert checkpoint.state == {"position": [1, 2]}
    assert checkpoint.tensors.keys() == _TENSORS.keys()
    for name, value in _TENSORS.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], value)
        assert checkpoint.tensors[name].dtype == value.dtype
        assert checkpoint.tensors[name].shape == value.shape


def test_state_can_be_replaced_alone(store):
    store.save(3, _TENSORS, {"n": 1})
    store.update_state(3, {"n": 2})
    checkpoint = store.restore(3)
    assert checkpoint.state == {"n": 2}
    np.testing.assert_array_equal(checkpoint.tensors["c"], _TENSORS["c"])


def test_changed_state_is_noticed(store):
    path = store.save(3, _TENSORS, {"n": 1}) / "state.json"
    path.write_text(path.read_text().replace('"n": 1', '"n": 2'))
    with pytest.raises(CheckpointError, match="checksum"):
        store.restore(3)


def test_checkpoint_under_another_name_is_noticed(store):
    path = store.save(3, _TENSORS, {})
    path.rename(path.with_name("00000004"))
    with pytest.raises(CheckpointError, match="damaged"):
        store.restore(4)


def test_unreadable_disk_condemns_nothing(store, monkeypatch):
    store.save(1, _TENSORS, {})
    store.save(2, _TENSORS, {})

    def unreadable(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpointing, "_checksum", unreadable)
    with pytest.raises(CheckpointError, match="Input/output error"):
        store.restore_latest(discard=True)
    assert store.steps() == [1, 2]


def test_nothing_saved_is_none(store):
    assert store.restore_latest() is None
    assert store.steps() == []


def test_only_the_last_ones_are_kept(store):
    for step in range(5):
        store.save(step, _TENSORS, {})
    assert store.steps() == [2, 3, 4]


def test_saving_a_step_again_replaces_it(store):
    store.save(1, _TENSORS, {"n": 1})
    store.save(1, _TENSORS, {"n": 2})
    assert store.restore_latest().state == {"n": 2}


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_latest_falls_back_and_says_so(store, caplog, name, damage):
    store.save(1, _TENSORS, {"n": 1})
    path = store.save(2, _TENSORS, {"n": 2}) / name
    if damage == "flip" and name == "tensors.safetensors":
        _flip_a_byte(path)
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:20])
    with caplog.at_level(logging.WARNING):
        checkpoint = store.restore_latest(discard=True)
    assert checkpoint.step == 1
    assert "00000002" in caplog.text
    assert store.steps() == [1]


def test_reading_alone_moves_nothing(store):
    store.save(1, _TENSORS, {})
    _flip_a_byte(store.save(2, _TENSORS, {}) / "tensors.safetensors")
    store.restore_latest()
    assert store.steps() == [1, 2]


def test_no_intact_checkpoint_is_an_error_not_a_fresh_start(store):
    _flip_a_byte(store.save(1, _TENSORS, {}) / "tensors.safetensors")
    with pytest.raises(CheckpointError, match="is intact"):
        store.restore_latest()


def test_full_disk_keeps_what_is_there(store, monkeypatch):
    store.save(1, _TENSORS, {})

    def full(path, data):
        path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpointing, "_write", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        store.save(2, _TENSORS, {})
    assert store.steps() == [1]
    assert store.restore_latest().step == 1
    assert [p.name for p in store.directory.iterdir()] == ["00000001"]


def test_unfinished_checkpoint_is_not_seen(store):
    store.save(1, _TENSORS, {})
    unfinished = store.directory / ".writing-00000002"
    unfinished.mkdir()
    assert store.steps() == [1]
    store.save(3, _TENSORS, {})
    assert store.restore_latest().step == 3
    assert not unfinished.exists()
