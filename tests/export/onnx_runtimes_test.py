"""ONNX exports on devices and servers that are somewhere else."""

import os
import pathlib
import re

import numpy as np
import pytest

from nvae_tf.core.errors import ExportError
from nvae_tf.export import onnx_sampler
from nvae_tf.export.onnx import export_onnx
from nvae_tf.export.onnx_runner import OnnxRunner, graph_path
from nvae_tf.export.onnx_sampler import Sampler
from nvae_tf.export.parity import Reference, difference
from tests.support.export_cases import source
from tests.support.node import call, needs_node
from tests.support.web_engine import fetch_engine

_GRAPHS = ["sample", "decode", "encode"]
_IN_NODE = pathlib.Path(__file__).with_name("onnx_in_node.mjs")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "nvae.onnx"
    export_onnx(source("plain_vae"), path, graphs=_GRAPHS)
    return path


def _compare(path, run):
    """Has an engine answer what the live model was asked."""
    reference = Reference(source("plain_vae"), (11, 12, 13), temperature=0.9)
    specs = OnnxRunner(path)
    for name in _GRAPHS:
        asked, expected = reference.ask(name)
        given = {key: asked[key] for key in specs.inputs(name)}
        found = run(graph_path(path, name), given)
        assert set(found) == set(specs.outputs(name))
        assert difference(found, expected, 1e-3) < 1e-4, name


def test_openvino_computes_the_same(path):
    openvino = pytest.importorskip(
        "openvino", reason="needs OpenVINO: pip install openvino"
    )
    core = openvino.Core()

    def run(path, given):
        model = core.compile_model(
            core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        outputs = model(
            {i.get_any_name(): given[i.get_any_name()] for i in model.inputs}
        )
        return {o.get_any_name(): outputs[o] for o in model.outputs}

    _compare(path, run)


def _in_node(engine):
    """Runs graphs with an engine of JavaScript's."""

    def run(path, given):
        inputs = [[key, v.ravel(), v.shape] for key, v in given.items()]
        (outputs,) = call(_IN_NODE, "run", (str(engine), str(path), inputs))
        return {
            name: np.reshape(values, shape) for name, values, shape in outputs
        }

    return run


@needs_node
def test_onnx_runtime_for_node_computes_the_same(path):
    package = os.environ.get("ONNXRUNTIME_NODE", "")
    if not package:
        pytest.skip(
            "needs ONNX Runtime for Node: npm install onnxruntime-node, and "
            "ONNXRUNTIME_NODE=.../node_modules/onnxruntime-node"
        )
    _compare(path, _in_node(pathlib.Path(package) / "dist" / "index.js"))


@needs_node
@pytest.mark.long
def test_onnx_runtime_for_the_web_computes_the_same(path, tmp_path):
    _compare(path, _in_node(fetch_engine(tmp_path) / "ort.wasm.min.mjs"))


class _Session:
    """Of an ONNX Runtime whose devices are somewhere else."""

    asked: list = []

    def __init__(self, _, providers):
        self.asked.extend(providers)

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def get_inputs(self):
        return []


def test_provider_that_was_asked_for_and_is_missing_is_an_error(
    path, monkeypatch, capsys
):
    for asked in (["CUDAExecutionProvider"], [("NoSuchProvider", {})]):
        with pytest.raises(ValueError, match="was asked for and is not there"):
            Sampler(path, asked)
    assert Sampler(path, ["CPUExecutionProvider"]).sample([1]).shape[0] == 1
    arguments = [str(path), "--num=1", "--provider=CUDAExecutionProvider"]
    assert onnx_sampler.main(arguments) == 2
    assert "CUDAExecutionProvider was asked for" in capsys.readouterr().err
    # One that is installed, and finds no device.
    monkeypatch.setattr(
        "onnxruntime.get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr("onnxruntime.InferenceSession", _Session)
    with pytest.raises(ValueError, match="was asked for and is not there"):
        Sampler(path, ["CUDAExecutionProvider"])


def test_products_on_cuda_are_not_rounded_to_tf32(path, monkeypatch):
    monkeypatch.setattr(
        "onnxruntime.get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr("onnxruntime.InferenceSession", _Session)
    cuda = "CUDAExecutionProvider"
    for providers, expected in (
        (None, "0"),
        ([cuda], "0"),
        ([(cuda, {"use_tf32": "1"})], "1"),
    ):
        monkeypatch.setattr(_Session, "asked", [])
        # It takes no noise either.
        with pytest.raises(ValueError, match=r"is not there|other noise"):
            Sampler(path, providers)
        assert _Session.asked[0] == (cuda, {"use_tf32": expected})


_TENSOR = re.compile(
    r'^(input|output) \{ name: "(\w+)" data_type: TYPE_(\w+) '
    r"dims: \[ ([\d, ]+) \]( reshape \{ shape: \[ \] \})? \}$",
    re.M,
)


@pytest.mark.parametrize(
    "fixed_batch", [None, pytest.param(2, marks=pytest.mark.long)]
)
def test_triton_is_told_every_shape(tmp_path, fixed_batch):
    path = tmp_path / "model.v2.onnx"
    export_onnx(
        source("plain_vae"),
        path,
        graphs=["sample", "score"],
        fixed_batch=fixed_batch,
        triton=True,
    )
    runner = OnnxRunner(path)
    for name, stem in (("sample", "model.v2"), ("score", "model.v2_score")):
        text = (tmp_path / f"{stem}.pbtxt").read_text()
        assert f'name: "{stem}"\n' in text
        batch = re.search(r"^max_batch_size: (\d+)$", text, re.M)
        assert (int(batch[1]) > 0) == (fixed_batch is None)
        assert ("dynamic_batching" in text) == (fixed_batch is None)
        told = {"input": {}, "output": {}}
        for side, key, kind, dims, reshape in _TENSOR.findall(text):
            shape = [] if reshape else [int(d) for d in dims.split(",")]
            dtype = {"FP32": "float32", "UINT8": "uint8"}[kind]
            rows = [None] if fixed_batch is None else []
            told[side][key] = (dtype, rows + shape)
        assert told == {
            "input": runner.inputs(name),
            "output": runner.outputs(name),
        }
    (tmp_path / "other.pbtxt").write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        export_onnx(
            source("plain_vae"),
            tmp_path / "other.onnx",
            graphs=["sample"],
            triton=True,
        )
    assert (tmp_path / "other.pbtxt").read_text() == "mine"
