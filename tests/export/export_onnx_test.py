"""ONNX exports, and the sampler that goes with them."""

import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
import tensorflow as tf
from PIL import Image

from nvae_tf.core.errors import ExportError
from nvae_tf.export import onnx as onnx_export
from nvae_tf.export import onnx_convert, onnx_sampler
from nvae_tf.export.onnx import export_onnx
from nvae_tf.export.onnx_runner import GRAPHS, OnnxRunner, graph_path
from nvae_tf.export.onnx_sampler import Sampler
from nvae_tf.export.parity import Reference, difference
from nvae_tf.export.runners import SavedModelRunner
from tests.support.export_cases import REFERENCE, each_model, source
from tests.support.shared_exports import saved_model

pytestmark = pytest.mark.early


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The path of a case's export, written when first asked for."""
    folder = tmp_path_factory.mktemp("onnx")

    def get(name: str) -> pathlib.Path:
        path = folder / name / "nvae.onnx"
        if not path.exists():
            export_onnx(source(name), path)
        return path

    return get


def _ask(runner, reference, name):
    inputs, expected = reference.ask(name)
    return runner.run(name, inputs), expected


@each_model
def test_every_graph_agrees_with_the_live_model(exported, name):
    # Seeds and a temperature that the export did not check itself with.
    reference = Reference(source(name), (11, 12, 13), temperature=0.9)
    runner = OnnxRunner(exported(name), full_check=True)
    assert runner.names == sorted(GRAPHS)
    for graph in GRAPHS:
        outputs, expected = _ask(runner, reference, graph)
        assert difference(outputs, expected, 1e-3) < 1e-4, graph


@pytest.mark.long
def test_results_agree_with_the_authors_program(tmp_path):
    name = "bernoulli_two_scales"
    stored = np.load(REFERENCE / f"{name}.npz")
    config = source(name).config.model
    path = tmp_path / "nvae.onnx"
    export_onnx(source(name), path, graphs=["sample", "score"])
    runner = OnnxRunner(path)
    eps = {
        f"eps_{i}": stored[f"eps/{i:02d}"].transpose(0, 2, 3, 1)
        for i in range(config.num_groups)
    }
    x = stored["x"].transpose(0, 2, 3, 1)
    inside = slice(config.padding, config.padding + config.image_size)
    images = np.rint(255 * x[:, inside, inside]).astype(np.uint8)
    scores = runner.run("score", {**eps, "images": images})
    kl = stored["eval/kl_per_group"]
    np.testing.assert_allclose(scores["kl_per_group"], kl, rtol=1e-4)
    np.testing.assert_allclose(
        scores["nelbo"],
        stored["eval/reconstruction_nll"] + kl.sum(axis=1),
        rtol=1e-4,
    )


def test_seed_draws_the_same_image_in_both_formats(exported, tmp_path_factory):
    seeds, temperature = np.arange(5), np.linspace(0.2, 1, 5)
    groups = source("served").config.model.num_groups
    each = np.repeat(temperature[:, None], groups, 1)
    runner = SavedModelRunner(saved_model("served", tmp_path_factory))
    given = {"seed": seeds, "temperature": each.astype(np.float32)}
    expected = runner.run("sample", given)["images"]
    actual = Sampler(exported("served")).sample(seeds, temperature[:, None])
    assert np.mean(np.abs(actual.astype(int) - expected) > 1) < 1e-3


def test_row_is_the_same_in_any_batch(exported):
    sampler = Sampler(exported("served"))
    images = sampler.sample(range(10), 0.7, batch_size=4)
    alone = sampler.sample([7], 0.7)
    backwards = sampler.sample(range(9, -1, -1), 0.7, batch_size=10)[::-1]
    for other in (images[7:8] - 0, backwards[7:8]):
        assert np.abs(alone.astype(int) - other).max() <= 1


def test_temperature_may_differ_per_row_and_group(exported):
    sampler = Sampler(exported("served"))
    whole = sampler.sample([1, 2], [[0.5], [0.8]], output="mean")
    each = np.repeat([[0.5], [0.8]], sampler.num_groups, axis=1)
    np.testing.assert_array_equal(
        sampler.sample([1, 2], each, output="mean"), whole
    )
    assert not np.allclose(sampler.sample([1, 2], 1.0, output="mean"), whole)


def test_one_axis_of_temperatures_is_of_groups_however_many_seeds(exported):
    sampler = Sampler(exported("served"))
    groups = sampler.num_groups
    t = np.linspace(0.2, 1, groups)
    drawn = sampler.sample(range(groups), t, output="mean")
    each = sampler.sample(range(groups), np.tile(t, [groups, 1]), output="mean")
    np.testing.assert_array_equal(drawn, each)
    by_image = sampler.sample(range(groups), t[:, None], output="mean")
    assert not np.allclose(by_image, drawn, atol=1e-3)


@pytest.mark.parametrize(
    "temperature", [[0.5] * 2, [0.5] * 3, [[0.5]] * 3, -1.0, float("nan")]
)
def test_wrong_temperature_is_refused(exported, temperature):
    # One group, two seeds.
    with pytest.raises(ValueError, match="temperature must be"):
        Sampler(exported("plain_vae")).sample([1, 2], temperature)


def test_float_and_uint8_images_are_the_same_draw(exported):
    sampler = Sampler(exported("served"))
    images = sampler.sample([1, 2], 0.7)
    floats = sampler.sample([1, 2], 0.7, output="images_float")
    assert images.dtype == np.uint8
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(np.rint(255 * floats), images)


def test_files_are_self_describing(exported):
    model = onnx.load(exported("served"))
    properties = {p.key: p.value for p in model.metadata_props}
    facts = json.loads(properties["nvae_facts"])
    assert facts["temperature"] == 0.7
    assert facts["step"] == 7
    assert properties["nvae_graph"] == "sample"
    batches = {
        tensor.type.tensor_type.shape.dim[0].dim_param
        for tensor in [*model.graph.input, *model.graph.output]
    }
    assert batches == {"batch"}
    noise = json.loads(properties["nvae_noise"])
    inputs = [tensor.name for tensor in model.graph.input]
    assert inputs == [spec["name"] for spec in noise] + ["temperature"]


def test_weights_are_plain_convolutions_constants(exported):
    graph = onnx.load(exported("served")).graph
    constants = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions
    assert all(node.input[1] in constants for node in convolutions)
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"Loop", "Scan", "If", "BatchNormalization"}


@pytest.mark.long
@pytest.mark.parametrize("opset", [13, 18])
def test_other_opsets_agree(tmp_path, opset):
    path = tmp_path / "nvae.onnx"
    export_onnx(source("mixture_5_bits"), path, opset=opset)
    assert onnx.load(path).opset_import[0].version == opset


def test_fixed_batch_is_fixed_and_filled_up(tmp_path, exported):
    path = tmp_path / "nvae.onnx"
    export_onnx(source("plain_vae"), path, fixed_batch=3)
    shape = OnnxRunner(path).inputs("sample")["temperature"][1]
    assert shape == [3, 1]
    images = Sampler(path).sample(range(5), 0.7)
    expected = Sampler(exported("plain_vae")).sample(range(5), 0.7)
    assert np.abs(images.astype(int) - expected).max() <= 1


@pytest.mark.long
def test_half_precision_stays_near_and_halves_the_weights(tmp_path, exported):
    path = tmp_path / "nvae.onnx"
    export_onnx(source("tiny"), path, fp16=True, graphs=["decode", "score"])
    runner = OnnxRunner(graph_path(path, "decode"))
    reference = Reference(source("tiny"))
    outputs, expected = _ask(runner, reference, "decode")
    assert 0 < difference(outputs, expected, 0) < 1e-2

    def size(path):
        return sum(len(t.raw_data) for t in onnx.load(path).graph.initializer)

    single = size(graph_path(exported("tiny"), "decode"))
    assert size(graph_path(path, "decode")) < 0.6 * single


def test_large_weights_go_to_a_file_beside_the_graph(tmp_path, exported):
    path = tmp_path / "a" / "nvae.onnx"
    export_onnx(
        source("served"), path, graphs=["sample"], max_inline_bytes=1000
    )
    moved = tmp_path / "b"
    path.parent.rename(moved)
    assert (moved / "nvae.onnx.data").stat().st_size > 1000
    expected = Sampler(exported("served")).sample([1, 2], 0.7)
    np.testing.assert_array_equal(
        Sampler(moved / "nvae.onnx").sample([1, 2], 0.7), expected
    )


def _copied_module(path):
    spec = importlib.util.spec_from_file_location("copied", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_copied_sampler_is_a_module_of_its_own(exported):
    path = exported("served")
    module = _copied_module(path.with_name("onnx_sampler.py"))
    np.testing.assert_array_equal(
        module.Sampler(path).sample([3], 0.7),
        Sampler(path).sample([3], 0.7),
    )


def test_copied_sampler_needs_no_tensorflow(exported, tmp_path):
    path = exported("served")
    program = tmp_path / "run.py"
    program.write_text(
        "import runpy, sys\n"
        "for name in ('tensorflow', 'keras', 'onnx', 'export', 'nvae_tf'):\n"
        "    sys.modules[name] = None\n"
        "del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    copy = path.with_name("onnx_sampler.py")
    done = subprocess.run(
        [sys.executable, program, copy, path, "--num=5", "--output=grid.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "grid.png").exists()


def test_sampler_command_writes_a_grid(exported, tmp_path, capsys):
    path, output = exported("served"), tmp_path / "grid.png"
    arguments = [str(path), "--num=5", "--seed=2", f"--output={output}"]
    assert onnx_sampler.main(arguments) == 0
    with Image.open(output) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (16, 24, 3)
    expected = Sampler(path).sample([4], 0.7)[0]
    np.testing.assert_array_equal(pixels[:8, 16:], expected)
    assert "Wrote 5 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.onnx"], "it does not exist"),
        (["nvae.onnx", "--num=10001"], "at most 10000"),
        (["nvae.onnx", "--batch_size=99999999999"], "at most 10000"),
        (
            ["nvae.onnx", "--num=2", f"--seed={2**63 - 1}"],
            "integers of 64 bits",
        ),
        (["nvae.onnx", "--temperature=nan"], "must be finite"),
        (["nvae.onnx", "--num=0"], "must be positive"),
        (["nvae_decode.onnx"], "is not an exported NVAE sampler"),
        (["onnx_sampler.py"], "is not an ONNX file that can be used"),
    ],
)
def test_sampler_command_explains_mistakes(
    exported, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(exported("plain_vae").parent)
    assert onnx_sampler.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opset": 12}, "must be 13 to 18"),
        ({"fixed_batch": 0}, "must be positive"),
        ({"graphs": ["sampel"]}, "no graph sampel"),
        ({"graphs": []}, "no graph"),
        ({"temperature": -1.0}, "finite and not negative"),
        ({"temperature": math.nan}, "finite and not negative"),
        ({"temperature": 1e39}, "finite and not negative"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, changes, message):
    with pytest.raises(ExportError, match=message):
        export_onnx(source("plain_vae"), tmp_path / "nvae.onnx", **changes)
    assert not list(tmp_path.iterdir())


def test_output_must_be_an_onnx_file(tmp_path):
    with pytest.raises(ExportError, match=r"must end in \.onnx"):
        export_onnx(source("plain_vae"), tmp_path / "nvae")


def test_existing_file_is_refused_or_replaced(tmp_path):
    path = tmp_path / "nvae.onnx"
    path.write_text("precious")
    with pytest.raises(ExportError, match="exists already"):
        export_onnx(source("plain_vae"), path)
    assert path.read_text() == "precious"
    export_onnx(source("plain_vae"), path, overwrite=True, graphs=["sample"])
    assert Sampler(path).sample([1]).shape == (1, 8, 8, 1)


def test_graphs_that_are_not_written_again_go_with_those_replaced(tmp_path):
    path = tmp_path / "nvae.onnx"
    options = {"graphs": ["sample", "decode"], "max_inline_bytes": 1000}
    export_onnx(source("plain_vae"), path, triton=True, **options)
    for name in ("nvae_encode.onnx", "nvae_score.onnx.data"):
        (tmp_path / name).write_text("precious")
    export_onnx(source("plain_vae"), path, graphs=["sample"], overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "nvae.onnx",
        "nvae.pbtxt",
        "nvae_encode.onnx",
        "nvae_score.onnx.data",
        "onnx_sampler.py",
    ]
    (tmp_path / "nvae_encode.onnx").unlink()
    assert OnnxRunner(path).names == ["sample"]


def test_graphs_beside_a_new_one_stay(tmp_path):
    path = tmp_path / "nvae.onnx"
    for name in ("decode", "sample"):
        export_onnx(source("plain_vae"), path, graphs=[name])
    assert OnnxRunner(path).names == ["decode", "sample"]


def test_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise ExportError("differs")

    monkeypatch.setattr(onnx_export, "check", fail)
    with pytest.raises(ExportError, match="differs"):
        export_onnx(source("plain_vae"), tmp_path / "nvae.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [b"precious", None], ids=["foreign", "folder"]
)
def test_foreign_sampler_is_refused_before_anything_is_done(
    tmp_path, monkeypatch, content
):
    sampler = tmp_path / "onnx_sampler.py"
    if content is None:
        sampler.mkdir()
    else:
        sampler.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "OnnxGraphs", None)
        with pytest.raises(ExportError, match=r"onnx_sampler\.py exists"):
            export_onnx(
                source("plain_vae"), tmp_path / "nvae.onnx", graphs=["sample"]
            )
    assert list(tmp_path.iterdir()) == [sampler]
    if content is not None:
        assert sampler.read_bytes() == content


def test_foreign_sampler_is_replaced_on_request_and_ours_stays(tmp_path):
    sampler = tmp_path / "onnx_sampler.py"
    sampler.write_text("precious")
    options = {"graphs": ["sample"]}
    model = source("plain_vae")
    export_onnx(model, tmp_path / "a.onnx", overwrite=True, **options)
    ours = sampler.read_bytes()
    assert b"class Sampler" in ours
    # Beside another export of the same program.
    export_onnx(model, tmp_path / "b.onnx", **options)
    assert sampler.read_bytes() == ours
    for name in ("a.onnx", "b.onnx"):
        assert Sampler(tmp_path / name).sample([1]).shape == (1, 8, 8, 1)


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="not an ONNX file that can be used"):
        OnnxRunner(tmp_path / "a.onnx")
    identity = onnx.helper.make_node("Identity", ["x"], ["y"])
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
        for name in "xy"
    ]
    graph = onnx.helper.make_graph([identity], "g", tensors[:1], tensors[1:])
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(ExportError, match="not an export of nvae_tf"):
        OnnxRunner(tmp_path / "b.onnx")


def test_constant_folding_keeps_outputs_that_are_constants():
    specs = [tf.TensorSpec([None, 2], name="x")]

    def function(inputs, weights):
        doubled = 2 * weights["w"]
        return {
            "sum": inputs[0] * 1.0 + doubled,
            "same": tf.identity(inputs[0]) + 0.0,
        }

    model = onnx_convert.convert(
        function,
        specs,
        {"w": np.float32([1, 2])},
        opset=17,
        metadata={"key": "value"},
    )
    from onnxruntime import InferenceSession

    session = InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.float32([[1, 1], [0, 5]])
    results = dict(
        zip(
            ["sum", "same"], session.run(["sum", "same"], {"x": x}), strict=True
        )
    )
    np.testing.assert_array_equal(results["sum"], x + [2, 4])
    np.testing.assert_array_equal(results["same"], x)
    assert [i.name for i in session.get_inputs()] == ["x"]
