"""A package of an extra that is missing is named before any work is done."""

import pytest

from nvae_tf.config import Config
from nvae_tf.core import progress
from nvae_tf.core.errors import ExportError, UserError
from nvae_tf.export import onnx as onnx_export
from nvae_tf.export import saved_model, source
from nvae_tf.runs.workdir import Workdir
from tests.support import export_cases
from tests.support.hidden_packages import hide_packages
from tests.support.in_process import run


class BegunError(Exception):
    """Work has begun."""


def _begin(*_, **__):
    raise BegunError


@pytest.mark.parametrize(
    ("command", "options", "package", "extra"),
    [
        ("export savedmodel", [], "tensorflow_serving", "serving"),
        ("export onnx", [], "onnxruntime", "onnx"),
        ("export onnx", [], "onnx", "onnx"),
        ("export onnx", [], "tf2onnx", "onnx"),
        ("export stablehlo", [], "jax", "stablehlo"),
        ("export litert", [], "ai_edge_litert", "litert"),
        ("report", [], "jinja2", "report"),
        ("report", [], "matplotlib", "report"),
        ("eval likelihood", ["--plot"], "matplotlib", "report"),
        ("interpolate", ["--output=way.mp4"], "av", "video"),
    ],
)
def test_command_names_the_extra_before_it_looks_for_the_run(
    tmp_path, monkeypatch, command, options, package, extra
):
    monkeypatch.chdir(tmp_path)
    arguments = [f"--workdir={tmp_path / 'none'}", *options]
    with pytest.raises(UserError, match="no workdir"):
        run(command, *arguments)
    hide_packages(monkeypatch, package)
    with pytest.raises(UserError, match=f"{package}.*extra '{extra}'") as error:
        run(command, *arguments)
    assert f".[{extra}]" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_warm_up_requests_can_be_left_out(tmp_path, monkeypatch):
    hide_packages(monkeypatch, "tensorflow_serving")
    monkeypatch.setattr(source, "load_source", _begin)
    Workdir(tmp_path).write_config(Config())
    with pytest.raises(BegunError):
        run("export savedmodel", f"--workdir={tmp_path}", "--nowarmup")


def test_saved_model_names_the_extra_before_it_is_made(tmp_path, monkeypatch):
    hide_packages(monkeypatch, "tensorflow_serving")
    monkeypatch.setattr(saved_model, "ServedModel", _begin)
    model = export_cases.source("plain_vae")
    with pytest.raises(ExportError, match=r"tensorflow_serving.*'serving'"):
        saved_model.export_saved_model(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())
    with pytest.raises(BegunError):
        saved_model.export_saved_model(
            model, tmp_path / "m", warmup_batch_sizes=()
        )


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "tf2onnx"])
def test_onnx_export_names_the_extra_before_it_is_made(
    tmp_path, monkeypatch, package
):
    hide_packages(monkeypatch, package)
    monkeypatch.setattr(onnx_export, "OnnxGraphs", _begin)
    model = export_cases.source("plain_vae")
    with pytest.raises(ExportError, match=f"{package}.*'onnx'"):
        onnx_export.export_onnx(model, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("packages", "extras"),
    [
        (["jinja2"], "report"),
        (["matplotlib"], "report"),
        (["onnx"], "onnx"),
        (["onnxruntime"], "onnx"),
        (["tf2onnx"], "onnx"),
        (["grpc"], "serving"),
        (["tensorflow_serving"], "serving"),
        (["jinja2", "tf2onnx", "grpc"], "report, onnx, serving"),
    ],
    ids=str,
)
def test_demo_names_all_extras_before_it_trains(
    tmp_path, monkeypatch, packages, extras
):
    monkeypatch.setattr(progress, "run_command", _begin)
    workdir = tmp_path / "demo"
    with pytest.raises(BegunError):
        run("demo", f"--workdir={workdir}")
    hide_packages(monkeypatch, *packages)
    with pytest.raises(UserError, match=f"extras {extras}: ") as error:
        run("demo", f"--workdir={workdir}")
    assert f".[{extras.replace(' ', '')}]" in str(error.value)
    assert not workdir.exists()
