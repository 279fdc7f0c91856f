"""Tests of checkpoints and workdirs that come from strangers."""

import json
import os
import struct
import time

import numpy as np
import pytest
import safetensors.numpy

from nvae_tf.core.errors import CheckpointError, UserError
from nvae_tf.core.reading import sha256
from nvae_tf.model.nvae import NVAE
from nvae_tf.runs import checkpoint_folder
from nvae_tf.runs.checkpoint_folder import Checkpoint
from nvae_tf.runs.retention import Note
from nvae_tf.runs.workdir import Workdir, load_model, read_tensors
from tests.support.pretrained_cases import safetensors_bytes, tensor_at
from tests.support.refusals import refused
from tests.support.run_helpers import SMALLEST, make_config


def _config(**model):
    return make_config("images.npy", model={**SMALLEST, **model})


@pytest.fixture(scope="module")
def tensors():
    model = NVAE(_config().model, seed=0)
    return read_tensors(model.named_variables("model/"))


def _write(folder, tensors, config=None, **state):
    """A workdir with one checkpoint, whose checksums are right."""
    config = config or _config()
    workdir = Workdir(folder)
    workdir.write_config(config)
    state = {"model": config.model.to_dict(), **state}
    workdir.checkpoints().save(3, tensors, state)
    return folder / "checkpoints" / "00000003"


def _refused(path, *parts, error=CheckpointError):
    with refused(error, *parts, path=path, longest=600):
        load_model(path)


def _seal(folder, content):
    """Replaces the arrays' file by any bytes; the checksums are right."""
    path = folder / "tensors.safetensors"
    path.write_bytes(content)
    state = json.loads((folder / "state.json").read_text())
    state["sha256"] = sha256(path)
    (folder / "state.json").write_text(json.dumps(state))


def test_whole_checkpoint_is_loaded(tmp_path, tensors):
    _write(tmp_path, tensors)
    model, _, info = load_model(tmp_path)
    assert info == {"step": 3, "ema": False}
    for name, value in read_tensors(model.named_variables("model/")).items():
        np.testing.assert_array_equal(value, tensors[name])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_no_model(tmp_path, tensors, value):
    for name in (sorted(tensors)[0], sorted(tensors)[-1]):
        changed = tensors[name].copy()
        changed.flat[-1] = value
        _write(tmp_path, {**tensors, name: changed})
        _refused(tmp_path, "not finite", name)


def test_weights_beyond_the_range_of_the_model_are_not_finite(
    tmp_path, tensors
):
    name = sorted(tensors)[0]
    changed = tensors[name].astype(np.float64)
    changed.flat[0] = 1e300
    _write(tmp_path, {**tensors, name: changed})
    _refused(tmp_path, "not finite", name)


@pytest.mark.parametrize("dtype", [np.complex64, np.bool_, np.int32])
def test_weights_of_another_kind_are_refused(tmp_path, tensors, dtype):
    name = sorted(tensors)[0]
    _write(tmp_path, {**tensors, name: np.zeros(tensors[name].shape, dtype)})
    if dtype is np.complex64:
        _refused(tmp_path, "complex64")
    else:
        load_model(tmp_path)  # Every such number is one of the model's.


@pytest.mark.parametrize(
    "model",
    [
        {"num_groups_per_scale": 1000},
        {"num_cells_enc": 64, "num_groups_per_scale": 900},
        {"num_channels_enc": 4096},
        {"num_channels_dec": 4096},
        {"num_latent_per_group": 4096, "num_flow_pairs": 64},
        {"num_preprocess_cells": 64, "num_channels_enc": 2000},
    ],
)
def test_model_is_not_built_before_its_weights_are_there(
    tmp_path, tensors, monkeypatch, model
):
    def build(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr("nvae_tf.runs.workdir.NVAE", build)
    _write(tmp_path, tensors, _config(**model))
    _refused(tmp_path, "do not belong together")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 10**8 + 1) + b"{}",
        safetensors_bytes(b"{" * 10_000),
        safetensors_bytes(b'{"a":' * 10_000),
        safetensors_bytes(b"\xff\xfe"),
        safetensors_bytes([]),
        safetensors_bytes({"a": 1}),
        safetensors_bytes({"a": tensor_at(0, 4)}),
        safetensors_bytes({"a": tensor_at(0, 8)}, bytes(8)),
        safetensors_bytes({"a": tensor_at(4, 8)}, bytes(8)),
        safetensors_bytes({"a": tensor_at(4, 0)}, bytes(8)),
        safetensors_bytes({"a": tensor_at(-4, 0)}, bytes(8)),
        # Overlaps, holes and what lies behind.
        safetensors_bytes(
            {"a": tensor_at(0, 4), "b": tensor_at(0, 4)},
            bytes(4),
        ),
        safetensors_bytes(
            {"a": tensor_at(0, 4), "b": tensor_at(8, 12)},
            bytes(12),
        ),
        safetensors_bytes({"a": tensor_at(0, 4)}, bytes(8)),
        # Products that overflow.
        safetensors_bytes({"a": tensor_at(0, 4, [2**32, 2**32])}, bytes(4)),
        safetensors_bytes({"a": tensor_at(0, 4, [2**63, 2, 1])}, bytes(4)),
        safetensors_bytes({"a": tensor_at(0, 0, [2**62, 2**62, 0])}),
        # The same key twice, and nothing in the same place twice.
        safetensors_bytes(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            bytes(8),
        ),
        safetensors_bytes(
            {
                "a": tensor_at(0, 0, [0]),
                "b": tensor_at(0, 0, [0]),
            }
        ),
        safetensors_bytes({"a": tensor_at(0, 4, [1] * 100)}, bytes(4)),
        safetensors_bytes({"a": tensor_at(0, 4, dtype="F33")}, bytes(4)),
        safetensors_bytes({"a": tensor_at(0, 2, dtype="BF16")}, bytes(2)),
        safetensors_bytes({"a": tensor_at(0, 1, dtype="F8_E4M3")}, bytes(1)),
        safetensors_bytes({"a" * 10**6: tensor_at(0, 4)}, bytes(4)),
        safetensors_bytes({"model/" + "a" * 10**6: tensor_at(0, 4)}, bytes(4)),
        safetensors_bytes({"model/\x1b[2J\n": tensor_at(0, 4)}, bytes(4)),
    ],
)
def test_arrays_that_are_none_are_refused(tmp_path, tensors, content):
    _seal(_write(tmp_path, tensors), content)
    _refused(tmp_path)


def test_arrays_that_are_a_pipe_are_refused_at_once(tmp_path, tensors):
    folder = _write(tmp_path, tensors)
    (folder / "tensors.safetensors").unlink()
    os.mkfifo(folder / "tensors.safetensors")
    _refused(tmp_path)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 10**5,
        b'{"step": 3}',
        b'{"step": 3, "sha256": 1, "state_sha256": 2, "state": []}',
        b'{"step": ' + b"9" * 5000 + b"}",
    ],
)
def test_state_that_is_none_is_refused(tmp_path, tensors, state):
    folder = _write(tmp_path, tensors)
    (folder / "state.json").write_bytes(state)
    _refused(tmp_path)


@pytest.mark.parametrize(
    "evaluation", [[], 1, "x", {"average": 3}, {"step": []}, {"nelbo": {}}]
)
def test_evaluation_that_is_none_is_passed_over(tmp_path, tensors, evaluation):
    _write(tmp_path, tensors, evaluation=evaluation)
    assert load_model(tmp_path)[2]["step"] == 3


def test_checkpoint_of_a_step_that_is_none_is_not_found(tmp_path, tensors):
    _write(tmp_path, tensors)
    for which in ("9" * 5000, "-1", "\u0663", "x" * 10**5, "1e3", ""):
        with pytest.raises(UserError) as caught:
            load_model(tmp_path, checkpoint=which)
        assert len(str(caught.value)) < 500


def test_arrays_are_read_in_proportion_to_the_file(tmp_path):
    names = {f"t{i}": np.zeros(0, np.float32) for i in range(10_000)}
    folder = tmp_path / "00000001"
    folder.mkdir()
    checkpoint_folder.write(folder, Checkpoint(1, names, {}), Note())
    start = time.process_time()
    assert len(checkpoint_folder.read(folder, 1).tensors) == 10_000
    assert time.process_time() - start < 10
    assert safetensors.numpy.load_file(folder / "tensors.safetensors")
