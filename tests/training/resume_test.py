"""A run is ended at every event that it has, and ends as if it had not been.

Others of these tests end whole processes (`survival_test.py`); here all starts
share one process and its graphs, so that every event can have its turn.
"""

import builtins
import collections
import contextlib
import errno
import functools
import io
import json
import os
import pathlib
import re
import socket

import numpy as np
import pytest

from nvae_tf.core.errors import UserError
from nvae_tf.runs import checkpoint_folder
from nvae_tf.runs.checkpointing import CheckpointStore
from nvae_tf.runs.workdir import Workdir
from nvae_tf.training import trainer
from nvae_tf.training.metrics import MetricsWriter
from nvae_tf.training.run_log import RunLog
from nvae_tf.training.run_state import RunState
from nvae_tf.training.trainer import Trainer
from nvae_tf.training.validation import Validator
from tests.support import faults
from tests.support.run_helpers import SMALLEST, make_config, write_images
from tests.support.shared_graphs import shared_graphs

pytestmark = pytest.mark.long

_EPOCHS = 20
_STEPS = 3 * _EPOCHS
_EVENTS = [
    (Trainer, "_take_step"),
    (Trainer, "_log"),
    (Trainer, "_save"),
    (Trainer, "_evaluate"),
    (Validator, "measure"),
    (Validator, "draw"),
    (MetricsWriter, "scalars"),
    (MetricsWriter, "image"),
    (MetricsWriter, "offset"),
    (RunState, "save"),
    (RunState, "note"),
    (RunState, "restore"),
    (CheckpointStore, "_clean_up"),
    (CheckpointStore, "_prune"),
    (CheckpointStore, "_remove"),
    (checkpoint_folder, "write"),
    (checkpoint_folder, "replace_metadata"),
    (RunLog, "go_on"),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts the same command again and again, with the same graphs."""
    config = make_config(
        write_images(tmp_path_factory.mktemp("data") / "blobs.npy"),
        model=SMALLEST,
        train={"epochs": _EPOCHS, "ema_decay": 0.9},
        checkpoint={"every_steps": 2, "keep": 1},
        evaluation={"every_epochs": 2},
    )
    with shared_graphs():
        yield functools.partial(trainer.train, config)


class _Watch:
    """Tells of events, and raises at one of them.

    Attributes:
      seen: how often each came.
    """

    def __init__(self):
        self.seen = collections.Counter()
        self._armed = []

    def arm(self, event, error, then=1):
        """Raises when `event` comes, the number `then` of it from now on."""
        self._armed.append((event, self.seen[event] + then, error))

    def __call__(self, event):
        self.seen[event] += 1
        for armed in self._armed:
            if armed[:2] == (event, self.seen[event]):
                raise armed[2]


@contextlib.contextmanager
def _watching():
    """Every event is told to the `_Watch` that it gives."""
    watch = _Watch()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in _EVENTS:
            patch.setattr(owner, name, _told(watch, owner, name))
        for name in ("fsync", "replace", "rename", "mkdir"):
            patch.setattr(os, name, _told_call(watch, name))
        original = builtins.open

        def opened(file, mode="r", *args, **kwargs):
            if set(mode) & set("wxa+") and isinstance(file, os.PathLike | str):
                watch(f"open {_kind(file)}")
            return original(file, mode, *args, **kwargs)

        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        yield watch


def _told(watch, owner, name):
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args, **kwargs):
        event = f"{owner.__name__.rpartition('.')[2]}.{name}"
        watch(f"before {event}")
        result = original(*args, **kwargs)
        watch(f"after {event}")
        return result

    return call


def _told_call(watch, name):
    original = getattr(os, name)

    def call(target, *args, **kwargs):
        if isinstance(target, int):
            # Where there is no such link, the calls are one event.
            watch(f"{name} {_kind(os.path.realpath(f'/dev/fd/{target}'))}")
        elif name != "mkdir" or not os.path.exists(target):
            watch(f"{name} {_kind(target)}")
        return original(target, *args, **kwargs)

    return call


def _kind(path):
    """A file's name without what tells processes and steps apart."""
    process = f".{socket.gethostname()}-{os.getpid()}"
    name = pathlib.Path(path).name.replace(process, "")
    return re.sub("[0-9]+", "#", name)


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """The run that nothing disturbs."""
    path = tmp_path_factory.mktemp("whole")
    with _watching() as watch:
        start(path)
    assert watch.seen["before Trainer._take_step"] == _STEPS
    return path


@pytest.fixture(scope="module")
def events(start, tmp_path_factory):
    """Events of a first start alone, and of every start that goes on."""
    path = tmp_path_factory.mktemp("events")
    with _watching() as first:
        _start_for_steps(start, path, first, 8)
    with _watching() as second:
        _start_for_steps(start, path, second, 8)
    assert len(second.seen) > 40
    return [e for e in first.seen if e not in second.seen], [*second.seen]


def _start_for_steps(start, path, watch, count):
    watch.arm("after Trainer._take_step", faults.PreemptedError(), count)
    with pytest.raises(faults.PreemptedError):
        start(path)


def _end(path):
    return Workdir(path).checkpoints().restore_latest()


def _assert_on_the_way(path, whole):
    """What a run has saved so far is what the whole one had there."""
    found = _end(path)
    if found is not None:
        offset = found.metadata["metrics_offset"]
        kept = b""
        if offset:
            kept = (path / "metrics.jsonl").read_bytes()
        assert len(kept) >= offset
        expected = (whole / "metrics.jsonl").read_bytes()
        assert kept[:offset] == expected[:offset]


def _assert_same_end(path, whole):
    ours, theirs = _end(path), _end(whole)
    assert ours.step == theirs.step == _STEPS
    assert ours.metadata == theirs.metadata
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, value in theirs.tensors.items():
        np.testing.assert_array_equal(ours.tensors[name], value, err_msg=name)
    for name in ("metrics.jsonl", "config.json"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()
    files = [
        sorted(
            str(p.relative_to(w))
            for p in w.rglob("*")
            if "tensorboard" not in p.parts
        )
        for w in (path, whole)
    ]
    assert files[0] == files[1]


def test_run_that_ends_at_every_event_ends_as_one_that_does_not(
    start, whole, events, tmp_path
):
    only_first, every = events
    for number, event in enumerate([*only_first, *every]):
        # What comes once in a run comes in a new one.
        path = tmp_path / (f"{number}" if event in only_first else "run")
        with _watching() as watch:
            watch.arm(event, faults.PreemptedError(event))
            with pytest.raises(faults.PreemptedError, match=re.escape(event)):
                start(path)
        _assert_on_the_way(path, whole)
        if event in only_first:
            with _watching() as watch:
                _start_for_steps(start, path, watch, 7)
            _assert_on_the_way(path, whole)
            assert _end(path).step == 6
    start(tmp_path / "run")
    _assert_same_end(tmp_path / "run", whole)


def test_disk_that_fails_at_any_call_is_told_of_and_costs_nothing(
    start, whole, events, tmp_path
):
    message = os.strerror(errno.ENOSPC)
    calls = [e for e in events[1] if not e.startswith(("before", "after"))]
    told = []
    for event in calls:
        with _watching() as watch:
            watch.arm(event, OSError(errno.ENOSPC, message, event))
            # What may fail without harm does not end the run.
            watch.arm("after Trainer._take_step", faults.PreemptedError(), 7)
            with pytest.raises((UserError, faults.PreemptedError)) as caught:
                start(tmp_path)
        assert watch.seen[event]
        if caught.type is not faults.PreemptedError:
            assert message in str(caught.value)
            told.append(event)
        _assert_on_the_way(tmp_path, whole)
    start(tmp_path)
    _assert_same_end(tmp_path, whole)
    assert len(told) > 10, told


def test_record_that_breaks_off_is_written_again(
    start, whole, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:

        def half(self, record):
            text = json.dumps(record)
            self._file.write(text[: len(text) // 2])
            self._file.flush()
            if record["step"] == 5:
                raise faults.PreemptedError
            self._file.write(text[len(text) // 2 :] + "\n")
            self._file.flush()

        patch.setattr(MetricsWriter, "_write", half)
        with pytest.raises(faults.PreemptedError):
            start(tmp_path)
    _assert_on_the_way(tmp_path, whole)
    start(tmp_path)
    _assert_same_end(tmp_path, whole)
