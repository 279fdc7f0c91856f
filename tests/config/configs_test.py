"""Every configuration and variant, at full size."""

import dataclasses
import functools
import importlib
import math
import pathlib
import re
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import defaults
from nvae_tf.config import Config, config_from_dict
from nvae_tf.core.errors import ConfigError
from nvae_tf.datasets.tfds_source import DATASETS
from nvae_tf.training import run_plan

CONFIGS = pathlib.Path(defaults.__file__).parent

# The default first.
VARIANTS = {
    "mnist": ("no_flow", "flow"),
    "cifar10": ("flow", "no_flow", "multi_scale"),
    "celeba64": ("flow", "no_flow"),
    "imagenet32": ("flow", "no_flow"),
    "celeba_hq256": ("flow", "no_flow", "channels_24"),
    "ffhq256": ("flow", "no_flow", "channels_24"),
    "omniglot": ("no_flow", "flow"),
    "stacked_mnist": ("no_flow", "flow"),
    "lsun_church64": ("flow", "no_flow"),
    "image_folder": ("default",),
    "mnist_demo": ("default", "labels"),
    "tiny": ("default",),
    "defaults": ("defaults",),
}
ALL = [(name, variant) for name in VARIANTS for variant in VARIANTS[name]]
PUBLISHED = (
    "mnist",
    "cifar10",
    "celeba64",
    "imagenet32",
    "celeba_hq256",
    "ffhq256",
)

# Trainable parameters of the authors' models.
AUTHORS_PARAMETERS = {
    ("mnist", "no_flow"): 33_363_134,
    ("cifar10", "no_flow"): 129_215_680,
    ("cifar10", "flow"): 130_852_480,
    ("celeba64", "no_flow"): 151_371_764,
    ("celeba64", "flow"): 153_281_364,
    ("imagenet32", "no_flow"): 266_981_764,
    ("imagenet32", "flow"): 268_509_444,
    ("celeba_hq256", "no_flow"): 326_870_344,
    ("celeba_hq256", "flow"): 330_798_664,
    ("ffhq256", "no_flow"): 326_870_344,
    ("ffhq256", "flow"): 330_798_664,
}
# Of variants that are ours, so that a change does not go unnoticed.
OUR_PARAMETERS = {
    ("cifar10", "multi_scale"): 146_931_978,
    ("celeba_hq256", "channels_24"): 214_250_352,
    ("ffhq256", "channels_24"): 214_250_352,
    ("lsun_church64", "flow"): 153_281_364,
    ("lsun_church64", "no_flow"): 151_371_764,
    ("omniglot", "no_flow"): 33_363_134,
}

# The paper's table 6: epochs, images per GPU, channels, groups top-down, flow
# pairs, lambda at beta = 0 and 1, blocks x cells before and after, bits.
SETTINGS = {
    "mnist": (400, 200, 32, (5, 10), 0, None, 1e-2, 2, 3, 1),
    "cifar10": (400, 32, 128, (30,), 1, None, 1e-2, 1, 2, 8),
    "celeba64": (90, 16, 64, (5, 10, 20), 1, None, 1e-1, 1, 2, 8),
    "imagenet32": (45, 24, 192, (28,), 1, 1.0, 1e-2, 1, 2, 8),
    "celeba_hq256": (300, 4, 30, (4, 4, 4, 8, 16), 2, 1.0, 1e-2, 1, 2, 5),
    "ffhq256": (200, 4, 30, (4, 4, 4, 8, 16), 2, 1.0, 1e-1, 1, 2, 5),
}

# GPUs of the authors' runs.
GPUS = {
    "mnist": 2,
    "cifar10": 8,
    "celeba64": 8,
    "imagenet32": 24,
    "celeba_hq256": 24,
    "ffhq256": 24,
}
# The benchmark cases whose memory docs/gpu.md has.
_PREDICTED = {
    "cifar10": "cifar",
    "lsun_church64": "celeba64",
    "ffhq256": "celeba_hq256",
}

ml_collections_loads_the_old_way = pytest.mark.filterwarnings(
    r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
)


def _load(name, variant=None) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(variant)


def _config(name, variant=None) -> Config:
    return config_from_dict(_load(name, variant))


@functools.cache
def _num_parameters(name, variant) -> int:
    model = run_plan.model_without_weights(_config(name, variant).model)
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def _parse(monkeypatch, *arguments) -> ConfigDict:
    # ml_collections looks for overrides in sys.argv, whatever it is to parse.
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", lock_config=True, flag_values=values
    )
    values(sys.argv)
    return values.config


def test_every_file_is_tested():
    files = {path.stem for path in CONFIGS.glob("*.py")} - {"__init__"}
    # These describe no run of their own; their tests are elsewhere.
    assert files - {"pretrained", "workdir"} == set(VARIANTS)


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_every_variant_is_valid_and_can_be_built(name, variant):
    number = _num_parameters(name, variant)
    # What a file must hold at least, before a model is built for it.
    least = _config(name, variant).model.least_weights()
    assert least <= number < 50 * least


@pytest.mark.parametrize(
    ("key", "expected"), (AUTHORS_PARAMETERS | OUR_PARAMETERS).items()
)
def test_models_have_as_many_parameters_as_the_authors(key, expected):
    assert _num_parameters(*key) == expected


@pytest.mark.parametrize("gpu", ["16gb", "24gb", "80gb"])
@pytest.mark.parametrize("name", [*PUBLISHED, "lsun_church64"])
def test_step_of_one_gpu_is_the_papers_and_fits_by_prediction(name, gpu):
    whole, fitted = _config(name), _config(name, gpu)
    train = fitted.train
    same_step = dataclasses.replace(
        train, batch_size=whole.train.batch_size, accumulate=1
    )
    assert same_step == whole.train
    count = GPUS.get(name, 8)
    images = train.batch_size * train.accumulate
    assert images == whole.train.batch_size * count
    assert fitted.model == whole.model
    case, batch = _PREDICTED.get(name, name), train.batch_size
    peaks = _predicted_gigabytes()[case, fitted.recompute]
    # Memory grows less than in proportion: weights stay what they are.
    smaller = [b for b in peaks if b <= batch] or [min(peaks)]
    nearest = max(smaller)
    predicted = peaks[nearest] * max(1, batch / nearest)
    # What else a process takes, and executors that plan less well.
    assert predicted <= 0.8 * int(gpu.removesuffix("gb"))


def test_other_variants_are_fitted_to_one_gpu_too():
    plain, fitted = (
        _config("celeba_hq256", v) for v in ("channels_24", "channels_24+24gb")
    )
    assert fitted.model == plain.model
    assert fitted.train.batch_size * fitted.train.accumulate == 6 * 8
    with pytest.raises(ConfigError, match="no variant 'small'"):
        _load("mnist", "small+16gb")
    with pytest.raises(ConfigError, match=r"no variant 'flow\+12gb'"):
        _load("mnist", "flow+12gb")


@pytest.mark.parametrize(
    ("name", "variant", "plain"),
    [
        ("mnist", "labels", None),
        ("mnist", "small+labels", "small"),
        ("mnist", "flow+24gb+labels", "flow+24gb"),
        ("mnist_demo", "labels", None),
        ("cifar10", "no_flow+labels", "no_flow"),
        ("cifar10", "24gb+labels", "24gb"),
    ],
)
def test_variants_with_labels_differ_in_nothing_else(name, variant, plain):
    told, untold = _config(name, variant), _config(name, plain)
    assert told.name == f"{untold.name}_labels"
    assert told.model == dataclasses.replace(untold.model, num_classes=10)
    assert told.data == dataclasses.replace(untold.data, labels=True)
    assert told.train == untold.train


@functools.cache
def _predicted_gigabytes():
    """(case, what is recomputed) -> batch -> GB in bfloat16."""
    page = (CONFIGS.parent / "docs" / "gpu.md").read_text()
    table = page.split("<!-- memory -->")[1].split("<!-- /memory -->")[0]
    heading, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.strip().splitlines()
    ]
    found = {}
    for row in rows:
        cells = dict(zip(heading, row, strict=True))
        for recompute in ("none", "bn_swish", "cell"):
            if cells["precision"] == "bfloat16" and cells[recompute]:
                peaks = found.setdefault((cells["model"], recompute), {})
                peaks[int(cells["batch"])] = float(cells[recompute])
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_those_of_the_paper(name):
    config = _config(name)
    model, train = config.model, config.train
    assert SETTINGS[name] == (
        train.epochs,
        train.batch_size,
        model.num_channels_enc,
        model.groups_top_down,
        model.num_flow_pairs,
        train.regularization_init,
        train.regularization,
        model.num_preprocess_blocks,
        model.num_preprocess_cells,
        model.num_bits,
    )
    assert model.num_channels_dec == model.num_channels_enc
    assert model.num_postprocess_cells == model.num_preprocess_cells
    assert (model.num_cells_enc, model.num_cells_dec) == (2, 2)
    assert model.num_latent_per_group == 20
    assert model.architecture == "res_mbconv"
    assert model.use_se
    assert model.residual_posterior
    assert train.warmup_epochs == (1 if name == "imagenet32" else 5)
    assert train.learning_rate == (8e-3 if name == "ffhq256" else 1e-2)
    assert train.weight_decay == 3e-4
    assert model.likelihood == ("bernoulli" if name == "mnist" else "mixture")
    assert config.data.flip == (name != "mnist")


@pytest.mark.parametrize("name", PUBLISHED)
def test_variants_differ_in_the_flow_alone(name):
    with_flow, without = _config(name, "flow"), _config(name, "no_flow")
    assert with_flow.model.num_flow_pairs > 0
    changed = dataclasses.replace(with_flow.model, num_flow_pairs=0)
    assert without.model == changed
    assert without.train == with_flow.train
    assert without.data == with_flow.data


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"defaults"}))
def test_the_default_variant_is_the_first_and_names_the_run(name):
    default = VARIANTS[name][0]
    assert _config(name) == _config(name, default)
    suffix = "" if default == "default" else f"_{default}"
    assert _config(name).name == name + suffix


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_unknown_variants_are_refused_by_name(name):
    known = ", ".join(VARIANTS[name])
    with pytest.raises(ConfigError, match=f"variant 'nosuch'.*{known}"):
        _load(name, "nosuch")


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"defaults"}))
def test_files_open_with_command_devices_paper_and_variants(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    assert re.search(
        rf"^ {{4}}.*nvae train --config={name} ", text, re.MULTILINE
    )
    assert "--workdir=runs/" in text
    assert re.search(r"^Devices: ", text, re.MULTILINE)
    assert re.search(r"^The paper", text, re.MULTILINE)
    for variant in VARIANTS[name]:
        assert variant == "default" or f"`{variant}`" in text


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_tfds_names_are_known(name, variant):
    data = _config(name, variant).data
    if data.source == "tfds":
        assert data.name in DATASETS


def test_defaults_are_those_of_the_dataclasses():
    config = defaults.create(Config().name)
    assert config_from_dict(config) == Config()
    assert config.to_dict() == dataclasses.asdict(Config())


def test_configs_are_locked():
    config = _load("tiny")
    with pytest.raises(AttributeError, match="num_flow_pair"):
        config.model.num_flow_pair = 1
    with pytest.raises(KeyError, match="batchsize"):
        config.train.update(batchsize=1)


@ml_collections_loads_the_old_way
def test_variants_and_overrides_come_from_the_command_line(monkeypatch):
    config = config_from_dict(
        _parse(
            monkeypatch,
            f"--config={CONFIGS / 'cifar10.py'}:no_flow",
            "--config.train.regularization_init=1.0",
            "--config.train.batch_size=8",
            "--config.evaluation.image_temperatures=(0.5, 0.7)",
        )
    )
    assert config.model.num_flow_pairs == 0
    assert config.train.regularization_init == 1.0
    assert config.train.batch_size == 8
    assert config.evaluation.image_temperatures == (0.5, 0.7)


@ml_collections_loads_the_old_way
def test_optional_values_keep_their_type(monkeypatch):
    with pytest.raises(flags.IllegalFlagValueError, match="high"):
        _parse(
            monkeypatch,
            f"--config={CONFIGS / 'cifar10.py'}",
            "--config.train.regularization_init=high",
        )


def test_configs_do_not_share_state():
    _load("mnist").train.epochs = 1
    assert _config("mnist").train.epochs == 400


def test_tiny_takes_every_path():
    config = _config("tiny")
    assert config.model.num_flow_pairs > 0
    assert min(config.model.groups_top_down) > 1
    assert config.model.num_latent_scales > 1
    assert config.model.likelihood == "mixture"
    assert config.model.image_channels == 3
    assert config.train.regularization_init is not None
    assert 0 < config.train.warmup_epochs < config.train.epochs


@pytest.mark.parametrize(
    ("name", "evaluates", "saves"),
    [
        ("cifar10", 20, 4),
        ("celeba64", 20, 1),
        ("celeba_hq256", 20, 3),
        ("ffhq256", 20, 2),
        ("imagenet32", 1, 1),
        ("mnist", 20, 4),
        ("mnist:small", 2, 1),
        ("omniglot", 20, 7),
        ("lsun_church64", 20, 2),
        ("stacked_mnist", 20, 1),
    ],
)
def test_long_runs_evaluate_and_save_as_often_as_the_authors(
    name, evaluates, saves
):
    config = _config(*name.split(":"))
    assert config.evaluation.every_epochs == evaluates
    assert config.checkpoint.every_epochs == saves
