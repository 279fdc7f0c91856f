"""Runs that move between this program and the authors'."""

import argparse
import dataclasses
import importlib
import json
import shutil

import numpy as np
import pytest

from nvae_tf.authors import (
    imported_run,
    reference_export,
    reference_import,
    reference_table,
    torch_file,
)
from nvae_tf.authors.imported_run import write_run
from nvae_tf.authors.reference_config import config_from_reference
from nvae_tf.authors.reference_optimizer import moments_from_reference
from nvae_tf.config import Config, config_from_dict
from nvae_tf.core.errors import CheckpointError, ConfigError, UserError
from nvae_tf.model.averaging import WeightAverage
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.runs.workdir import Workdir, load_model, read_tensors
from nvae_tf.training import trainer
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep
from tests.support import faults, golden_files, model_cases
from tests.support.in_process import run
from tests.support.run_helpers import make_config, write_images

pytestmark = pytest.mark.early

_GOLDEN = [path.with_suffix(".pt") for path in golden_files.pairs()]


def _checkpoint_of(config: Config, path, epoch=3):
    """Writes a run whose every tensor is arbitrary; returns its tensors."""
    model = model_cases.random_model(config.model, dtype=config.precision)
    step = TrainStep(
        model, Adamax(model.trainable_variables), SpectralRegularizer(model)
    )
    random = np.random.default_rng(2)
    for moment in step.optimizer.variables:
        moment.assign(random.uniform(0.1, 1.0, moment.shape))
    step.scalars["updates"].assign(29)
    folder = Workdir(path)
    folder.write_config(config)
    tensors = read_tensors(step.named_variables())
    folder.checkpoints().save(30, tensors, {"position": [epoch, 0]})
    return tensors


def _export(workdir, path, dataset, *, with_moments=True):
    model, config, _ = load_model(workdir)
    checkpoint = Workdir(workdir).checkpoints().restore_latest()
    progress = reference_export.progress_of(
        checkpoint, with_moments=with_moments
    )
    torch_file.write(
        path,
        reference_export.checkpoint_values(model, config, dataset, progress),
    )
    return path


def _import(path, workdir, config=None, **options):
    checkpoint = reference_import.read(path)
    own = config_from_reference(checkpoint.args, checkpoint.state_dict, path)
    write_run(Workdir(workdir), checkpoint, config or own, **options)
    return Workdir(workdir).checkpoints().restore_latest()


def _assert_same(ours, theirs, prefixes=("model/", "optimizer/")):
    names = [name for name in ours if name.startswith(prefixes)]
    assert names
    for name in names:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def _config(name, **changes):
    """A case whose shape the authors' program can express, and its dataset."""
    model = model_cases.CONFIGS[name]
    if model.likelihood == "bernoulli":
        size = model.padded_size - 4
        model = dataclasses.replace(model, image_size=size, padding=2)
    binary = model.likelihood == "bernoulli"
    data = {"source": "tfds", "name": "mnist" if binary else "cifar10"}
    values = {
        "model": dataclasses.asdict(model),
        "data": {**data, "binarize": binary},
        **changes,
    }
    return config_from_dict(values), data["name"]


@pytest.mark.parametrize(
    "name",
    [
        "plain_vae_flows",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("equal_groups", "normal")
        ),
    ],
)
def test_what_is_exported_comes_back_bit_for_bit(name, tmp_path):
    config, dataset = _config(name)
    tensors = _checkpoint_of(config, tmp_path / "a")
    path = _export(tmp_path / "a", tmp_path / "c.pt", dataset)
    restored = _import(path, tmp_path / "b")
    _assert_same(tensors, restored.tensors)
    assert restored.tensors["training/updates"] == 29
    assert restored.metadata["position"] == [3, 0]
    assert restored.metadata["imported"]["global_step"] == 30
    _, again, _ = load_model(tmp_path / "b")
    assert again.model == config.model
    assert again.train == config.train


@pytest.fixture(scope="module", params=_GOLDEN, ids=lambda p: p.stem)
def golden(request, tmp_path_factory):
    """`(path, workdir)` of a file of the authors' program, imported."""
    workdir = tmp_path_factory.mktemp("golden")
    _import(request.param, workdir)
    return request.param, workdir


def test_authors_checkpoint_is_written_back_as_it_was(golden, tmp_path):
    path, workdir = golden
    theirs = torch_file.read(path)
    dataset = theirs["args"].dataset
    ours = torch_file.read(_export(workdir, tmp_path / "c.pt", dataset))
    assert list(ours) == list(theirs)
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    for key, value in theirs["state_dict"].items():
        written = ours["state_dict"][key]
        assert (written.dtype, written.shape) == (value.dtype, value.shape)
        assert written.tobytes() == value.tobytes(), key
    for key in ("epoch", "global_step", "arch_instance"):
        assert ours[key] == theirs[key]
    for key, value in vars(theirs["args"]).items():
        if key not in ("root", "data"):
            assert getattr(ours["args"], key) == value, key
    groups = [c["optimizer"]["param_groups"][0] for c in (ours, theirs)]
    assert groups[0]["params"] == groups[1]["params"]
    assert groups[0].keys() >= groups[1].keys()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """`(workdir, config)` of a run of two epochs with both checkpoints."""
    folder = tmp_path_factory.mktemp("source")
    config = make_config(
        write_images(folder / "blobs.npy"),
        # Few nodes: it is trained twice.
        model={
            "padding": 2,
            "num_latent_scales": 1,
            "num_groups_per_scale": 1,
        },
        # The authors' file lacks the vectors of the power iteration: without
        # their term both runs must do the same.
        train={"regularization": 0.0},
        evaluation={"every_epochs": 2, "final_importance_samples": 1},
        checkpoint={"every_steps": 3},
    )
    trainer.train(config, folder / "w")
    return folder / "w", config


@pytest.fixture(scope="module")
def halfway(source, tmp_path_factory):
    """The authors' file of that run after its first epoch."""
    workdir, _ = source
    folder = tmp_path_factory.mktemp("halfway")
    shutil.copytree(workdir, folder / "w")
    shutil.rmtree(folder / "w" / "checkpoints" / "00000006")
    return _export(folder / "w", folder / "c.pt", "mnist")


@pytest.mark.long
def test_imported_run_goes_on_as_if_it_had_never_left(
    source, halfway, tmp_path
):
    workdir, config = source
    _import(halfway, tmp_path, config)
    trainer.train(config, tmp_path)
    stayed, returned = (
        Workdir(path).checkpoints().restore_latest()
        for path in (workdir, tmp_path)
    )
    assert returned.step == stayed.step == 6
    _assert_same(stayed.tensors, returned.tensors)
    kept, *records = [
        json.loads(line)
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert kept["kind"] == "import"
    assert [r["step"] for r in records if r["kind"] == "train"] == [4, 5, 6]


@pytest.mark.long
def test_weights_alone_begin_a_run_of_their_own(source, halfway, tmp_path):
    _, config = source
    fresh = _import(halfway, tmp_path, config, weights_only=True)
    whole = reference_import.read(halfway)
    assert whole.optimizer["state"]
    assert fresh.metadata["position"] == [0, 0]
    assert fresh.tensors["training/updates"] == 0
    assert not fresh.tensors["optimizer/u"].any()
    assert fresh.tensors["model/encoder/stem/v"].any()
    epoch = _export(tmp_path, tmp_path / "again.pt", "mnist")
    again = reference_import.read(epoch)
    assert (again.epoch, again.global_step) == (0, 0)
    assert not again.optimizer["state"]


def test_averages_and_loss_scale_start_where_the_file_says(tmp_path):
    config, dataset = _config("plain_vae", precision="mixed_float16")
    _checkpoint_of(config, tmp_path / "a")
    path = _export(tmp_path / "a", tmp_path / "c.pt", dataset)
    values = torch_file.read(path)
    values["grad_scalar"]["scale"] = 4096.0
    torch_file.write(path, values)
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, ema_decay=0.9)
    )
    tensors = _import(path, tmp_path / "b", config).tensors
    assert tensors["training/loss_scale"] == 4096.0
    model = NVAE(config.model, seed=None)
    for name, variable in model.named_variables("model/").items():
        variable.assign(tensors[name])
    average = WeightAverage(model, 0.9)
    for name, variable in average.named_variables().items():
        np.testing.assert_array_equal(tensors[name], variable)


def test_power_iteration_starts_near_the_largest_singular_value(golden):
    path, workdir = golden
    tensors = Workdir(workdir).checkpoints().restore(0).tensors
    state = torch_file.read(path)["state_dict"]
    # A kernel without weight normalisation that is alone in its shape.
    kernel = state["post_process.0._ops.0.conv.2.conv.0.weight"]
    matrix = kernel.reshape(kernel.shape[0], -1)
    rows = tensors["spectral/u_{}x{}".format(*matrix.shape)]
    reached = np.linalg.norm(rows @ matrix, axis=1).max()
    assert reached > 0.95 * np.linalg.norm(matrix, 2)


def test_workdir_of_a_run_is_not_written_over(golden):
    path, workdir = golden
    with pytest.raises(UserError, match="holds a run already"):
        _import(path, workdir)


@pytest.mark.long
def test_import_that_was_killed_anywhere_is_done_again(
    golden, tmp_path, monkeypatch
):
    path, workdir = golden
    built = []
    build = imported_run._train_step

    def build_once(*args):
        return built[0] if built else built.append(build(*args)) or built[0]

    monkeypatch.setattr(imported_run, "_train_step", build_once)
    monkeypatch.setattr(imported_run, "_prepare", lambda *_: None)
    numbers = faults.numbers_of_calls(lambda: _import(path, tmp_path / "w"))
    for number in numbers:
        again = tmp_path / f"{number}"
        with faults.disk(number, None), pytest.raises(faults.PreemptedError):
            _import(path, again)
        # As far as there is a run, it is whole.
        if (again / "config.json").exists():
            load_model(again)
        else:
            _import(path, again)
        names = [
            sorted(str(p.relative_to(w)) for p in w.rglob("*"))
            for w in (again, workdir)
        ]
        assert names[0] == names[1]
        with pytest.raises(UserError, match="holds a run already"):
            _import(path, again)


def test_run_that_lost_its_configuration_is_not_taken_for_an_import(
    golden, tmp_path
):
    path, workdir = golden
    for steps, imported in (([0], False), ([0, 30], True), ([30], True)):
        folder = Workdir(tmp_path / f"{steps}{imported}")
        for step in steps:
            origin = {"imported": {"file": "a.pt"}} if imported else {}
            folder.checkpoints().save(step, {"a": np.zeros(1)}, origin)
        with pytest.raises(UserError, match="holds a run already"):
            _import(path, folder.path)
        assert folder.checkpoints().steps() == steps


# --- moments -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda o: o["state"][1].pop("exp_inf"), "exp_inf"),
        (lambda o: o["param_groups"][0]["params"].pop(), "number"),
        (lambda o: o["state"].update({9999: o["state"][1]}), "number"),
        (
            lambda o: o["state"][1].update(exp_avg=np.zeros([2], np.float32)),
            "shape",
        ),
        (
            lambda o: o["state"][1].update(
                exp_inf=np.full_like(o["state"][1]["exp_inf"], np.nan)
            ),
            "finite",
        ),
    ],
    ids=["key", "count", "number", "shape", "nan"],
)
def test_moments_that_do_not_fit_are_refused(halfway, spoil, words):
    checkpoint = reference_import.read(halfway)
    config = config_from_reference(
        checkpoint.args, checkpoint.state_dict, "c.pt"
    )
    model = NVAE(config.model, seed=None)
    arguments = (
        checkpoint.state_dict,
        reference_import.reference_slots(model),
        model.trainable_variables,
        "c.pt",
    )
    assert moments_from_reference(checkpoint.optimizer, *arguments)
    spoil(checkpoint.optimizer)
    with pytest.raises(CheckpointError, match="--weights_only") as error:
        moments_from_reference(checkpoint.optimizer, *arguments)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["epoch", "global_step"])
def test_count_that_is_none_is_refused(halfway, tmp_path, name):
    values = torch_file.read(halfway)
    values[name] = "three"
    torch_file.write(tmp_path / "c.pt", values)
    with pytest.raises(CheckpointError, match=f"'{name}' is .*three"):
        reference_import.read(tmp_path / "c.pt")


# --- what their program cannot express ---------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "dataset", "words"),
    [
        ("mixture", {}, "imagenet", "'imagenet'; it knows"),
        ("mixture", {"padding": 2}, "cifar10", "model.padding is 2"),
        ("mixture", {"num_mixtures": 1}, "cifar10", "has 'normal'"),
        ("mixture", {"image_channels": 1}, "cifar10", "image_channels is 1"),
        ("mixture", {}, "mnist", "model.padding is 0"),
        ("padded", {}, "celeba_64", "model.padding is 2"),
    ],
)
def test_model_that_they_do_not_have_is_refused(name, changes, dataset, words):
    config = model_cases.CONFIGS[name]
    model = NVAE(dataclasses.replace(config, **changes), seed=None)
    run_ = Config(
        model=model.config,
        data=dataclasses.replace(
            Config().data, binarize=config.likelihood == "bernoulli"
        ),
    )
    with pytest.raises(CheckpointError, match=words):
        reference_export.checkpoint_values(
            model, run_, dataset, reference_export.Progress()
        )


@pytest.mark.parametrize(
    ("config", "dataset"),
    [
        ("mnist", "mnist"),
        ("mnist_demo", "mnist"),
        ("omniglot", "omniglot"),
        ("cifar10", "cifar10"),
        ("imagenet32", "imagenet_32"),
        ("celeba64", "celeba_64"),
        ("celeba_hq256", "celeba_256"),
        ("ffhq256", "ffhq"),
        ("lsun_church64", "lsun_church_64"),
    ],
)
def test_dataset_is_that_of_the_run_or_one_of_its_shape(config, dataset):
    values = importlib.import_module(f"configs.{config}").get_config()
    run = config_from_dict(values)
    assert reference_export.suitable_dataset(run) == dataset
    assert reference_export.dataset_size(dataset) == run.model.image_size


def test_size_that_no_dataset_has_asks_for_a_name():
    config, _ = _config("mixture")
    with pytest.raises(CheckpointError, match=r"8 pixels .*--dataset"):
        reference_export.suitable_dataset(config)


# --- the comparison ----------------------------------------------------------


def test_table_tells_what_was_missing_changed_and_unused():
    checkpoint = reference_import.read(_GOLDEN[-1])
    arguments = argparse.Namespace(**vars(checkpoint.args))
    del arguments.ada_groups
    del arguments.epochs
    own = config_from_reference(arguments, checkpoint.state_dict, "c.pt")
    run = dataclasses.replace(
        own, data=dataclasses.replace(own.data, path="x", flip=False)
    )
    rows = {
        row.key: row for row in reference_table.comparison(arguments, own, run)
    }
    assert "older checkpoints" in rows["model.adaptive_groups"].note
    assert rows["train.epochs"].note == "absent: our default"
    assert rows["train.epochs"].ours == "400"
    assert "checkpoint has True" in rows["data.flip"].note
    assert rows["data.path"].note == "given"
    assert not rows["model.num_flow_pairs"].note
    assert "master_address" in reference_table.unused(arguments)
    assert "res_dist" not in reference_table.unused(arguments)
    lines = reference_table.format_table([*rows.values()]).splitlines()
    assert len(lines) == len(rows) + 1
    start = lines[0].index("workdir's config")
    assert all(line[start:].startswith(key) for line, key in
               zip(lines[1:], rows, strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, []),
        ({"num_latent_per_group": 5}, ["num_latent_per_group"]),
        ({"num_mixtures": 3}, []),
        ({"min_groups_per_scale": 2}, ["min_groups_per_scale"]),
        ({"adaptive_groups": False}, ["adaptive_groups"]),
    ],
)
def test_architectures_differ_only_in_what_decides(changes, keys):
    config = model_cases.CONFIGS["one_scale"]
    if "groups" in str(changes):
        config = model_cases.CONFIGS["equal_groups"]
        config = dataclasses.replace(config, adaptive_groups=True)
    other = dataclasses.replace(config, **changes)
    found = reference_table.differences(config, other)
    assert [text.split()[0] for text in found] == [f"model.{k}" for k in keys]


def test_architecture_of_another_config_is_refused_key_by_key():
    config = model_cases.CONFIGS["one_scale"]
    other = dataclasses.replace(
        config, num_channels_enc=16, num_latent_per_group=9
    )
    reference_table.require_same(config, config, "c.pt")
    with pytest.raises(ConfigError, match=r"that of c\.pt") as error:
        reference_table.require_same(config, other, "c.pt")
    assert "model.num_channels_enc (4 in the checkpoint, 16 given)" in str(
        error.value
    )
    assert "model.num_latent_per_group" in str(error.value)


# --- the commands ------------------------------------------------------------


def test_commands_make_a_workdir_and_write_it_back(tmp_path, capsys):
    path = next(p for p in _GOLDEN if "bernoulli" in p.stem)
    workdir = tmp_path / "w"
    run(
        "import",
        f"--checkpoint={path}",
        f"--workdir={workdir}",
        "--data_source=mnist_5k",
        "--data_resize=crop",
    )
    data = Workdir(workdir).read_config().data
    assert (data.source, data.resize) == ("mnist_5k", "crop")
    printed = capsys.readouterr().out
    for word in ("num_groups_per_scale", "'mnist_5k'", "epoch 7 of 400"):
        assert word in printed
    command = f"--config=workdir:{workdir} --workdir={workdir}"
    assert command in printed
    output = tmp_path / "c.pt"
    run("export checkpoint", f"--workdir={workdir}", f"--output={output}")
    assert "'mnist': epoch 7, step 1234" in capsys.readouterr().out
    state = torch_file.read(path)["state_dict"]
    again = torch_file.read(output)["state_dict"]
    np.testing.assert_array_equal(state["prior_ftr0"], again["prior_ftr0"])


def test_averaged_weights_are_written_without_the_moments_of_others(
    tmp_path, capsys
):
    config, dataset = _config("plain_vae", train={"ema_decay": 0.9})
    tensors = _checkpoint_of(config, tmp_path / "w")
    other = model_cases.random_model(config.model, seed=5)
    average = WeightAverage(other, 0.9)
    Workdir(tmp_path / "w").checkpoints().save(
        31,
        {**tensors, **read_tensors(average.named_variables())},
        {"position": [3, 0]},
    )
    written, output = {}, tmp_path / "c.pt"
    for flag in ("--ema", "--noema", ""):
        run(
            "export checkpoint",
            f"--workdir={tmp_path / 'w'}",
            f"--dataset={dataset}",
            f"--output={output}",
            *filter(None, [flag]),
        )
        written[flag] = torch_file.read(output)
        printed = capsys.readouterr().out
        assert ("--noema" in printed) == (flag != "--noema")
    assert written["--noema"]["optimizer"]["state"]
    kept = written["--noema"]["state_dict"]["prior_ftr0"]
    for flag in ("--ema", ""):
        assert not written[flag]["optimizer"]["state"]
        assert np.any(written[flag]["state_dict"]["prior_ftr0"] != kept)


def test_configuration_of_a_run_serves_as_config_file(source):
    workdir, config = source
    module = importlib.import_module("configs.workdir")
    assert config_from_dict(module.get_config(str(workdir))) == config
    for variant in (None, str(workdir / "checkpoints")):
        with pytest.raises(ConfigError, match="folder of a run"):
            module.get_config(variant)
