"""Tests of checkpoints whose values are not what the authors' program saves.

How a file gives its values is the business of `torch_file_hostile_test`.
"""

import argparse
import copy
import logging

import numpy as np
import pytest

from nvae_tf.core.errors import CheckpointError
from nvae_tf.model.nvae import NVAE
from tests.support import taking_over
from tests.support.refusals import refused
from tests.support.taking_over import FILES, sample, take_over

_NAME = "checkpoint.pt"


@pytest.fixture(scope="module")
def samples():
    return {name: sample(name) for name in FILES}


@pytest.fixture(params=FILES)
def value(samples, request):
    return copy.deepcopy(samples[request.param])


def _refused(value, *parts):
    with refused(CheckpointError, *parts, path=_NAME, longest=800):
        take_over(value)


def _nested(levels):
    """A list that stands for 2**levels values."""
    value = []
    for _ in range(levels):
        value = [value, value]
    return value


_JUNK = {
    "nothing": None,
    "number": 3,
    "negative": -1,
    "huge": 10**4000,
    # Python does not write it in decimals.
    "beyond words": 10**5000,
    "nan": float("nan"),
    "infinite": float("inf"),
    "text": "x" * 10**6,
    "steering text": "\x1b[2J\ud800\n",
    "list": [1, 2],
    "nest": _nested(18),
    "dictionary": {"a": 1},
    "dictionary of all": {i: i for i in range(10)},
    "set": {1},
    "array": np.zeros(3, np.float32),
    "number of an array": np.array(7),
    "complex": np.array(1j),
    "texts": np.array(["a"]),
    "rank": np.zeros((1,) * 64, np.float32),
    "namespace": argparse.Namespace(a=1),
}


@pytest.fixture(params=list(_JUNK))
def junk(request):
    return copy.deepcopy(_JUNK[request.param])


def _sane(value):
    """Whether something can pass for what stood there."""
    return isinstance(value, int | float | np.ndarray) or value is None


def test_checkpoints_of_the_authors_are_taken_over(value):
    moments = take_over(value)
    assert moments.updates > 0
    assert np.all(np.isfinite(moments.m))


@pytest.mark.parametrize("name", ["args", "state_dict", "epoch", "global_step"])
def test_values_of_another_kind_are_refused(samples, junk, name):
    value = {**samples[FILES[0]], name: junk}
    try:
        take_over(value)
    except CheckpointError:
        _refused(value)
    else:
        assert name not in ("args", "state_dict")
        assert _sane(junk)


def test_whole_of_another_kind_is_refused(junk):
    _refused(junk, "not a checkpoint")


def test_every_argument_of_another_kind_is_refused_or_of_no_weight(
    samples, junk, caplog, monkeypatch
):
    caplog.set_level(logging.ERROR)
    # Only what is built differs between models that could be meant.
    monkeypatch.setattr(taking_over, "_model", _not_built)
    for name in vars(samples[FILES[0]]["args"]):
        value = {**samples[FILES[0]]}
        value["args"] = argparse.Namespace(**vars(value["args"]))
        setattr(value["args"], name, junk)
        try:
            take_over(value)
        except CheckpointError:
            _refused(value)
        except _BuiltError:
            pass


class _BuiltError(Exception):
    """A model would have been built."""


def _not_built(config):
    assert config.num_groups < 100
    raise _BuiltError


@pytest.mark.parametrize(
    "changes",
    [
        {"num_groups_per_scale": 10**9},
        {"num_groups_per_scale": 1000, "ada_groups": False},
        {"num_cell_per_cond_enc": 10**6},
        {"num_cell_per_cond_dec": 64},
        {"num_preprocess_cells": 4096},
        {"num_latent_per_group": 4096},
        {"num_nf": 64},
        {"num_nf": 10**6},
        {"num_latent_scales": 2**31},
        {"num_preprocess_blocks": 2**31},
        {"min_groups_per_scale": 2**40},
    ],
)
def test_model_is_not_built_before_its_weights_are_there(
    value, monkeypatch, changes
):
    def build(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr(taking_over, "_model", build)
    vars(value["args"]).update(changes)
    _refused(value)


def test_tensors_that_share_what_is_stored_do_not_count_twice(
    value, monkeypatch
):
    monkeypatch.setattr(taking_over, "_model", NVAE.__call__)
    state = value["state_dict"]
    for name, array in state.items():
        one = np.zeros((), np.float32)
        state[name] = np.broadcast_to(one, array.shape)
    _refused(value, "too few")


@pytest.mark.parametrize("number", [1e300, -1e300, np.inf, np.nan])
def test_weights_are_finite_as_the_model_has_them(value, number):
    name = next(iter(value["state_dict"]))
    array = value["state_dict"][name].astype(np.float64)
    array.flat[-1] = number
    value["state_dict"][name] = array
    _refused(value, "not finite", name)


def test_names_of_tensors_of_another_kind_are_refused(value):
    for name in (3, None, True, (1, 2)):
        state = {**value["state_dict"], name: np.zeros(1)}
        _refused({**value, "state_dict": state})
    state = {**value["state_dict"], "\x1b" * 10**6: np.zeros(1)}
    _refused({**value, "state_dict": state})


def test_tensors_of_another_kind_are_refused(samples, junk):
    value = samples[FILES[1]]
    state = value["state_dict"]
    for name in ("prior_ftr0", "stem.weight", "image_conditional.1.bias"):
        assert name in state
        _refused({**value, "state_dict": {**state, name: junk}})


def test_state_of_the_optimizer_of_another_kind_is_refused(samples, junk):
    value = samples[FILES[0]]
    optimizer = value["optimizer"]
    for changed in (
        junk,
        {**optimizer, "state": junk},
        {**optimizer, "param_groups": junk},
        {**optimizer, "param_groups": [junk]},
        {**optimizer, "param_groups": [{"params": junk}]},
        {**optimizer, "param_groups": [{"params": [junk]}]},
        {**optimizer, "state": {0: junk}},
        {**optimizer, "state": {**optimizer["state"], "x": junk}},
    ):
        try:
            take_over({**value, "optimizer": changed})
        except CheckpointError:
            _refused({**value, "optimizer": changed}, "weights_only")


@pytest.mark.parametrize("name", ["step", "exp_avg", "exp_inf"])
def test_moments_of_another_kind_are_refused(samples, junk, name):
    value = samples[FILES[0]]
    optimizer = value["optimizer"]
    entry = {**optimizer["state"][0], name: junk}
    state = {**optimizer["state"], 0: entry}
    value = {**value, "optimizer": {**optimizer, "state": state}}
    if name == "step" and isinstance(junk, int | np.ndarray) and _counts(junk):
        assert take_over(value).updates > 0
    else:
        _refused(value, "weights_only")


def _counts(junk):
    if isinstance(junk, np.ndarray) and junk.ndim == 0:
        junk = junk.item()
    return junk in (3, 7) if isinstance(junk, int) else False


@pytest.mark.parametrize(
    "numbers", [[1.0, 2.0], [True], [0, 0], [10**4000], ["0"], [[0]]]
)
def test_numbers_of_parameters_of_another_kind_are_refused(samples, numbers):
    value = samples[FILES[0]]
    groups = [{"params": numbers}]
    optimizer = {**value["optimizer"], "param_groups": groups}
    _refused({**value, "optimizer": optimizer}, "weights_only")


@pytest.mark.parametrize("scale", [0, -1.0, "x", [1], 1e300, float("nan")])
def test_loss_scale_that_is_none_is_refused(value, scale):
    _refused({**value, "grad_scalar": {"scale": scale}}, "scale")
    assert take_over({**value, "grad_scalar": {"scale": 2.0}})
    assert take_over({**value, "grad_scalar": 3})


def test_many_arguments_without_a_counterpart_are_not_all_named(value):
    vars(value["args"]).update({f"x{i}" * 100: i for i in range(10_000)})
    assert take_over(value)
