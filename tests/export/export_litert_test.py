"""LiteRT exports: on the CPU they do what the SavedModel does."""

import json
import math
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.core.errors import ExportError
from nvae_tf.export.parity import Reference, difference
from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.verify import open_export
from tests.support.export_cases import CHECKPOINTS, source, write_run
from tests.support.graph_folders import (
    change_description,
    draw_without_tensorflow,
    replace_file,
)
from tests.support.in_process import run as nvae
from tests.support.shared_exports import saved_model

pytest.importorskip(
    "ai_edge_litert", reason='LiteRT is missing: pip install ".[litert]"'
)

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from nvae_tf.export.litert import export as litert_export
from nvae_tf.export.litert.export import export_litert
from nvae_tf.export.litert.program import Graphs
from nvae_tf.export.litert.runner import LiteRtRunner

_ROWS = 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of the export of "served"."""
    return export_litert(
        source("served"), tmp_path_factory.mktemp("litert") / "x", _ROWS
    )


def test_seeds_draw_the_pictures_of_the_saved_model(exported, tmp_path_factory):
    seeds, graphs = np.arange(20, 23), Graphs(exported)
    temperature = np.full([3, graphs.num_groups], 0.9, np.float32)
    folder = saved_model("served", tmp_path_factory)
    expected = SavedModelRunner(folder).run(
        "sample", {"seed": seeds, "temperature": temperature}
    )
    # Two batches, of which the last is filled up.
    images = graphs.sample(seeds, 0.9)
    assert images.dtype == np.uint8
    assert images.std() > 3
    np.testing.assert_array_equal(images, expected["images"])


@pytest.mark.parametrize(
    "name",
    [
        # Binary, whose images are compared with a number.
        "plain_vae",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("tiny", "mixture_5_bits", "normal", *CHECKPOINTS)
        ),
    ],
)
def test_every_graph_agrees_with_the_live_model(name, tmp_path):
    graphs = ["sample", "decode", "encode", "score", "infer"]
    base = source(name)
    runner = LiteRtRunner(export_litert(base, tmp_path / "x", 3, graphs=graphs))
    assert runner.names == sorted(graphs)
    # Seeds and a temperature that the export did not check itself with.
    reference = Reference(base, (11, 12, 13), temperature=0.9)
    for graph in graphs:
        inputs, expected = reference.ask(graph)
        assert difference(runner.run(graph, inputs), expected, 1e-3) < 1e-4


def test_models_name_what_they_take_and_have_no_operations_of_others(exported):
    for name in Graphs(exported).names:
        described = Graphs(exported).describe(name)
        model = Interpreter(str(exported / f"{name}.tflite"))
        (signature,) = model.get_signature_list().values()
        for side in ("inputs", "outputs"):
            names = {spec["name"] for spec in described[side]}
            assert set(signature[side]) == names
        operations = {o["op_name"] for o in model._get_ops_details()}
        assert "CONV_2D" in operations
        assert not {o for o in operations if "Flex" in o or "CUSTOM" in o}


def test_program_beside_it_draws_without_tensorflow(exported, tmp_path):
    program = exported / "litert_program.py"
    sheet = draw_without_tensorflow(program, exported, tmp_path, num=3, seed=7)
    expected = Graphs(exported).sample(range(7, 10))
    height, width = expected.shape[1:3]
    np.testing.assert_array_equal(sheet[:height, width:], expected[1])
    np.testing.assert_array_equal(sheet[height:, :width], expected[2])


def test_verify_covers_it(tmp_path, capsys):
    run = write_run(tmp_path / "run", "plain_vae")
    folder = tmp_path / "litert"
    options = [f"--workdir={run}", f"--output={folder}"]
    nvae("export litert", *options, "--graphs=sample,decode")
    assert Graphs(folder).batch == 1
    capsys.readouterr()
    assert nvae("verify", str(folder), f"--workdir={run}") == 0
    report = capsys.readouterr().out
    assert "LiteRT of plain_vae, step 9" in report
    assert report.count(" ok") == 2
    with pytest.raises(ExportError, match="exists already"):
        nvae("export litert", *options)


# What others may have made of it


def _with(change):
    """Changes a model and what the export says of it."""
    import flatbuffers

    def damage(folder):
        content = (folder / "sample.tflite").read_bytes()
        model = schema.ModelT.InitFromPackedBuf(content)
        change(model)
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        replace_file(folder, "sample.tflite", bytes(builder.Output()))

    return damage


def _custom(model):
    code = model.operatorCodes[0]
    code.builtinCode = schema.BuiltinOperator.CUSTOM
    code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"FlexReadFile"


def _external(model):
    group, buffer = schema.ExternalBufferGroupT(), schema.ExternalBufferT()
    group.name = b"/etc/passwd"
    model.externalBufferGroups, model.externalBuffers = [group], [buffer]


def _behind(model):
    model.buffers[-1].offset = 4096


def _without_inputs(model):
    for operator in model.subgraphs[0].operators:
        operator.inputs = operator.inputs[:1]


def _cut(folder):
    content = (folder / "sample.tflite").read_bytes()
    replace_file(folder, "sample.tflite", content[:-4000])


def _swapped(folder):
    content = (folder / "decode.tflite").read_bytes()
    replace_file(folder, "sample.tflite", content)


def _described(change):
    return lambda folder: change_description(
        folder, lambda c: change(c["graphs"]["sample"])
    )


def _pipe(folder):
    (folder / "sample.tflite").unlink()
    os.mkfifo(folder / "sample.tflite")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "sample.tflite").write_bytes(b"junk"), "SHA-256"),
        (lambda p: replace_file(p, "sample.tflite", b"junk"), "not a LiteRT"),
        (
            lambda p: replace_file(p, "sample.tflite", 4 * b"\xff" + b"TFL3"),
            "it is damaged",
        ),
        (lambda p: (p / "sample.tflite").unlink(), "sample"),
        (_pipe, "no regular file"),
        (_cut, "not a graph that loads"),
        (_with(_custom), "operations that LiteRT lacks"),
        (_with(_external), "weights lie elsewhere"),
        (_with(_behind), "weights lie elsewhere"),
        (_with(_without_inputs), "not a graph that loads"),
        (_swapped, "other inputs"),
        (_described(lambda g: g["noise"][0].update(kind="x")), "noise"),
        (_described(lambda g: g["noise"][0].update(shape=[2])), "other noise"),
        (_described(lambda g: g["noise"][0].update(shape=[2**40])), "noise"),
    ],
)
def test_damaged_export_is_refused(exported, tmp_path, damage, message):
    path = tmp_path / "x"
    shutil.copytree(exported, path)
    damage(path)
    with pytest.raises(ExportError, match=message) as error:
        open_export(path)
    assert "\n" not in str(error.value)


def test_files_are_changed_by_nothing_but_what_is_refused(exported, tmp_path):
    """Else the changes above would be refused for how they are written."""
    path = tmp_path / "x"
    shutil.copytree(exported, path)
    _with(lambda _: None)(path)
    assert open_export(path).kind == "LiteRT"


def _unknown_operation(function):
    def convert(*inputs):
        outputs = function(*inputs)
        # No operation of LiteRT's.
        digest = tf.raw_ops.Betainc(
            a=outputs["mean"], b=outputs["mean"], x=outputs["mean"]
        )
        return {**outputs, "mean": digest}

    return convert


def test_graph_that_litert_cannot_run_or_hold_is_refused(tmp_path, monkeypatch):
    base, path = source("plain_vae"), tmp_path / "x"
    convert = litert_export._convert
    monkeypatch.setattr(
        litert_export,
        "_convert",
        lambda name, graph: convert(
            name,
            graph._replace(function=_unknown_operation(graph.function)),
        ),
    )
    with pytest.raises(ExportError, match=r"refuses decode.*Betainc") as error:
        export_litert(base, path, graphs=["decode"])
    assert "\n" not in str(error.value)
    monkeypatch.setattr(litert_export, "_MOST_WEIGHT_BYTES", 100)
    with pytest.raises(ExportError, match="less than 2 GB"):
        export_litert(base, path, graphs=["decode"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "must be positive"),
        ({"graphs": ["sampel"]}, "no graph sampel"),
        ({"graphs": []}, "no graph to write"),
        ({"temperature": -1.0}, "finite and not negative"),
        ({"temperature": math.inf}, "finite and not negative"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        export_litert(source("plain_vae"), tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


def test_only_exports_are_replaced(tmp_path):
    run = write_run(tmp_path / "run", "plain_vae")
    before = sorted(run.rglob("*"))
    with pytest.raises(ExportError, match="not a StableHLO or LiteRT export"):
        export_litert(
            source("plain_vae"), run, graphs=["decode"], overwrite=True
        )
    assert sorted(run.rglob("*")) == before
    export = tmp_path / "x"
    export.mkdir()
    described = {"format": "LiteRT", "graphs": {}, "sha256": {}}
    (export / "graphs.json").write_text(json.dumps(described))
    export_litert(
        source("plain_vae"), export, graphs=["decode"], overwrite=True
    )
    assert open_export(export).runner.names == ["decode"]
