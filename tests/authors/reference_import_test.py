"""Checkpoints in the authors' format: names, round trips and refusals."""

import argparse
import collections
import dataclasses
import pathlib

import numpy as np
import pytest

from nvae_tf.authors import reference_import, torch_file
from nvae_tf.config import ARCHITECTURES, TrainConfig
from nvae_tf.core.errors import CheckpointError
from nvae_tf.model.nvae import NVAE
from tests.support import model_cases


def _padded(config):
    """Binary data has a border of 2 pixels there."""
    if config.likelihood != "bernoulli":
        return config
    return dataclasses.replace(
        config, image_size=config.padded_size - 4, padding=2
    )


_CONFIGS = {name: _padded(c) for name, c in model_cases.CONFIGS.items()}


def _arguments(config, **changes):
    """What the authors' program would have been started with."""
    is_binary = config.likelihood == "bernoulli"
    return argparse.Namespace(
        **{
            "dataset": "omniglot" if is_binary else "celeba_64",
            "num_x_bits": 8 if is_binary else config.num_bits,
            "num_mixture_dec": config.num_mixtures,
            "num_latent_scales": config.num_latent_scales,
            "num_groups_per_scale": config.num_groups_per_scale,
            "num_latent_per_group": config.num_latent_per_group,
            "ada_groups": config.adaptive_groups,
            "min_groups_per_scale": config.min_groups_per_scale,
            "num_channels_enc": config.num_channels_enc,
            "num_channels_dec": config.num_channels_dec,
            "num_preprocess_blocks": config.num_preprocess_blocks,
            "num_preprocess_cells": config.num_preprocess_cells,
            "num_postprocess_blocks": config.num_preprocess_blocks,
            "num_postprocess_cells": config.num_postprocess_cells,
            "num_cell_per_cond_enc": config.num_cells_enc,
            "num_cell_per_cond_dec": config.num_cells_dec,
            "arch_instance": config.architecture,
            "use_se": config.use_se,
            "res_dist": config.residual_posterior,
            "num_nf": config.num_flow_pairs,
            "epochs": 90,
            "warmup_epochs": 3,
            "batch_size": 16,
            "learning_rate": 0.008,
            "learning_rate_min": 2e-4,
            "weight_decay": 1e-4,
            "weight_decay_norm": 0.1,
            "weight_decay_norm_init": 10.0,
            "weight_decay_norm_anneal": True,
            "kl_anneal_portion": 0.4,
            "kl_const_portion": 2e-4,
            "kl_const_coeff": 3e-4,
            "seed": 5,
            "node_rank": 0,
        }
        | changes
    )


def _state(model):
    """The model's `state_dict`, with the buffers that a reader ignores."""
    slots = reference_import.reference_slots(model)
    state = collections.OrderedDict(
        (key, np.ascontiguousarray(slot.of(slot.variable)))
        for key, slot in slots.items()
    )
    for key in [key for key in state if key.endswith("running_mean")]:
        state[key.replace("running_mean", "num_batches_tracked")] = np.int64(
            [9]
        )
    state["enc0.1.weight_normalized"] = np.zeros([1], np.float32)
    return state


def _write(path, arguments, state, **more):
    more = {"epoch": 3, "global_step": 7, "optimizer": {"state": {}}} | more
    torch_file.write(path, {"args": arguments, "state_dict": state, **more})
    return path


@pytest.fixture
def checkpoint(tmp_path):
    """`(write, arguments, state)`: a good checkpoint, to be spoiled."""
    config = _CONFIGS["plain_vae"]
    state = _state(model_cases.random_model(config))

    def write():
        return _write(tmp_path / "c.pt", arguments, state)

    arguments = _arguments(config)
    return write, arguments, state


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long)
        if name in model_cases.ALIKE
        else name
        for name in _CONFIGS
    ],
)
def test_written_checkpoint_loads_as_the_same_model(name, tmp_path):
    config = _CONFIGS[name]
    model = model_cases.random_model(config)
    path = _write(tmp_path / "c.pt", _arguments(config), _state(model))
    loaded, run = reference_import.load(path)
    assert run.model == loaded.config == config
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


@pytest.mark.parametrize("name", ["three_scales", "plain_vae", "two_flows"])
def test_every_variable_has_exactly_one_place(name):
    model = NVAE(_CONFIGS[name])
    places = collections.Counter(
        (id(slot.variable), slot.index)
        for slot in reference_import.reference_slots(model).values()
    )
    expected = {
        (id(variable), index)
        for _, layer in model.leaves()
        for variable in layer.variables
        for index in ([None] if layer.stack is None else range(layer.stack))
    } | {(id(model.parts["decoder"].prior_h0), None)}
    assert places == collections.Counter(expected)


def test_training_options_are_those_of_the_arguments(tmp_path):
    config = _CONFIGS["mixture_5_bits"]
    state = _state(NVAE(config))
    path = _write(tmp_path / "c.pt", _arguments(config), state)
    run = reference_import.load(path)[1]
    assert run.name == "celeba_64"
    assert (run.data.binarize, run.data.flip) == (False, True)
    train = run.train
    assert (train.epochs, train.warmup_epochs, train.batch_size) == (90, 3, 16)
    assert (train.learning_rate, train.min_learning_rate) == (0.008, 2e-4)
    assert (train.kl_anneal_portion, train.kl_const_portion) == (0.4, 2e-4)
    assert (train.kl_const_coeff, train.weight_decay) == (3e-4, 1e-4)
    assert (train.regularization_init, train.regularization) == (10.0, 0.1)
    assert train.seed == 5
    constant = _arguments(config, weight_decay_norm_anneal=False)
    run = reference_import.load(_write(path, constant, state))[1]
    assert run.train.regularization_init is None


@pytest.mark.parametrize(
    ("dataset", "likelihood", "padding", "bits"),
    [
        ("mnist", "bernoulli", 2, 1),
        ("omniglot", "bernoulli", 2, 1),
        ("cifar10", "mixture", 0, 8),
        ("ffhq", "mixture", 0, 8),
    ],
)
def test_likelihood_follows_from_the_dataset(
    dataset, likelihood, padding, bits, tmp_path
):
    config = _CONFIGS["plain_vae" if padding else "plain_vae_flows"]
    path = _write(
        tmp_path / "c.pt",
        _arguments(config, dataset=dataset),
        _state(NVAE(config)),
    )
    model = reference_import.load(path)[0].config
    assert model.likelihood == likelihood
    assert (model.padding, model.num_bits) == (padding, bits)
    assert model.image_size == 8 - 2 * padding


def test_older_checkpoints_take_the_defaults_of_their_time(tmp_path):
    config = dataclasses.replace(_CONFIGS["mixture"], adaptive_groups=False)
    arguments = _arguments(config)
    for name in ("ada_groups", "min_groups_per_scale", "num_mixture_dec"):
        delattr(arguments, name)
    path = _write(tmp_path / "c.pt", arguments, _state(NVAE(config)))
    loaded = reference_import.load(path)[0].config
    assert loaded == config
    assert (loaded.adaptive_groups, loaded.min_groups_per_scale) == (False, 1)
    assert loaded.num_mixtures == 10


def test_optimizer_state_does_not_disturb(checkpoint, tmp_path):
    _, arguments, state = checkpoint
    path = _write(
        tmp_path / "c.pt",
        arguments,
        state,
        optimizer={"state": {0: {"exp_avg": np.ones([4])}}, "param_groups": []},
        scheduler={"last_epoch": 3},
        grad_scalar={"scale": 1024.0},
        arch_instance=dict(ARCHITECTURES["res_elu"]),
    )
    assert reference_import.load(path)[1].model == _CONFIGS["plain_vae"]


# --- refusals ----------------------------------------------------------------


def _refusal(path, *words):
    with pytest.raises(CheckpointError) as error:
        reference_import.load(path)
    message = str(error.value)
    assert str(path) in message
    for word in words:
        assert word in message
    return message


def test_missing_tensor_is_refused_by_name(checkpoint):
    write, _, state = checkpoint
    del state["enc0.1.bias"]
    _refusal(write(), "lacks", "enc0.1.bias", "'args'")


def test_extra_tensor_is_refused_by_name(checkpoint):
    write, _, state = checkpoint
    state["enc_tower.0.conv.bias"] = np.zeros([4], np.float32)
    _refusal(write(), "unexpected", "enc_tower.0.conv.bias", "'args'")


@pytest.mark.parametrize(
    ("key", "shape", "needed"),
    [
        ("stem.weight", (4, 1, 2, 3), (4, 1, 3, 3)),
        ("stem.bias", (1, 4), (4,)),
        ("enc0.1.weight", (1, 64, 1, 1), (8, 8, 1, 1)),
        ("enc0.1.log_weight_norm", (8,), (8, 1, 1, 1)),
    ],
)
def test_misshapen_tensor_is_refused_with_both_shapes(
    checkpoint, key, shape, needed
):
    write, _, state = checkpoint
    state[key] = np.ones(shape, np.float32)
    _refusal(write(), key, str(shape), str(needed))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(checkpoint, value):
    write, _, state = checkpoint
    state["stem.bias"] = state["stem.bias"].copy()
    state["stem.bias"][1] = value
    _refusal(write(), "stem.bias", "not finite", "earlier checkpoint")


def test_tensor_of_truth_values_is_refused(checkpoint):
    write, _, state = checkpoint
    state["stem.bias"] = np.zeros([4], bool)
    _refusal(write(), "stem.bias", "bool")


def test_arguments_of_another_width_are_refused(checkpoint):
    write, arguments, _ = checkpoint
    arguments.num_channels_enc = 8
    _refusal(write(), "num_channels_enc", " is 8", "stem.weight", "with 4")


def test_enormous_width_is_refused_before_it_is_built(checkpoint):
    write, arguments, _ = checkpoint
    arguments.num_channels_dec = 10**9
    _refusal(write(), "num_channels_dec", "prior_ftr0")


@pytest.mark.parametrize("name", ["num_nf", "arch_instance", "dataset"])
def test_missing_argument_is_named(checkpoint, name):
    write, arguments, _ = checkpoint
    delattr(arguments, name)
    _refusal(write(), "'args' ", name)


def test_unknown_architecture_is_named_with_those_known(checkpoint):
    write, arguments, _ = checkpoint
    arguments.arch_instance = "transformer"
    _refusal(write(), "transformer", "res_mbconv")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_latent_scales": 0},
        {"num_latent_scales": "2"},
        {"num_preprocess_blocks": -1},
        {"num_mixture_dec": 0},
        {"num_nf": 1.5},
        {"use_se": "yes"},
        {"arch_instance": ["res_mbconv"]},
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(checkpoint, changes):
    write, arguments, _ = checkpoint
    vars(arguments).update(changes)
    _refusal(write(), "'args'")


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": "fast"}, {"epochs": 3, "warmup_epochs": 5}],
    ids=str,
)
def test_useless_settings_of_training_take_their_defaults(checkpoint, changes):
    write, arguments, _ = checkpoint
    vars(arguments).update(changes)
    _, run = reference_import.load(write())
    assert run.train == TrainConfig()
    assert run.model == _CONFIGS["plain_vae"]


@pytest.mark.parametrize("key", ["prior_ftr0", "stem.weight"])
def test_state_that_does_not_tell_the_image_size_is_refused(checkpoint, key):
    write, _, state = checkpoint
    del state[key]
    _refusal(write(), key)


@pytest.mark.parametrize(
    "value",
    [[1, 2], {"state_dict": {}}, {"args": argparse.Namespace()}, "text"],
    ids=["list", "no args", "no state_dict", "text"],
)
def test_other_content_is_refused(tmp_path, value):
    path = tmp_path / "c.pt"
    torch_file.write(path, value)
    _refusal(path, "state_dict", "args")


def test_state_that_is_no_mapping_is_refused(checkpoint, tmp_path):
    path = _write(tmp_path / "c.pt", checkpoint[1], [1, 2])
    _refusal(path, "'state_dict' is")


def test_truncated_file_is_refused(checkpoint):
    path = checkpoint[0]()
    content = path.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:size])
        _refusal(path)


def test_foreign_pickle_is_refused_by_the_name_in_it(tmp_path):
    path = tmp_path / "c.pt"
    # The stream format's magic number, version and machine; then os.system.
    numbers = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    path.write_bytes(
        numbers + b"\x80\x02}.\x80\x02cos\nsystem\nX\0\0\0\0\x85R."
    )
    _refusal(path, "os.system")


def test_missing_file_is_refused(tmp_path):
    _refusal(pathlib.Path(tmp_path) / "none.pt", "does not exist")
