"""What is exported: loading a run, and re-adjusted normalisation."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config import TrainConfig
from nvae_tf.core.errors import CheckpointError, ExportError, UserError
from nvae_tf.export.onnx import export_onnx
from nvae_tf.export.onnx_runner import OnnxRunner
from nvae_tf.export.parity import Reference, difference
from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.saved_model import export_saved_model
from nvae_tf.export.source import Source, load_source
from nvae_tf.export.verify import open_export, verify
from nvae_tf.model.averaging import WeightAverage
from nvae_tf.runs.workdir import Workdir, read_tensors
from nvae_tf.sampling import readjust
from tests.support import in_process
from tests.support.export_cases import MODELS, source, write_run
from tests.support.model_cases import random_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), "plain_vae")


def _load(run, temperature=0.5, seed=0):
    return load_source(
        str(run),
        readjust_temperature=temperature,
        readjust_seed=seed,
        steps=3,
    )


def test_parameters_that_are_not_finite_are_refused():
    model = random_model(MODELS["plain_vae"])
    params = model.read_params()
    params["image"]["head"]["bias"] = tf.constant([np.nan])
    config = source("plain_vae").config
    with pytest.raises(ExportError, match="image/head/bias is not finite"):
        Source(model, config, params=params)


def test_configuration_of_another_model_is_refused():
    with pytest.raises(ExportError, match="does not describe the model"):
        Source(source("plain_vae").model, source("normal").config)


def test_run_is_loaded_with_what_is_known_of_it(run):
    loaded = load_source(str(run))
    assert loaded.info == {"step": 9, "ema": False, "nelbo": 50.0}
    expected = source("plain_vae").params
    tf.nest.map_structure(
        np.testing.assert_array_equal, loaded.params, expected
    )


def test_missing_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no workdir"):
        load_source(str(tmp_path / "absent"))


def test_averaged_weights_that_a_run_lacks_are_refused(run):
    with pytest.raises(UserError, match="no averaged weights"):
        load_source(str(run), ema=True)


@pytest.fixture(scope="module")
def averaging(tmp_path_factory):
    """`(workdir, model, averaged model)` of a run that keeps an average."""
    path = tmp_path_factory.mktemp("averaging")
    base = source("plain_vae")
    config = dataclasses.replace(base.config, train=TrainConfig(ema_decay=0.9))
    other = random_model(base.model.config, seed=3)
    average = WeightAverage(other, 0.9)
    workdir = Workdir(path)
    workdir.write_config(config)
    variables = {
        **base.model.named_variables("model/"),
        **average.named_variables(),
    }
    evaluation = {"nelbo": 50.0, "average": {"nelbo": 40.0}}
    workdir.checkpoints().save(
        9, read_tensors(variables), {"evaluation": evaluation}
    )
    return path, base.model, other


def test_averaged_weights_are_exported_where_a_run_keeps_them(averaging):
    path, base, other = averaging
    plain, averaged, default = (
        load_source(str(path), ema=ema) for ema in (False, True, None)
    )
    for loaded, model, nelbo in (
        (plain, base, 50.0),
        (averaged, other, 40.0),
        (default, other, 40.0),
    ):
        assert loaded.info["nelbo"] == nelbo
        tf.nest.map_structure(
            np.testing.assert_array_equal, loaded.params, model.read_params()
        )
    for loaded in (averaged, default):
        assert loaded.weights == "exponential average"
        assert loaded.options == {"checkpoint": "9", "ema": True}
    assert plain.options == {"checkpoint": "9", "ema": False}


@pytest.mark.parametrize("flag", ["--noema", "--ema", None])
def test_verify_compares_with_the_weights_that_were_exported(
    averaging, tmp_path, flag, capsys
):
    path, _, _ = averaging
    output = tmp_path / "nvae.onnx"
    in_process.run(
        "export onnx",
        f"--workdir={path}",
        f"--output={output}",
        "--graphs=sample",
        *([flag] if flag else []),
    )
    is_average = flag != "--noema"
    says = "Averaged weights of step 9" if is_average else "Weights of step 9"
    assert says in capsys.readouterr().out
    facts = open_export(output).facts
    assert facts["source_options"]["ema"] is is_average
    assert in_process.run("verify", str(output), f"--workdir={path}") == 0


def test_export_that_does_not_name_its_weights_has_no_average(
    averaging, tmp_path
):
    path, _, _ = averaging
    output = tmp_path / "nvae.onnx"
    plain = load_source(str(path), ema=False)
    plain.options = {"checkpoint": "9"}
    export_onnx(plain, output, graphs=["sample"])
    assert in_process.run("verify", str(output), f"--workdir={path}") == 0


@pytest.mark.long
def test_readjusted_statistics_serve_draws_alone(run, tmp_path):
    loaded = _load(run)
    assert "re-adjusted at temperature 0.5" in loaded.batch_norm
    folder = export_saved_model(
        loaded, tmp_path / "nvae", warmup_batch_sizes=()
    )
    export_onnx(loaded, tmp_path / "nvae.onnx", graphs=["sample", "score"])
    plain = Reference(source("plain_vae"))
    saved_model = SavedModelRunner(folder)
    onnx = OnnxRunner(tmp_path / "nvae.onnx")
    for runner, name, is_draw in (
        (saved_model, "decode_noise", True),
        (saved_model, "decode", False),
        (saved_model, "score", False),
        (onnx, "sample", True),
        (onnx, "score", False),
    ):
        inputs, expected = plain.ask(name)
        taken = {k: inputs[k] for k in runner.inputs(name)}
        distance = difference(runner.run(name, taken), expected, 0)
        assert (distance > 1e-4) == is_draw, name


def test_verify_finds_the_readjusted_statistics_again(run, tmp_path):
    path = tmp_path / "nvae.onnx"
    export_onnx(_load(run), path, graphs=["sample"])
    export = open_export(path)
    again = load_source(str(run), steps=3, **export.facts["source_options"])
    assert [r.problem for r in verify(export, again)] == [""]
    plain = verify(export, load_source(str(run)))
    assert "Differs" in plain[0].problem


def test_readjusted_statistics_are_computed_once(run, monkeypatch):
    first = _load(run, temperature=0.6)

    def fail(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(readjust, "readjust_batch_norm", fail)
    second = _load(run, temperature=0.6)
    tf.nest.map_structure(
        np.testing.assert_array_equal, first.draw_params, second.draw_params
    )
    for changes in ({"temperature": 0.65}, {"seed": 1}):
        with pytest.raises(AssertionError, match="computed again"):
            _load(run, **changes)


@pytest.mark.parametrize("content", ["damaged", "foreign", "nan"])
def test_unusable_stored_statistics_are_refused(tmp_path, content):
    run = write_run(tmp_path, "plain_vae")
    _load(run)
    (path,) = (tmp_path / readjust.FOLDER).iterdir()
    if content == "damaged":
        path.write_bytes(b"no archive")
    elif content == "foreign":
        np.savez(path, a=np.zeros(3))
    else:
        with np.load(path) as stored:
            values = {k: np.full_like(v, np.nan) for k, v in stored.items()}
        np.savez(path, **values)
    with pytest.raises(CheckpointError, match=r"cannot be (used|read)"):
        _load(run)
