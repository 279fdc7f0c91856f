"""Programs lowered for accelerators: what they take, and that they run."""

import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import cases
from benchmarks.accelerator import (
    lower,
    masked,
    orders,
    prepare,
    rows,
    table,
    values,
)
from benchmarks.train_step import build_step
from nvae_tf.core.errors import UserError
from nvae_tf.runs.workdir import read_tensors
from nvae_tf.training.step_metrics import StepMetrics

pytest.importorskip("jax", reason='JAX is missing: pip install ".[dev]"')

from benchmarks.accelerator import artifact, run
from benchmarks.accelerator.program import Program
from nvae_tf.export.stablehlo import portable

_STEP = "step-tiny-2-float32-bn_swish"
_SAMPLE = "sample-tiny-2-float32"
_CHECK = "check-tiny-2-float32-bn_swish"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a step and a sampler of the tiny case."""
    path = tmp_path_factory.mktemp("accelerator")
    prepare.prepare(path, [_STEP, _SAMPLE])
    return path


@pytest.fixture(scope="module")
def step(folder):
    """The description of the step, and its artifact."""
    return artifact.unpack((folder / f"programs/{_STEP}.program").read_bytes())


@pytest.fixture(scope="module")
def built():
    """The step that is lowered."""
    return build_step(cases.case("tiny"))


@pytest.mark.long
def test_step_takes_its_arguments_and_then_every_variable(step, built):
    inputs = {d["name"]: d for d in step[0]["inputs"]}
    arguments = ["x", "beta", "regularization", "learning_rate", "seed"]
    assert list(inputs)[:5] == arguments
    assert inputs["x"]["shape"] == [2, 8, 8, 1]
    variables = lower.variables_by_name(built.named_variables())
    assert set(list(inputs)[5:]) == set(variables)
    assert len(inputs) == len(step[0]["inputs"])
    for name, variable in variables.items():
        assert inputs[name]["shape"] == variable.shape.as_list()
        assert inputs[name]["dtype"] == variable.dtype.name


@pytest.mark.long
def test_step_returns_its_metrics_and_then_what_it_assigned(step, built):
    description, _ = step
    names = [output["name"] for output in description["outputs"]]
    count = description["results"]
    assert names[:count] == sorted(StepMetrics._fields)
    assigned = set(names[count:])
    assert len(assigned) == len(names) - count
    model = built.model
    trained = {
        name
        for name, variable in model.named_variables("model/").items()
        # Batch normalisation's averages are no weights, but change as well.
        if variable.trainable or name.endswith(("/mean", "/variance"))
    }
    assert trained <= assigned
    assert {"optimizer/m/0", "optimizer/u/0", "training/updates"} <= assigned
    inputs = {d["name"]: d for d in description["inputs"]}
    assert all(inputs[o["name"]] == o for o in description["outputs"][count:])


@pytest.mark.long
def test_sampler_assigns_nothing(folder):
    content = (folder / f"programs/{_SAMPLE}.program").read_bytes()
    description, _ = artifact.unpack(content)
    assert [o["name"] for o in description["outputs"]] == ["mean"]
    assert description["outputs"][0]["shape"] == [2, 8, 8, 1]
    assert description["results"] == 1


@pytest.mark.long
def test_products_are_exact_if_that_is_wanted(step):
    _, module = step
    assert _precisions(module) == {"DEFAULT"}
    changed, _ = artifact.edit(module, exact=True)
    assert _precisions(changed) == {"HIGHEST"}


@pytest.mark.long
def test_loops_tell_their_rounds(step):
    """The gradients' loops end at a counter that a loop has returned."""
    _, module = step
    changed, count = artifact.edit(module, known_rounds=True)
    assert count > 0
    assert artifact.edit(changed, known_rounds=True)[1] == count
    assert len(_loops_from_constants(changed)) > len(
        _loops_from_constants(module)
    )


def _precisions(module: bytes) -> set[str]:
    """Those of the products of float32."""
    found = set()

    def visit(op):
        if op.name.endswith((".convolution", ".dot_general")):
            attributes = op.attributes
            text = (
                str(attributes["precision_config"])
                if "precision_config" in attributes
                else "DEFAULT"
            )
            found.update(
                name for name in ("DEFAULT", "HIGHEST") if name in text
            )

    _visit(module, visit)
    return found


def _loops_from_constants(module: bytes) -> list:
    """The loops, by how many integers they start from are constants."""
    found = []

    def visit(op):
        if op.name == "stablehlo.while":
            constants = [
                operand
                for operand in op.operands
                if str(operand.type) == "tensor<i32>"
                and getattr(operand.owner, "name", "") == "stablehlo.constant"
            ]
            found.extend(constants)

    _visit(module, visit)
    return found


def _visit(module: bytes, visit) -> None:
    from jax._src.interpreters import mlir
    from jaxlib.mlir.dialects import stablehlo

    with mlir.make_ir_context() as context:
        parsed = stablehlo.deserialize_portable_artifact(context, module)
        portable.walk(parsed.operation, visit)


@pytest.mark.long
def test_sampler_is_measured(folder, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    arguments = [f"--folder={folder}", f"--out={out}", "--seconds=0.05"]
    assert run.main([*arguments, "--only=sample"]) == 0
    assert capsys.readouterr().out == out.read_text()
    (row,) = [r for r in rows.read(out) if "label" in r]
    assert row["label"] == _SAMPLE
    assert row["finite"]
    assert row["images_per_second"] == pytest.approx(
        2e3 / row["queued_ms"], rel=0.01, abs=0.1
    )
    assert 0 < row["argument_gb"] <= row["peak_gb"]
    assert 0 < row["last"]["mean"] < 1
    # What was measured is left out.
    run.main([*arguments, "--only=sample", "--rest"])
    assert sum("label" in r for r in rows.read(out)) == 1


@pytest.mark.long
def test_a_program_that_is_not_there_is_a_row_with_an_error(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "folder")
    folder = tmp_path / "folder"
    (folder / "order.txt").write_text(f"{_SAMPLE[:-1]}\n\n{_SAMPLE}\n")
    out = tmp_path / "rows.jsonl"
    run.main([f"--folder={folder}", f"--out={out}", "--seconds=0.05"])
    first, second = [r for r in rows.read(out) if "label" in r]
    assert "FileNotFoundError" in first["error"]
    assert "queued_ms" in second


@pytest.mark.long
def test_nothing_is_begun_after_the_deadline(folder, tmp_path):
    out = tmp_path / "rows.jsonl"
    run.main([f"--folder={folder}", f"--out={out}", "--budget=0"])
    told = rows.read(out)
    assert [r["left"] for r in told if "left" in r]
    assert not any("queued_ms" in r for r in told)


@pytest.mark.long
def test_step_is_that_of_tensorflow(tmp_path):
    """By another compiler, on the same noise, three steps on."""
    prepare.prepare(tmp_path, [_CHECK])
    out = tmp_path / "rows.jsonl"
    run.main([f"--folder={tmp_path}", f"--out={out}", "--seconds=0.05"])
    (row,) = [r for r in rows.read(out) if "label" in r]
    assert row["worst_difference"] < 1e-4
    # All that a step assigns takes the place of what was there.
    arguments = row["argument_gb"]
    assert row["alias_gb"] == pytest.approx(arguments, rel=0.05)


@pytest.mark.long
def test_variables_of_64_bits_are_asked_for(folder):
    import jax

    jax.config.update("jax_enable_x64", False)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        Program(folder / f"programs/{_STEP}.program")


@pytest.mark.parametrize("label", orders.programs(orders.ORDER))
def test_the_usual_programs_are_some(label):
    assert prepare.Spec.parse(label).label == label


@pytest.mark.parametrize(
    "label",
    [
        "step-tiny-2-float32",
        "draw-tiny-2-float32",
        "step-tiny-2-float33-none",
        "sample-tiny-2-float32-masked",
        "step-tiny-2-float32-some",
        "step-huge-2-float32-none",
        "step-tiny-0-float32-none",
    ],
)
def test_a_program_that_is_none_is_refused(label):
    with pytest.raises(UserError):
        prepare.Spec.parse(label)


def test_waves_end_at_empty_lines():
    order = "a # why\n# nothing\nb+tf32\n\n\nc\n"
    assert orders.waves(order) == [["a", "b+tf32"], ["c"]]
    assert orders.programs("a\na+tf32\n\nb+asked+tf32\n") == ["a", "b"]
    with pytest.raises(ValueError, match="fast"):
        orders.split("a+fast")


def test_values_are_those_of_their_description():
    described = {"name": "w", "shape": [40, 50], "dtype": "float32"}
    value = np.random.default_rng(0).normal(3.0, 0.5, [400, 50])
    described["values"] = values.describe(value)
    made = values.make("case", described)
    assert made.shape == (40, 50)
    assert made.dtype == np.float32
    assert made.mean() == pytest.approx(3.0, abs=0.1)
    assert made.std() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(made, values.make("case", described))
    assert (made != values.make("other", described)).any()
    described["values"] = ["unit_rows"]
    norms = np.linalg.norm(values.make("case", described), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    described["values"] = ["levels", 4]
    levels = values.make("case", described) * 3
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-6)
    assert values.describe(np.ones(3)) == ["constant", 1.0]


def _row(label="step-deep-4-float32-bn_swish", **changes) -> dict:
    row = {"label": label, "kind": "step", "case": "deep", "batch_size": 4}
    row |= {"precision": "float32", "recompute": "bn_swish", "operations": 1000}
    row |= {"queued_ms": 20.0, "images_per_second": 200.0, "peak_gb": 1.5}
    row |= {"tflop_per_second": 3.0, "unrolled": False, "masked": False}
    row |= {"trace_seconds": 1.0, "compile_seconds": 9.0, "side_by_side": 2}
    return row | changes


def _peer(**changes) -> dict:
    row = {"what": "step", "case": "deep", "batch_size": 4, "peak_gb": 2.0}
    row |= {"precision": "float32", "queued_seconds": 0.040, "torch": "2.11"}
    return row | {"step_seconds": 0.045} | changes


def test_steps_stand_beside_the_peers_fastest_of_the_same_precision():
    slower = _peer(queued_seconds=0.05, step_seconds=0.05)
    peer = [_peer(), slower, _peer(precision="tf32")]
    (line,) = table.steps([_row()], peer, []).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["deep, 4", "float32", "bn_swish", "20.0"]
    assert cells[-3:] == ["40.0", "0.50", "2.00"]
    rounded = table.steps([_row("step-deep-4-float32-bn_swish+tf32")], [], [])
    assert "tf32" in rounded


def test_the_latest_row_of_a_program_counts():
    text = table.steps([_row(), _row(queued_ms=10.0)], [], [])
    assert " 10.0 " in text
    assert " 20.0 " not in text


def test_variants_are_compared_with_the_usual_program():
    changed = _row(
        "step-deep-4-float32-bn_swish-unrolled", unrolled=True, queued_ms=15.0
    )
    text = table.variants([changed, _row()], [], [])
    assert "unrolled" in text
    assert " 0.75 " in text
    assert table.variants([_row()], [], []) == ""


def test_tables_go_to_their_places(tmp_path):
    page = tmp_path / "page.md"
    places = "\n".join(
        f"<!-- {n} -->\nold\n<!-- /{n} -->" for n in table.TABLES
    )
    page.write_text(f"Before\n{places}\nAfter\n")
    found = tmp_path / "rows.jsonl"
    found.write_text(json.dumps(_row()) + "\n")
    table.main([f"--rows={found}", f"--page={page}"])
    text = page.read_text()
    assert text.startswith("Before")
    assert text.rstrip().endswith("After")
    assert "| deep, 4" in text
    # What there are no rows of stays.
    assert "<!-- samples -->\nold\n" in text
    with pytest.raises(ValueError, match="0 places for nothing"):
        table.put_into(text, "nothing", "")


@pytest.mark.long
@pytest.mark.parametrize("broken", [False, True])
def test_masked_update_stores_what_a_branch_does(broken):
    from nvae_tf.config.schedules import Coefficients

    stored = []
    for masks in (False, True):
        step = build_step(cases.case("tiny"))
        size = step.model.config.padded_size
        channels = step.model.config.image_channels
        x = np.full([2, size, size, channels], 0.5, np.float32)
        if broken:
            x[0] = np.nan

        run = tf.function(
            functools.partial(
                step, x, Coefficients(0.5, 1e-2, 1e-3), seed=[0, 1]
            ),
            autograph=False,
        )
        with masked.by_mask(step if masks else None):
            run = run.get_concrete_function()
        functions = run.graph.as_graph_def().library.function
        kinds = {node.op for f in functions for node in f.node_def}
        assert bool(kinds & {"If", "StatelessIf"}) != masks
        run()
        stored.append(read_tensors(step.named_variables()))
    plain, other = stored
    assert plain.keys() == other.keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)
    assert plain["training/skipped"] == broken
