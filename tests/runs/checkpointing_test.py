"""Checkpoints: whole or absent, verified, and kept as long as they should."""

import errno
import json
import logging

import numpy as np
import pytest

from nvae_tf.core.errors import CheckpointError
from nvae_tf.runs import checkpoint_folder, checkpointing
from nvae_tf.runs.checkpointing import CheckpointStore
from nvae_tf.runs.retention import Retention

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

    monkeypatch.setattr(checkpoint_folder, "_checksum", unreadable)
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

    def full(path):
        if path.name.endswith(".writing"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_folder, "sync", full)
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


class _Clock:
    """Hours that pass when the test says so."""

    def __init__(self):
        self.hours = 0.0

    def __call__(self):
        return self.hours * 3600


def _open(store, clock=None, **policy):
    """The store as another process would open it."""
    clock = clock or _Clock()
    return CheckpointStore(store.directory, Retention(**policy), clock)


def test_best_checkpoint_stays_and_is_known_after_a_restart(store):
    for step, score in ((1, 9.0), (2, 5.0), (3, 7.0), (4, 8.0)):
        store = _open(store, keep=1)
        store.save(step, _TENSORS, {"n": step})
        store.update_state(step, {"n": step}, score=score)
    assert store.steps() == [2, 4]
    store = _open(store, keep=1)
    assert store.best_step() == 2
    assert store.restore_best().state == {"n": 2}


def test_best_gives_way_to_a_better_one_and_not_to_an_unknown_one(store):
    store = _open(store, keep=1)
    store.save(1, _TENSORS, {})
    store.update_state(1, {}, score=5.0)
    for step, score in ((2, None), (3, float("nan")), (4, float("inf"))):
        store.save(step, _TENSORS, {})
        store.update_state(step, {}, score=score)
        assert store.steps() == [1, step]
    store.save(5, _TENSORS, {})
    store.update_state(5, {}, score=4.0)
    assert store.steps() == [5]


def test_state_without_a_score_leaves_the_score(store):
    store.save(1, _TENSORS, {})
    store.update_state(1, {}, score=5.0)
    store.update_state(1, {"n": 1})
    assert store.best_step() == 1


def test_best_is_not_kept_where_it_is_not_wanted(store):
    store = _open(store, keep=1, keep_best=False)
    store.save(1, _TENSORS, {})
    store.update_state(1, {}, score=5.0)
    store.save(2, _TENSORS, {})
    assert store.steps() == [2]


def test_without_scores_there_is_no_best(store):
    store.save(1, _TENSORS, {})
    assert store.best_step() is None
    assert store.restore_best() is None


def test_one_checkpoint_every_so_many_hours_stays_for_good(store):
    clock = _Clock()
    store = _open(store, clock, keep=1, keep_every_hours=2)
    for step in range(1, 8):
        clock.hours += 0.75
        store.save(step, _TENSORS, {})
    # Saved at 0.75, 1.5, 2.25*, 3, 3.75, 4.5*, 5.25 hours.
    assert store.steps() == [3, 6, 7]


def test_hours_of_training_go_on_after_a_restart(store):
    for step in range(1, 6):
        # Time between the processes does not count.
        clock = _Clock()
        clock.hours = 1000.0 * step
        store = _open(store, clock, keep=1, keep_every_hours=2)
        clock.hours += 0.75
        store.save(step, _TENSORS, {})
    assert store.steps() == [3, 5]


def test_checkpoints_of_failing_steps_displace_no_good_one(store):
    store = _open(store, keep=2)
    for step in range(1, 4):
        store.save(step, _TENSORS, {})
    for step in range(4, 8):
        store.save(step, _TENSORS, {}, good=False)
    assert store.steps() == [2, 3, 7]
    assert store.restore_latest().step == 7
    assert store.restore_latest(only_good=True).step == 3
    assert store.restore_latest(only_good=True, before=3).step == 2
    assert store.restore_latest(before=2) is None


def test_failing_checkpoints_do_not_stay_for_good(store):
    clock = _Clock()
    store = _open(store, clock, keep=1, keep_every_hours=1)
    for step, good in ((1, False), (2, True), (3, True)):
        clock.hours += 1
        store.save(step, _TENSORS, {}, good=good)
    assert store.steps() == [2, 3]


def test_abandoned_checkpoints_are_not_resumed_from(store):
    for step in (1, 2, 3):
        store.save(step, _TENSORS, {"n": step})
    store.abandon_after(1)
    assert store.steps() == [1]
    assert store.restore_latest().step == 1
    assert [p.name for p in store.directory.iterdir()] == ["00000001"]


def test_best_and_permanent_checkpoints_outlive_being_abandoned(store):
    clock = _Clock()
    store = _open(store, clock, keep=1, keep_every_hours=2)
    store.save(1, _TENSORS, {"n": 1})
    store.save(2, _TENSORS, {"n": 2})
    store.update_state(2, {"n": 2}, score=1.0)
    clock.hours += 2
    store.save(3, _TENSORS, {"n": 3})
    store.abandon_after(1)
    store.save(2, _TENSORS, {"n": 22})
    store.update_state(2, {"n": 22}, score=3.0)
    store = _open(store, keep=1)
    assert store.steps() == [2]
    assert store.restore_latest().state == {"n": 22}
    assert store.restore_best().state == {"n": 2}
    names = sorted(p.name for p in store.directory.iterdir())
    assert names == ["00000002", "00000002.abandoned-1", "00000003.abandoned-1"]
    store.update_state(2, {"n": 22}, score=0.5)
    assert sorted(p.name for p in store.directory.iterdir()) == [
        "00000002",
        "00000003.abandoned-1",
    ]


def test_checkpoints_without_a_note_are_read(store):
    path = store.save(1, _TENSORS, {"n": 1}) / "state.json"
    content = json.loads(path.read_text())
    del content["retention"]
    path.write_text(json.dumps(content))
    assert store.restore_latest(only_good=True).state == {"n": 1}
    store.update_state(1, {"n": 2}, score=3.0)
    assert store.restore_best().state == {"n": 2}


def test_replaced_checkpoint_is_put_back_if_the_new_one_did_not_come(store):
    store.save(1, _TENSORS, {"n": 1})
    # Where a process can be killed while it saves the step again.
    (store.directory / "00000001").rename(
        store.directory / ".replaced-00000001"
    )
    (store.directory / ".writing-00000001").mkdir()
    assert store.restore_latest(discard=True).state == {"n": 1}
    assert [p.name for p in store.directory.iterdir()] == ["00000001"]


def test_half_removed_checkpoint_is_not_seen(store, monkeypatch):
    with monkeypatch.context() as patch:
        # As if the process ended before anything in the folder is removed.
        patch.setattr(checkpointing.shutil, "rmtree", lambda *a, **k: None)
        for step in range(5):
            store.save(step, _TENSORS, {})
    assert store.steps() == [2, 3, 4]
    store.save(5, _TENSORS, {})
    assert len(list(store.directory.iterdir())) == 3
