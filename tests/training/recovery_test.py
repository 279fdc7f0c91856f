"""Rollbacks: when, to where, how often, and that they are not forgotten."""

import dataclasses
import itertools
import json
import os

import numpy as np
import pytest

from nvae_tf.config import TrainConfig
from nvae_tf.config.schedules import Coefficients
from nvae_tf.core.errors import CheckpointError, UserError
from nvae_tf.runs.checkpointing import CheckpointStore
from nvae_tf.training.recovery import Recovery, Rollback, Verdict

_CONFIG = TrainConfig(
    skips_before_rollback=4,
    max_rollbacks=2,
    rollback_learning_rate=0.5,
    rollback_regularization=2.0,
)
_TENSORS = {"weights": np.ones(3, np.float32), "step": np.array(1)}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=3)


def _open(store, config=_CONFIG, **kwargs):
    """As the next process would."""
    return Recovery(store.directory.parent / "recovery.json", config, **kwargs)


def _save(store, *steps, good=True, value=1.0):
    for step in steps:
        tensors = {**_TENSORS, "weights": np.full(3, value, np.float32)}
        store.save(step, tensors, {"n": step}, good=good)


def test_skips_below_the_limit_are_let_pass(store):
    recovery = _open(store)
    assert recovery.verdict(0) is Verdict.GO_ON
    assert recovery.verdict(3) is Verdict.GO_ON
    assert recovery.verdict(4) is Verdict.ROLL_BACK


def test_overflows_that_lower_the_loss_scale_are_no_failure(store):
    recovery = _open(store)
    assert recovery.verdict(4, loss_scale=2.0) is Verdict.GO_ON
    assert recovery.verdict(4, loss_scale=1.0) is Verdict.ROLL_BACK
    # A gradient that is too long at any scale leaves the scale as it is.
    assert recovery.verdict(28, loss_scale=1024.0) is Verdict.ROLL_BACK


def test_run_goes_back_to_the_last_good_checkpoint(store):
    _save(store, 10, 20)
    _save(store, 25, 30, good=False)
    recovery = _open(store)
    assert recovery.roll_back(store, 31, "why").step == 20
    assert store.restore_latest().step == 20
    assert recovery.history == (Rollback(31, 20, 0.5, 2.0, "why"),)


def test_checkpoint_with_a_nan_is_not_gone_back_to(store):
    _save(store, 10)
    _save(store, 20, value=np.nan)
    assert _open(store).roll_back(store, 31, "").step == 10


def test_run_that_fails_again_at_once_goes_back_further(store):
    _save(store, 10, 20)
    recovery = _open(store)
    assert recovery.roll_back(store, 25, "").step == 20
    assert recovery.roll_back(store, 25, "").step == 10
    # It is the only one left.
    assert recovery.roll_back(store, 25, "").step == 10


def test_run_that_came_further_does_not(store):
    _save(store, 10, 20)
    recovery = _open(store)
    recovery.roll_back(store, 25, "")
    _save(store, 30)
    assert recovery.roll_back(store, 35, "").step == 30


def test_run_without_a_good_checkpoint_begins_anew(store):
    _save(store, 5, good=False)
    recovery = _open(store)
    assert recovery.roll_back(store, 6, "") is None
    assert store.steps() == []
    _save(store, 10)
    assert recovery.roll_back(store, 12, "").step == 10


def test_run_stops_after_so_many_rollbacks_even_across_restarts(store):
    _save(store, 10, 20)
    for _ in range(2):
        recovery = _open(store)
        assert recovery.verdict(4) is Verdict.ROLL_BACK
        recovery.roll_back(store, 25, "")
    recovery = _open(store)
    assert recovery.verdict(4) is Verdict.STOP
    assert recovery.verdict(3) is Verdict.GO_ON
    more = dataclasses.replace(_CONFIG, max_rollbacks=3)
    assert _open(store, more).verdict(4) is Verdict.ROLL_BACK


def test_coefficients_change_with_every_rollback(store):
    _save(store, 10)
    recovery = _open(store)
    given = Coefficients(0.25, 0.01, 0.1)
    assert recovery.adjust(given) == given
    recovery.roll_back(store, 12, "")
    recovery.roll_back(store, 12, "")
    # What was in force then stays, whatever the configuration says now.
    plain = dataclasses.replace(_CONFIG, rollback_learning_rate=1.0)
    adjusted = _open(store, plain).adjust(given)
    assert adjusted == pytest.approx(Coefficients(0.25, 0.04, 0.025))


def test_every_rollback_gives_another_seed(store):
    _save(store, 10)
    recovery = _open(store)
    seeds = [recovery.seed(7)]
    assert seeds == [7]
    for _ in range(2):
        recovery.roll_back(store, 12, "")
        seeds.append(recovery.seed(7))
    assert len({*seeds}) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert _open(store).seed(7) == seeds[-1]
    assert _open(store).seed(8) != seeds[-1]


@pytest.mark.parametrize("after", range(1, 4))
def test_rollback_cut_short_is_carried_out_on_resume(store, monkeypatch, after):
    """The process ends after the first, second ... change on disk."""
    _save(store, 10, 20, 30)
    _open(store).roll_back(store, 35, "")
    _save(store, 35, good=False)
    # Now the second: to 20, which abandons 30 and 35.
    changes = itertools.count(1)

    def ends(function):
        def change(*args, **kwargs):
            if next(changes) > after:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return change

    with monkeypatch.context() as patch:
        recovery = _open(store)
        # One name for both modules: os.replace is what makes a change seen.
        patch.setattr(os, "replace", ends(os.replace))
        with pytest.raises(KeyboardInterrupt):
            recovery.roll_back(store, 35, "")
    again = CheckpointStore(store.directory, keep=3)
    recovery = _open(again)
    recovery.resume(again)
    assert len(recovery.history) == 2
    assert again.restore_latest(discard=True).step == 20
    # Once: what is saved later is the run's own.
    _save(again, 30)
    recovery = _open(again)
    recovery.resume(again)
    assert again.restore_latest().step == 30


def test_giving_up_leaves_the_last_good_checkpoint_and_says_why(store):
    _save(store, 10, 20)
    _save(store, 25, good=False)
    recovery = _open(store)
    error = recovery.give_up(store, 26, 6, "first layer: stem.")
    assert isinstance(error, UserError)
    for text in ("6 steps", "step 26", "first layer: stem.", "from step 20"):
        assert text in str(error)
    assert store.steps() == [10, 20]
    content = json.loads(recovery.path.read_text())
    assert content["stopped"] == {"step": 26, "diagnosis": "first layer: stem."}


def test_history_of_a_checkpoint_makes_up_for_a_lost_file(store):
    _save(store, 10)
    recovery = _open(store)
    recovery.roll_back(store, 12, "why")
    saved = json.loads(json.dumps(recovery.rollbacks()))
    recovery.path.unlink()
    recovery = _open(store)
    assert recovery.history == ()
    recovery.adopt(saved)
    assert len(_open(store).history) == 1
    # An older checkpoint's does not make it forget.
    recovery.adopt([])
    recovery.adopt(None)
    assert recovery.history[0].diagnosis == "why"


def test_processes_that_do_not_write_decide_alike(store):
    _save(store, 10, 20)
    _save(store, 25, good=False)
    other = _open(store, writes=False)
    assert other.roll_back(store, 26, "").step == 20
    assert store.steps() == [10, 20, 25]
    assert not other.path.exists()
    assert _open(store).roll_back(store, 26, "").step == 20
    assert other.seed(3) == _open(store).seed(3)


def test_damaged_file_is_an_error_not_a_fresh_count(store, tmp_path):
    path = tmp_path / "recovery.json"
    for content in ("{", "[]", '{"rollbacks": [{}]}'):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=r"recovery\.json is damaged"):
            _open(store)
