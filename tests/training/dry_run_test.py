"""Dry runs: what is found out, what is foreseen, and what it costs."""

import dataclasses
import json
import math
import os
import pathlib

import keras
import numpy as np
import pytest

from configs import celeba_hq256, cifar10, mnist, tiny
from nvae_tf.config import ModelConfig, config_from_dict
from nvae_tf.datasets.tfds_source import DATASETS
from nvae_tf.model.nvae import NVAE
from nvae_tf.training import dry_run, run_plan
from tests.support.in_process import run

GIGABYTE = 10**9


@pytest.fixture
def machine(monkeypatch):
    """Sets the memory that the machine seems to have."""

    def has(gigabytes, device="CPU"):
        size = None if gigabytes is None else int(gigabytes * GIGABYTE)
        monkeypatch.setattr(run_plan, "_device", lambda: (device, size))

    has(1000)
    return has


def _config(values=None, **changes):
    """The tiny configuration, changed: `train={"epochs": 1}`."""
    values = tiny.get_config() if values is None else values
    for group, items in changes.items():
        values[group].update(items)
    return config_from_dict(values)


def _write_images(path, count=40, size=8):
    np.save(path, np.zeros((count, size, size, 3), np.uint8))
    return {"source": "array", "path": str(path)}


def test_models_without_weights_cost_no_memory():
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")

    def resident():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    config = _config(celeba_hq256.get_config()).model
    run_plan.model_without_weights(ModelConfig())  # Imports come with it.
    before = resident()
    model = run_plan.model_without_weights(config)
    with keras.StatelessScope():
        pass  # Where Keras gives waiting variables their values.
    weights = 4 * sum(math.prod(v.shape) for v in model.variables)
    assert weights > GIGABYTE
    assert resident() - before < weights / 10


def test_models_without_weights_have_the_variables_of_the_model():
    config = _config().model
    bare, model = run_plan.model_without_weights(config), NVAE(config)
    for name in ("trainable_variables", "non_trainable_variables"):
        shapes = [
            sorted(tuple(v.shape) for v in getattr(m, name))
            for m in (bare, model)
        ]
        assert shapes[0] == shapes[1]


def test_scales_are_listed_top_down(machine):
    plan = run_plan.make_plan(_config(mnist.get_config()))
    coarse, fine = plan.scales
    assert (coarse.first_group, coarse.num_groups) == (0, 5)
    assert (fine.first_group, fine.num_groups) == (5, 10)
    assert tuple(coarse.shape) == (4, 4, 20)
    assert (coarse.encoder_channels, fine.encoder_channels) == (256, 128)
    assert coarse.num_values == 5 * 4 * 4 * 20
    assert plan.num_latent_values == 5 * 320 + 10 * 1280
    assert plan.num_parameters == 33_363_134


def test_replicas_share_the_epoch(machine):
    plan = run_plan.make_plan(_config(cifar10.get_config()), num_replicas=8)
    assert plan.effective_batch == 256
    assert plan.num_images == 50_000
    assert plan.steps_per_epoch == 50_000 // 256
    assert plan.num_steps == 400 * plan.steps_per_epoch


def test_steps_follow_from_a_local_source(machine, tmp_path):
    data = _write_images(tmp_path / "train.npy", count=50)
    np.save(tmp_path / "test.npy", np.zeros((7, 8, 8, 3), np.uint8))
    data["path"] = str(tmp_path)
    plan = run_plan.make_plan(_config(data=data, train={"batch_size": 8}))
    assert (plan.num_images, plan.steps_per_epoch, plan.num_steps) == (
        50,
        6,
        12,
    )
    assert plan.problems == ()


def test_passes_of_a_step_share_the_epoch_too(machine):
    values = cifar10.get_config()
    values.train.update(accumulate=3, ema_decay=0.999)
    plan = run_plan.make_plan(_config(values), num_replicas=4)
    assert (plan.batch, plan.effective_batch) == (128, 384)
    assert plan.steps_per_epoch == 50_000 // 128 // 3
    # Six, the average, and the gradient of all replicas.
    assert plan.state_bytes == plan.num_parameters * 4 * 8
    alone = run_plan.make_plan(_config(values))
    assert alone.state_bytes == plan.num_parameters * 4 * 7
    text = dry_run.describe(_config(values), num_replicas=4)
    assert "32 x 4 replicas x 3 passes = 384 images" in text


def test_sizes_of_all_known_datasets_are_known():
    assert set(run_plan._NUM_IMAGES) == set(DATASETS)


def test_the_machine_has_memory():
    device, size = run_plan._device()
    assert device in ("CPU", "GPU")
    assert size is None or size > 0


def _problems(config, **kwargs):
    return run_plan.make_plan(config, **kwargs).problems


def test_nothing_is_foreseen_where_all_is_well(machine):
    assert _problems(_config()) == ()


def test_too_few_images_for_a_batch_are_foreseen(machine):
    first, *_ = _problems(_config(), num_replicas=100)
    assert "4,500 training images" in first
    assert "25,000" in first
    assert "train.batch_size" in first


@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_too_little_memory_is_foreseen(machine, device):
    machine(0.05, device)
    (problem,) = _problems(_config())
    name = "machine" if device == "CPU" else "GPU"
    assert problem.startswith("Training takes at least 0.1 GB")
    assert f"this {name} has 0.1 GB" in problem
    assert "train.batch_size" in problem


def test_memory_that_is_nearly_too_little_is_foreseen(machine):
    plan = run_plan.make_plan(_config())
    needed = plan.state_bytes + 250 * plan.activations.bn_swish
    machine(1.1 * needed / GIGABYTE)
    (problem,) = _problems(_config())
    assert "may be too little" in problem


def test_recomputing_is_proposed_and_counted(machine):
    config = _config()
    plan = run_plan.make_plan(config)
    kept = plan.activations
    needed = plan.state_bytes + 250 * kept.cell
    machine(1.5 * needed / GIGABYTE)
    (problem,) = _problems(config)
    assert "recompute=cell" in problem
    assert _problems(dataclasses.replace(config, recompute="cell")) == ()
    text = dry_run.describe(dataclasses.replace(config, recompute="bn_swish"))
    assert "bn_swish *" in text
    assert dry_run._bytes(kept.bn_swish) in text


def test_unknown_memory_is_no_problem(machine):
    machine(None, "GPU")
    assert _problems(_config()) == ()
    assert "This GPU has unknown memory." in dry_run.describe(_config())


def test_a_warm_up_that_never_ends_is_foreseen(machine):
    config = _config(train={"epochs": 1, "warmup_epochs": 1})
    (problem,) = _problems(config)
    assert "warmup_epochs is 1 of 1 epochs" in problem


def test_a_kl_term_that_never_counts_in_full_is_foreseen(machine):
    (problem,) = _problems(_config(train={"kl_anneal_portion": 1.0}))
    assert "kl_anneal_portion" in problem


def test_statistics_of_one_value_are_foreseen(machine):
    config = _config(model={"num_latent_scales": 3}, train={"batch_size": 1})
    (problem,) = _problems(config)
    assert "one pixel" in problem
    assert _problems(config, num_replicas=2) == ()


def test_missing_images_are_foreseen_first(machine, tmp_path):
    machine(0.001)
    config = _config(
        data={"source": "image_folder", "path": str(tmp_path / "none")}
    )
    plan = run_plan.make_plan(config)
    assert str(tmp_path / "none") in plan.problems[0]
    assert "memory" not in plan.problems[0]
    assert len(plan.problems) == 2
    assert (plan.num_images, plan.num_steps) == (None, None)
    assert "steps unknown" in dry_run.describe(config)


def test_images_of_another_size_are_foreseen(machine, tmp_path):
    data = _write_images(tmp_path / "images.npy", size=10)
    config = _config(data=data | {"resize": "none"})
    (problem,) = _problems(config)
    assert "10x10" in problem


def test_downloads_are_announced_last(machine, tmp_path, monkeypatch):
    machine(0.001)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config = _config(cifar10.get_config())
    assert "downloads" in _problems(config)[-1]
    assert str(tmp_path) in _problems(config)[-1]
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    # As a download that failed leaves it.
    assert "downloads" in _problems(config)[-1]
    (tmp_path / "cifar10" / "3.0.2" / "dataset_info.json").touch()
    assert "downloads" not in _problems(config)[-1]


def test_what_must_be_downloaded_by_hand_comes_first(machine, tmp_path):
    machine(0.001)
    config = _config(
        celeba_hq256.get_config(), data={"data_dir": str(tmp_path)}
    )
    assert "by hand" in _problems(config)[0]
    version = tmp_path / "celeb_a_hq" / "256" / "2.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").touch()
    assert "by hand" not in _problems(config)[0]


def test_a_missing_package_is_foreseen(machine, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    problem = _problems(_config(mnist.get_config()))[0]
    assert "tensorflow_datasets" in problem
    assert "pip install" in problem


@pytest.mark.parametrize("module", [celeba_hq256, mnist, tiny])
def test_descriptions_fit_a_terminal(machine, module):
    config = _config(module.get_config())
    config = dataclasses.replace(config, name="x" * 30)
    for line in dry_run.describe(config, num_replicas=24).splitlines():
        assert len(line) <= 80
        assert line == line.rstrip()


def test_descriptions_state_the_model_and_the_run(machine, tmp_path):
    machine(24)
    config = _config(
        mnist.get_config(),
        data={"data_dir": str(tmp_path)},
    )
    text = dry_run.describe(config, num_replicas=2)
    for fact in (
        "mnist_no_flow",
        "28x28x1, padded to 32, 1 bit, bernoulli",
        "33,363,134 trainable",
        "15 groups, no flow; 14,400 values",
        "4x4x20",
        "8x8x20",
        "200 x 2 replicas = 400 images",
        "tfds mnist, 60,000 training images",
        "150 per epoch, 60,000 in 400 epochs",
        "This machine has 24.0 GB.",
        "Problem: mnist is not in",
    ):
        assert fact in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_340, "12.3 kB"),
        (999_600, "1.00 MB"),
        (123_456_789, "123 MB"),
        (45_600_000_000, "45.6 GB"),
        (4_560_000_000_000, "4,560 GB"),
    ],
)
def test_bytes_have_three_digits(count, text):
    assert dry_run._bytes(count) == text


def test_the_command_prints_it_and_trains_nothing(tmp_path, capsys):
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(
        "from configs import tiny\n\n\n"
        "def get_config():\n"
        "    config = tiny.get_config()\n"
        "    config.train.batch_size = 5000\n"
        "    return config\n"
    )
    run("train", f"--config={config}", f"--workdir={workdir}", "--dry_run")
    printed = capsys.readouterr().out
    assert "Problem: There are 4,500 training images" in printed
    assert not workdir.exists()


def test_the_command_counts_the_processes_of_a_cluster(
    tmp_path, capsys, monkeypatch
):
    described = {
        "cluster": {"worker": ["a:1", "b:1", "c:1"]},
        "task": {"type": "worker", "index": 1},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(described))
    run(
        "train",
        "--config=configs/tiny.py",
        f"--workdir={tmp_path / 'run'}",
        "--dry_run",
    )
    assert "x 3 replicas" in capsys.readouterr().out
