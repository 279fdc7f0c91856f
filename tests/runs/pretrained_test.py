"""Folders of pretrained models: what is kept, refused, and where they are."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import safetensors

from nvae_tf.core.errors import CheckpointError, ConfigError, UserError
from nvae_tf.runs import (
    measured,
    model_card,
    model_places,
    pretrained,
    pretrained_folder,
)
from nvae_tf.runs.results import write_result
from nvae_tf.runs.workdir import Workdir, load_model, read_tensors
from tests.support.hidden_packages import hide_packages
from tests.support.model_cases import random_model
from tests.support.pretrained_cases import (
    CARD,
    read_header,
    safetensors_bytes,
    small_config,
    tensor_at,
    write_pretrained,
)
from tests.support.refusals import refused

# Of halves: the spacing beside 1, half of which rounding is off at most.
_ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def _values(model):
    return read_tensors(model.named_variables("model/"))


def _is_statistic(name):
    return name.endswith(("/mean", "/variance"))


# --- what is kept ------------------------------------------------------------


def test_float32_is_kept_to_the_bit(tmp_path):
    model = write_pretrained(tmp_path / "m")
    loaded, config, info = pretrained.load(tmp_path / "m")
    expected = _values(model)
    for name, value in _values(loaded).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert config == small_config()
    assert info["step"] is None
    assert {key: info[key] for key in CARD} == CARD


@pytest.mark.parametrize("dtype", _ROUNDING)
def test_halves_are_rounded_and_statistics_are_not(tmp_path, dtype):
    model = write_pretrained(tmp_path / "m", dtype=dtype)
    loaded = _values(pretrained.load(tmp_path / "m")[0])
    changed = 0
    for name, value in _values(model).items():
        assert loaded[name].dtype == np.float32
        if _is_statistic(name):
            np.testing.assert_array_equal(loaded[name], value, err_msg=name)
            continue
        off = np.abs(loaded[name] - value)
        # Below the normal numbers of float16 the spacing no longer shrinks.
        assert np.all(off <= np.maximum(_ROUNDING[dtype] * abs(value), 2**-25))
        changed += np.count_nonzero(off)
    assert changed


def test_halves_take_half_of_the_room(tmp_path):
    write_pretrained(tmp_path / "single")
    write_pretrained(tmp_path / "half", dtype="float16")

    def size(name):
        path = tmp_path / name / pretrained_folder.WEIGHTS
        with safetensors.safe_open(path, "numpy") as file:
            return sum(value.nbytes for value in file.get_tensors().values())

    assert size("half") < 0.55 * size("single")


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (70_000.0, "float16", "too large for float16"),
        (np.nan, "float32", "not finite"),
        (np.inf, "bfloat16", "not finite"),
    ],
)
def test_weights_out_of_range_are_not_written(tmp_path, value, dtype, reason):
    config = small_config()
    model = random_model(config.model)
    bias = model.parts["image"].parts["head"].bias
    bias.assign(np.full(bias.shape, value, np.float32))
    with pytest.raises(CheckpointError, match=reason):
        pretrained.save(model, config, tmp_path / "m", {}, dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_large_weights_fit_the_wider_half(tmp_path):
    config = small_config()
    model = random_model(config.model)
    bias = model.parts["image"].parts["head"].bias
    bias.assign(np.full(bias.shape, 70_000.0, np.float32))
    pretrained.save(model, config, tmp_path / "m", {}, dtype="bfloat16")
    pretrained.load(tmp_path / "m")


def test_folder_tells_nobody_where_the_data_lay(tmp_path):
    config = small_config("/home/somebody/secret/digits.npy")
    model = random_model(config.model)
    pretrained.save(model, config, tmp_path / "m", {})
    for path in (tmp_path / "m").iterdir():
        assert b"secret" not in path.read_bytes()
    assert pretrained.load(tmp_path / "m")[1].data.path == "digits.npy"


def test_existing_folders_stay_unless_they_are_to_go(tmp_path):
    write_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match="exists already"):
        write_pretrained(tmp_path / "m")
    write_pretrained(tmp_path / "m", dtype="float16", overwrite=True)
    facts = pretrained_folder.describe(tmp_path / "m").facts
    assert facts["precision"] == "float16"
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="not replaced"):
        write_pretrained(other, overwrite=True)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_description_agrees_with_what_is_loaded(tmp_path):
    model = write_pretrained(tmp_path / "m")
    stored = pretrained_folder.describe(tmp_path / "m")
    assert stored.parameters == model.count_params()
    assert stored.config == pretrained.load(tmp_path / "m")[1]
    assert stored.facts["parameters"] == stored.parameters


# --- the card ----------------------------------------------------------------


def _record(k, nll, **changes):
    return {
        "step": 3,
        "ema": True,
        "split": "test",
        "num_importance_samples": k,
        "num_images": 10_000,
        "nelbo": 84.0,
        "nelbo_standard_error": 0.2,
        "bits_per_dim": 0.15,
        "nll": nll,
        "nll_bits_per_dim": 0.14,
        **changes,
    }


@pytest.fixture
def evaluated(tmp_path):
    """A workdir with the results of several states and settings."""
    for record in (
        _record(10, 83.0),
        _record(1000, 80.0),
        _record(10, 82.5),  # The same once more.
        _record(10, 1.0, step=2),
        _record(10, 2.0, ema=False),
        _record(10, float("nan"), split="validation"),
    ):
        write_result(tmp_path / "evaluation.json", record)
    write_result(
        tmp_path / "sample_quality.json",
        {
            "step": 3,
            "ema": True,
            "split": "train",
            "features": "/home/me/net.keras",
            "temperature": 1.0,
            "num_samples": 500,
            "frechet_distance": 7.5,
            "kid": 0.01,
            "kid_standard_error": None,
        },
    )
    with open(tmp_path / "evaluation.jsonl", "a") as file:
        file.write('{"step": 3, "ema": tr')
    return tmp_path


def test_metrics_are_those_of_the_weights(evaluated):
    metrics = measured.metrics_of(evaluated, 3, True)
    found = {(m["split"], m["name"]): m["value"] for m in metrics}
    assert found["test", "-log p(x), K = 10, nats"] == 82.5
    assert found["test", "-log p(x), K = 1,000, nats"] == 80.0
    assert found["test", "NELBO, nats"] == 84.0
    assert found["validation", "NELBO, nats"] == 84.0
    assert ("validation", "-log p(x), K = 10, nats") not in found
    assert found["train", "Frechet distance"] == 7.5
    assert "me" not in json.dumps(metrics).split('"')
    nelbo = next(m for m in metrics if m["type"] == "nelbo")
    assert nelbo["settings"] == {
        "num_images": 10_000,
        "num_importance_samples": 1000,
        "standard_error": 0.2,
    }
    assert measured.metrics_of(evaluated / "none", 3, True) == []


def _values_of(folder, kind):
    """`(value, what it was computed in, images)` of each such number."""
    return [
        (
            metric["value"],
            metric["settings"].get("computed_in"),
            metric["settings"]["num_images"],
        )
        for metric in measured.metrics_of(folder, 3, True)
        if metric["type"] == kind
    ]


def test_quick_look_does_not_replace_the_number_of_all_images(tmp_path):
    path = tmp_path / "evaluation.json"
    quick = {"num_images": 50, "nelbo": 70.0}
    write_result(path, _record(10, 80.0, computed_in="float32"))
    write_result(path, _record(1000, 60.0, **quick, computed_in="float32"))
    write_result(path, _record(10, 60.0, **quick, computed_in="float32"))
    write_result(path, _record(10, 61.0, **quick, computed_in="mixed_float16"))
    assert _values_of(tmp_path, "nll") == [
        (80.0, None, 10_000),
        (60.0, None, 50),
        (61.0, "mixed_float16", 50),
    ]
    # Nor does the bound of more draws of fewer images.
    assert _values_of(tmp_path, "nelbo") == [
        (84.0, None, 10_000),
        (70.0, "mixed_float16", 50),
    ]


@pytest.mark.parametrize(
    "otherwise",
    [
        {"pixels": "mean"},
        {"computed_in": "mixed_float16"},
        {"features_fingerprint": "beef"},
        {"num_real": 100},
    ],
)
def test_samples_that_were_compared_otherwise_have_numbers_of_their_own(
    tmp_path, otherwise
):
    record = {
        "step": 3,
        "ema": True,
        "split": "train",
        "features": "net.keras",
        "features_fingerprint": "f00d",
        "temperature": 1.0,
        "readjust_bn": False,
        "pixels": "sample",
        "computed_in": "float32",
        "num_samples": 500,
        "num_real": 1000,
        "kid": 0.01,
    }
    path = tmp_path / "sample_quality.json"
    write_result(path, {**record, **otherwise, "kid": 0.5})
    write_result(path, {**record, "kid": 0.02})
    # As earlier versions wrote it, in what was usual then and is now.
    del record["computed_in"]
    write_result(path, record)
    metrics = measured.metrics_of(tmp_path, 3, True)
    assert sorted(m["value"] for m in metrics) == [0.01, 0.5]
    ((name, value),) = otherwise.items()
    (other,) = (m for m in metrics if m["value"] == 0.5)
    assert other["settings"][name] == value
    # And people see it.
    config = small_config()
    facts = model_card.describe(config, {"metrics": metrics})
    assert f"{name.replace('_', ' ')} {value}" in model_card.card(facts, config)


def test_header_has_what_the_hub_reads(evaluated, tmp_path):
    info = {"metrics": measured.metrics_of(evaluated, 3, True), **CARD}
    config = small_config()
    model = random_model(config.model)
    pretrained.save(model, config, tmp_path / "m", info)
    page = (tmp_path / "m" / "README.md").read_text()
    header = read_header(page)
    assert header["library_name"] == "nvae_tf"
    assert header["pipeline_tag"] == "unconditional-image-generation"
    assert header["license"] == CARD["license"]
    assert header["datasets"] == CARD["datasets"]
    (index,) = header["model-index"]
    splits = {r["dataset"]["split"]: r["metrics"] for r in index["results"]}
    assert set(splits) == {"test", "validation", "train"}
    nll = [m for m in splits["test"] if m["type"] == "nll"]
    assert {m["args"]["num_importance_samples"]: m["value"] for m in nll} == {
        10: 82.5,
        1000: 80.0,
    }
    for result in index["results"]:
        assert result["task"]["type"] == header["pipeline_tag"]
        assert result["dataset"]["name"]
    # And the page has the same for people.
    assert CARD["description"] in page
    assert "K = 1,000, nats | 80" in page
    assert "rounded" not in page
    pretrained.save(model, config, tmp_path / "h", info, dtype="float16")
    assert "rounded to float16" in (tmp_path / "h" / "README.md").read_text()
    assert pretrained.load(tmp_path / "m")[2]["metrics"] == info["metrics"]


@pytest.mark.parametrize(
    "name",
    ["a: b", "- x", "{", "'", '"', "#", "!!python/name:os", "---", "\u00e9"],
)
def test_header_stays_yaml_whatever_the_name(name):
    config = dataclasses.replace(small_config(), name=name)
    metric = {
        "type": "nll",
        "name": name,
        "value": 1.0,
        "split": "test",
        "settings": {},
    }
    facts = model_card.describe(config, {"metrics": [metric]})
    header = read_header(model_card.card(facts, config))
    assert header["model-index"][0]["name"] == name
    assert header["license"] == "unknown"
    assert "datasets" not in header


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"licence": "mit"}', "licence"),
        ('{"license": "do what you like"}', "license"),
        ('{"license": 3}', "license"),
        ('{"datasets": "mnist"}', "datasets"),
        ('{"datasets": [1]}', "datasets"),
        ('{"name": "a\\nb"}', "name"),
        ("[]", "list"),
        ("mit", "not JSON"),
    ],
)
def test_card_that_is_none_is_refused(tmp_path, content, reason):
    path = tmp_path / "card.json"
    path.write_text(content)
    with pytest.raises(UserError, match=reason) as caught:
        model_card.read_card(path)
    assert str(path) in str(caught.value)


# --- strangers' folders ------------------------------------------------------


def _refused(folder, *parts, error=UserError):
    with refused(error, *parts, path=folder, longest=700):
        pretrained.load(folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "m"
    write_pretrained(folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(written, tmp_path / "m")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        safetensors_bytes(b"{" * 1000),
        safetensors_bytes(b'{"a":' * 10_000),
        safetensors_bytes([]),
        safetensors_bytes({"a": tensor_at(0, 8)}, bytes(4)),
        safetensors_bytes({"a": tensor_at(0, 4, [2**32, 2**32])}, bytes(4)),
        safetensors_bytes({"a": tensor_at(0, 1, dtype="F8_E4M3")}, bytes(1)),
        safetensors_bytes({"a": tensor_at(0, 8, dtype="F64")}, bytes(8)),
        safetensors_bytes({"a": tensor_at(0, 4)}, bytes(4)),
        safetensors_bytes({"model/a": tensor_at(0, 4)}, bytes(4)),
        safetensors_bytes({"__metadata__": {"nvae_facts": "{"}}),
        safetensors_bytes({"__metadata__": {"nvae_facts": "[]"}}),
        safetensors_bytes({"__metadata__": {"nvae_facts": '{"step": "1"}'}}),
        safetensors_bytes(
            {"__metadata__": {"nvae_facts": '{"metrics": [{"value": 1}]}'}}
        ),
        safetensors_bytes({"__metadata__": {"nvae_facts": "[" * 10_000}}),
        safetensors_bytes({"\x1b[2J" + "a" * 10**5: tensor_at(0, 4)}, bytes(4)),
    ],
)
def test_weights_that_are_none_are_refused(folder, content):
    (folder / pretrained_folder.WEIGHTS).write_bytes(content)
    _refused(folder)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.999])
def test_altered_weights_are_told(folder, share):
    path = folder / pretrained_folder.WEIGHTS
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little") + 8
    content[length + int(share * (len(content) - length))] ^= 1
    path.write_bytes(content)
    _refused(folder, "checksum")


def test_weights_cut_short_are_told(folder):
    path = folder / pretrained_folder.WEIGHTS
    path.write_bytes(path.read_bytes()[:-4])
    _refused(folder, "damaged")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_that_are_missing_or_none_are_told(folder, name):
    (folder / name).unlink()
    _refused(folder, name, "does not exist")
    os.mkfifo(folder / name)
    _refused(folder, name)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["model"].update(num_channels_enc=4096),
        lambda v: v["model"].update(num_groups_per_scale=1000),
    ],
)
def test_model_is_not_built_before_its_weights_are_there(
    folder, monkeypatch, change
):
    def build(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr("nvae_tf.runs.pretrained.NVAE", build)
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))
    _refused(folder, "do not belong together")


def test_configuration_is_read_strictly(folder):
    values = json.loads((folder / "config.json").read_text())
    values["model"]["num_latent_per_group"] += 1
    (folder / "config.json").write_text(json.dumps(values))
    _refused(folder, "another configuration")
    values["surprise"] = 1
    (folder / "config.json").write_text(json.dumps(values))
    _refused(folder, "surprise", error=ConfigError)
    (folder / "config.json").write_bytes(b"[" * 10**5)
    _refused(folder)


def test_file_larger_than_any_model_is_not_read(folder):
    os.truncate(folder / pretrained_folder.WEIGHTS, 2**40)
    _refused(folder, "bytes")


def test_files_beside_are_not_read(folder):
    (folder / "model.py").write_text("raise SystemExit")
    (folder / "pickle.bin").write_bytes(b"\x80\x04.")
    (folder / "README.md").write_text("---\n!!python/object:x {}\n---\n")
    pretrained.load(folder)


# --- places ------------------------------------------------------------------


def _ship(monkeypatch, tmp_path, written, *names):
    for name in names:
        shutil.copytree(written, tmp_path / "shipped" / name)
    monkeypatch.setattr(
        model_places, "shipped_folder", lambda: tmp_path / "shipped"
    )


def test_shipped_models_go_by_name(tmp_path, monkeypatch, written):
    _ship(monkeypatch, tmp_path, written, "blobs", "spots")
    (tmp_path / "shipped" / "README.md").write_text("What these are.")
    assert list(model_places.shipped()) == ["blobs", "spots"]
    # Even where a folder of data has the name of a model.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blobs").mkdir()
    assert pretrained.load("blobs")[1].name == "blobs"
    for place in ("./blobs", pathlib.Path("blobs")):
        with pytest.raises(CheckpointError, match="does not exist"):
            pretrained.load(place)


def test_unknown_name_comes_with_those_that_are_known(
    tmp_path, monkeypatch, written
):
    _ship(monkeypatch, tmp_path, written, "blobs", "spots")
    with pytest.raises(CheckpointError, match="blobs, spots") as caught:
        pretrained.load("blob")
    assert "Did you mean blobs?" in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        pretrained.load("x" * 10**5)
    assert len(str(caught.value)) < 700
    # Names are no paths.
    with pytest.raises(CheckpointError):
        pretrained.load("../shipped/blobs")


def test_workdirs_and_models_are_told_apart(tmp_path):
    folder = Workdir(tmp_path / "run")
    folder.write_config(small_config())
    values = _values(random_model(small_config().model))
    folder.checkpoints().save(3, values, {})
    with pytest.raises(CheckpointError, match=f"--workdir={tmp_path / 'run'}"):
        pretrained.load(tmp_path / "run")
    write_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match=f"--model={tmp_path / 'm'}"):
        load_model(tmp_path / "m")
    with pytest.raises(UserError, match="pretrained"):
        with Workdir(tmp_path / "m").locked():
            raise AssertionError("a run may begin here")


class _Hub(types.ModuleType):
    """What is asked of huggingface_hub, from a folder."""

    def __init__(self, folder):
        super().__init__("huggingface_hub")
        self.folder, self.asked, self.problem = folder, [], None

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        self.asked.append((repo_id, revision, sorted(allow_patterns)))
        if self.problem is not None:
            raise self.problem
        return str(self.folder)


@pytest.fixture
def hub(folder, monkeypatch):
    hub = _Hub(folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


def test_hub_is_asked_for_what_is_read_and_nothing_else(hub):
    files = ["config.json", "model.safetensors"]
    pretrained.load("hf://user/repo")
    pretrained.load("hf://user.1/re_po-x@v1.0")
    assert hub.asked == [
        ("user/repo", None, files),
        ("user.1/re_po-x", "v1.0", files),
    ]


@pytest.mark.parametrize(
    "place",
    [
        "hf://",
        "hf://user",
        "hf://user/repo/more",
        "hf://user/repo@",
        "hf://../repo",
        "hf://us er/repo",
        "hf://user/repo@a b",
        "hf://https://x/y",
        "hf://user/" + "x" * 10**5,
    ],
)
def test_place_that_names_no_repository_is_not_asked_for(hub, place):
    with pytest.raises(CheckpointError, match="hf://user/repo"):
        pretrained.load(place)
    assert not hub.asked


@pytest.mark.parametrize(
    "problem",
    [
        OSError("401 Client Error.\n\nRepository Not Found for url: x"),
        ValueError("Offline mode is enabled"),
        RuntimeError("x" * 10**5),
    ],
)
def test_whatever_the_hub_raises_is_one_sentence(hub, problem):
    hub.problem = problem
    with pytest.raises(CheckpointError, match="hf://user/repo") as caught:
        pretrained.load("hf://user/repo")
    assert str(problem)[:15] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_hub_needs_its_extra(monkeypatch):
    hide_packages(monkeypatch, "huggingface_hub")
    with pytest.raises(CheckpointError, match="extra 'hub'"):
        pretrained.load("hf://user/repo")


def test_files_of_the_hub_are_trusted_no_more_than_others(hub):
    (hub.folder / "model.safetensors").write_bytes(b"<html>Not found</html>")
    with pytest.raises(CheckpointError, match="damaged"):
        pretrained.load("hf://user/repo")


# --- what comes with the project ---------------------------------------------


def _shortcomings(folder):
    """What a model that is shipped may not lack."""
    stored = pretrained_folder.describe(folder)
    header = read_header((folder / "README.md").read_text())
    kinds = {metric["type"] for metric in stored.facts.get("metrics", ())}
    return [
        what
        for what, is_there in {
            "license": stored.facts.get("license") == header["license"],
            "datasets": stored.facts.get("datasets"),
            "description": stored.facts.get("description"),
            "nll": "nll" in kinds,
            "name": re.fullmatch(r"[a-z0-9-]+", folder.name),
            "path": "/" not in stored.config.data.path,
        }.items()
        if not is_there
    ]


def test_shipped_models_are_whole_and_small():
    found = model_places.shipped()
    for path in found.values():
        assert _shortcomings(path) == []
        pretrained.load(path)
    files = [p for p in model_places.shipped_folder().rglob("*") if p.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6


def test_shipped_models_need_a_licence_and_a_likelihood(tmp_path):
    model = random_model(small_config().model)
    pretrained.save(model, small_config(), tmp_path / "m", {})
    assert _shortcomings(tmp_path / "m") == [
        "license",
        "datasets",
        "description",
        "nll",
    ]


def test_card_is_utf8_whatever_the_locale(tmp_path):
    program = f"""
import numpy as np
from nvae_tf.config import Config
from nvae_tf.runs import pretrained_folder

pretrained_folder.write(
    {str(tmp_path / "m")!r},
    Config(),
    {{"model/x": np.zeros(1, np.float32)}},
    {{"description": "\\u6570\\u5b57"}},
)
"""
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env={
            **os.environ,
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
        },
    )
    card = (tmp_path / "m" / "README.md").read_bytes().decode("utf-8")
    assert "\u6570\u5b57" in card
