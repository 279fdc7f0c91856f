"""Checkpoints: whole or absent, verified, and kept as long as they should."""

import errno
import json
import logging
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from nvae_tf.core.errors import CheckpointError
from nvae_tf.runs import checkpoint_folder, checkpointing
from nvae_tf.runs.checkpointing import CheckpointStore
from nvae_tf.runs.retention import Retention
from tests.support import faults

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
    assert checkpoint.metadata == {"position": [1, 2]}
    assert checkpoint.tensors.keys() == _TENSORS.keys()
    for name, value in _TENSORS.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], value)
        assert checkpoint.tensors[name].dtype == value.dtype
        assert checkpoint.tensors[name].shape == value.shape


def test_state_can_be_replaced_alone(store):
    store.save(3, _TENSORS, {"n": 1})
    store.update_metadata(3, {"n": 2})
    checkpoint = store.restore(3)
    assert checkpoint.metadata == {"n": 2}
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

    monkeypatch.setattr(checkpoint_folder, "sha256", unreadable)
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
    assert store.restore_latest().metadata == {"n": 2}


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


_ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS]


def _names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("error_number", _ERRORS)
@pytest.mark.parametrize("step", [1, 2])
def test_checkpoint_is_whole_or_absent_wherever_the_disk_fails(
    tmp_path, error_number, step
):
    def prepare(name):
        store = CheckpointStore(tmp_path / name, keep=1)
        store.save(1, _TENSORS, {"n": "old"})
        return store

    counted = prepare("counted")
    numbers = faults.numbers_of_calls(
        lambda: counted.save(step, _TENSORS, {"n": "new"})
    )
    for number in numbers:
        store = prepare(f"{number}")
        problem = None
        with faults.disk(number, error_number):
            try:
                store.save(step, _TENSORS, {"n": "new"})
            except CheckpointError as error:
                problem = str(error)
        found = store.restore_latest()
        assert (found.step, found.metadata["n"]) in ((1, "old"), (step, "new"))
        if problem is None:
            # What cannot be removed is told of, and does no harm.
            assert found.metadata["n"] == "new"
        else:
            assert os.strerror(error_number) in problem
        store.save(3, _TENSORS, {})
        assert _names(store.directory) == [
            "00000003",
            "00000003/state.json",
            "00000003/tensors.safetensors",
        ]


@pytest.mark.parametrize("error_number", [*_ERRORS, None])
def test_state_is_the_old_or_the_new_wherever_its_writing_ends(
    tmp_path, error_number
):
    store = CheckpointStore(tmp_path)
    store.save(3, _TENSORS, {"n": "old"})

    def update():
        store.update_metadata(3, {"n": "new"}, score=1.0)

    raised = faults.PreemptedError if error_number is None else CheckpointError
    for number in faults.numbers_of_calls(update):
        store.update_metadata(3, {"n": "old"})
        with faults.disk(number, error_number), pytest.raises(raised):
            update()
        found = CheckpointStore(tmp_path).restore_latest(discard=True)
        assert found.metadata["n"] in ("old", "new")
        np.testing.assert_array_equal(found.tensors["c"], _TENSORS["c"])
        assert [p.name for p in tmp_path.iterdir()] == ["00000003"]


def test_what_a_killed_process_left_in_a_checkpoint_goes(store):
    folder = store.save(1, _TENSORS, {})
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    writer = f"{socket.gethostname()}-{process.pid}"
    (folder / f".state.json.{writer}.tmp").write_text("{")
    store.restore_latest(discard=True)
    assert {p.name for p in folder.iterdir()} == {
        "state.json",
        "tensors.safetensors",
    }


def test_checkpoints_of_a_disk_that_is_read_only_are_read(store):
    store.save(1, _TENSORS, {"n": 1})
    _flip_a_byte(store.save(2, _TENSORS, {}) / "tensors.safetensors")
    with faults.disk(0, errno.EROFS) as disk:
        assert store.restore_latest().metadata == {"n": 1}
    assert not disk.calls
    with faults.disk(0, errno.EROFS):
        with pytest.raises(CheckpointError, match="cannot be renamed"):
            store.restore_latest(discard=True)


def test_both_files_of_a_checkpoint_are_for_the_same_readers(store):
    folder = store.save(1, _TENSORS, {})
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


def test_clock_that_goes_backwards_harms_nothing(store):
    clock = _Clock()
    clock.hours = 10.0
    store = _open(store, clock, keep=1, keep_every_hours=2)
    for step, hours in ((1, 12.5), (2, 3.0), (3, -5.0), (4, 15.0)):
        clock.hours = hours
        store.save(step, _TENSORS, {"n": step})
        assert store.restore_latest().metadata == {"n": step}
    assert store.steps() == [1, 4]


_HOSTILE_STATES = [
    "",
    "[]",
    "null",
    "[" * 100_000,
    '{"step": 2}',
    '{"step": "2", "sha256": [], "state_sha256": {}, "state": 7}',
    '{"step": 1' + "0" * 400 + "}",
]


@pytest.mark.parametrize("text", _HOSTILE_STATES)
def test_state_that_was_never_written_here_is_damage(store, text):
    store.save(1, _TENSORS, {"n": 1})
    path = store.save(2, _TENSORS, {}) / "state.json"
    path.write_text(text)
    with pytest.raises(checkpointing.DamagedCheckpointError):
        store.restore(2)
    with pytest.raises(CheckpointError):
        store.update_metadata(2, {})
    assert store.restore_latest(discard=True).metadata == {"n": 1}


@pytest.mark.parametrize(
    "note",
    [
        None,
        [],
        7,
        {"hours": "x"},
        {"hours": None},
        {"score": "0"},
        {"score": float("nan")},
        {"score": True},
        {"unknown": 1},
    ],
)
def test_note_that_makes_no_sense_is_none(store, note):
    path = store.save(1, _TENSORS, {}) / "state.json"
    store.update_metadata(1, {}, score=1.0)
    content = json.loads(path.read_text())
    content["retention"] = note
    path.write_text(json.dumps(content))
    assert store.best_step() is None
    store.save(2, _TENSORS, {})
    assert store.steps() == [1, 2]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_pipe_in_place_of_a_file_is_not_waited_for(store, name):
    path = store.save(1, _TENSORS, {}) / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="not a file"):
        store.restore_latest()


def test_folders_that_no_run_would_name_so_are_no_checkpoints(store):
    store.save(1, _TENSORS, {})
    for name in ("2", "0002", "000000003", "00000004x", "\u0660" * 8, "9" * 30):
        (store.directory / name).mkdir()
    assert store.steps() == [1]
    assert store.restore_latest(discard=True).step == 1


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
        store.update_metadata(step, {"n": step}, score=score)
    assert store.steps() == [2, 4]
    store = _open(store, keep=1)
    assert store.best_step() == 2
    assert store.restore_best().metadata == {"n": 2}


def test_best_gives_way_to_a_better_one_and_not_to_an_unknown_one(store):
    store = _open(store, keep=1)
    store.save(1, _TENSORS, {})
    store.update_metadata(1, {}, score=5.0)
    for step, score in ((2, None), (3, float("nan")), (4, float("inf"))):
        store.save(step, _TENSORS, {})
        store.update_metadata(step, {}, score=score)
        assert store.steps() == [1, step]
    store.save(5, _TENSORS, {})
    store.update_metadata(5, {}, score=4.0)
    assert store.steps() == [5]


def test_state_without_a_score_leaves_the_score(store):
    store.save(1, _TENSORS, {})
    store.update_metadata(1, {}, score=5.0)
    store.update_metadata(1, {"n": 1})
    assert store.best_step() == 1


def test_best_is_not_kept_where_it_is_not_wanted(store):
    store = _open(store, keep=1, keep_best=False)
    store.save(1, _TENSORS, {})
    store.update_metadata(1, {}, score=5.0)
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
    store.update_metadata(2, {"n": 2}, score=1.0)
    clock.hours += 2
    store.save(3, _TENSORS, {"n": 3})
    store.abandon_after(1)
    assert store.best_step() is None
    assert store.restore_best() is None
    store.save(2, _TENSORS, {"n": 22})
    store.update_metadata(2, {"n": 22}, score=3.0)
    store = _open(store, keep=1)
    assert store.steps() == [2]
    assert store.restore_latest().metadata == {"n": 22}
    # What is known by its step must be what is loaded by it.
    assert store.best_step() == 2
    assert store.restore_best().metadata == {"n": 22}
    names = sorted(p.name for p in store.directory.iterdir())
    assert names == ["00000002", "00000002.abandoned-1", "00000003.abandoned-1"]
    store.update_metadata(2, {"n": 22}, score=0.5)
    assert sorted(p.name for p in store.directory.iterdir()) == [
        "00000002",
        "00000003.abandoned-1",
    ]


def test_best_since_a_run_went_back_stays_beside_the_abandoned_one(store):
    store = _open(store, keep=1)
    store.save(1, _TENSORS, {})
    store.save(2, _TENSORS, {})
    store.update_metadata(2, {}, score=1.0)
    store.abandon_after(1)
    for step, score in ((2, 2.0), (3, 3.0), (4, 4.0)):
        store.save(step, _TENSORS, {})
        store.update_metadata(step, {}, score=score)
    assert store.best_step() == 2
    assert sorted(p.name for p in store.directory.iterdir()) == [
        "00000002",
        "00000002.abandoned-1",
        "00000004",
    ]


def test_checkpoints_without_a_note_are_read(store):
    path = store.save(1, _TENSORS, {"n": 1}) / "state.json"
    content = json.loads(path.read_text())
    del content["retention"]
    path.write_text(json.dumps(content))
    assert store.restore_latest(only_good=True).metadata == {"n": 1}
    store.update_metadata(1, {"n": 2}, score=3.0)
    assert store.restore_best().metadata == {"n": 2}


def test_replaced_checkpoint_is_put_back_if_the_new_one_did_not_come(store):
    store.save(1, _TENSORS, {"n": 1})
    # Where a process can be killed while it saves the step again.
    (store.directory / "00000001").rename(
        store.directory / ".replaced-00000001"
    )
    (store.directory / ".writing-00000001").mkdir()
    assert store.restore_latest(discard=True).metadata == {"n": 1}
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
