"""The benchmarks run; what they come to is not judged here."""

import functools
import json
import os
import pathlib
import re
import sys
import time

import pytest
import tensorflow as tf
from PIL import Image

from benchmarks import (
    cases,
    engines,
    flops,
    graph_work,
    growth,
    machine,
    processes,
    report,
    results,
    roofline,
    sampling,
    scaling,
    targets,
    train_step,
)
from nvae_tf.core.errors import UserError
from nvae_tf.model.nvae import NVAE
from nvae_tf.training import profile_times

pytestmark = pytest.mark.long

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _one_matmul():
    """The rate of the machine is of no interest here."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.partial(machine.matmul_rate, repeats=1)
        patch.setattr(machine, "matmul_rate", once)
        yield


@pytest.fixture(scope="module")
def step():
    """The measurement of the tiny case's step."""
    return train_step.measure("tiny", started=time.time(), seconds=0.05)


def test_result_of_a_step_survives_json(step):
    assert json.loads(json.dumps(step)) == step


def test_start_is_the_sum_of_its_phases(step):
    assert tuple(step["phases"]) == train_step.PHASES
    assert all(seconds >= 0 for seconds in step["phases"].values())
    assert step["start_seconds"] == pytest.approx(sum(step["phases"].values()))


def test_mfu_follows_from_flop_rate_and_images(step):
    flop = 3 * step["forward_flop"] * step["images_per_second"]
    assert step["mfu"] == pytest.approx(flop / step["matmul_flops"])
    assert 0 < step["mfu"] < 1


def test_memory_only_grows(step):
    assert 0 < step["imported_gb"] <= step["traced_gb"] <= step["peak_gb"]


@pytest.fixture(scope="module")
def roofs():
    """The roofline of the tiny case's step."""
    return roofline.measure("tiny")


def test_roofline_knows_the_work_of_next_to_all_operations(roofs):
    assert json.loads(json.dumps(roofs)) == roofs
    assert roofs["known"] > 0.98
    assert roofs["at_once"] > 0
    shares = [family["share"] for family in roofs["families"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert {f["name"] for f in roofs["families"]} <= set(roofline.FAMILIES)


def test_roof_is_the_longer_of_two_times():
    peaks = roofline._Peaks(flop=100.0, bytes=10.0)
    total = roofline._Total()
    total.add(4.0, graph_work.Work(flop=300, bytes=5), peaks)  # 3 s
    total.add(4.0, graph_work.Work(flop=0, bytes=10), peaks)  # 1 s
    total.add(9.0, None, peaks)
    assert total.seconds == 17
    assert total.rates(peaks) == {
        "compute": 300 / 8 / 100,
        "bandwidth": 15 / 8 / 10,
        "roof": (3 + 1) / 8,
    }
    assert roofline._Total().rates(peaks)["roof"] == 0


def test_flop_of_the_step_are_those_of_three_passes():
    """Counted on the graph, with what the model's own count leaves out."""
    case = cases.case("tiny")
    traced = train_step.build_step(case, recompute="none")
    images = tf.zeros([case.batch_size, *case.image_shape])
    graph = train_step.concrete_step(traced, images).graph
    take = train_step.taker(traced, images)
    take(0)
    known = graph_work.GraphWork(graph)
    total = 0
    with train_step.profiled(take, 1) as path:
        for ran in profile_times.operations(path):
            work = known.work(ran.name, ran.kind)
            total += work.flop if work else 0
    model = flops.BACKWARD_FACTOR * flops.forward_flop(traced.model)
    assert 0.7 < total / (case.batch_size * model) < 1.5


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("_MklNativeConv2DBackpropFilterWithBias", "by the kernel"),
        ("_MklNativeConv2DBackpropInput", "by the input"),
        ("_MklNativeDepthwiseConv2dNative", "depthwise"),
        ("_MklNativeFusedConv2D", "convolution"),
        ("_MklBatchMatMulV2", "product of matrices"),
        ("_MklNativeFusedBatchNormGradV3", "batch normalisation"),
        ("Sum", "sums and means"),
        ("ConcatV2", "copies"),
        ("AddV2", "element by element"),
        ("Maximum", "element by element"),
    ],
)
def test_kinds_of_operations_have_their_family(kind, family):
    assert family in roofline.family_of(kind)


@pytest.fixture(scope="module")
def small_graph():
    """A loop with a fused convolution, and what is around it."""

    @tf.function(autograph=False)
    def run(x, kernel, bias, matrix):
        def body(i, x):
            y = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
            return i + 1, y * tf.sigmoid(y)

        _, x = tf.while_loop(lambda i, _: i < 3, body, (0, x), name="loop")
        return tf.linalg.matmul(tf.reshape(x, [2, 64]), matrix, name="end")

    return run.get_concrete_function(
        tf.TensorSpec([2, 4, 4, 4]),
        tf.TensorSpec([3, 3, 4, 4]),
        tf.TensorSpec([4]),
        tf.TensorSpec([64, 5]),
    ).graph


def test_work_follows_from_the_shapes(small_graph):
    known = graph_work.GraphWork(small_graph)
    image = 2 * 4 * 4 * 4
    # As profiles name what TensorFlow puts in line and fuses.
    inside = "loop/body/_7/loop"
    conv = known.work(f"{inside}/BiasAdd", "_MklNativeFusedConv2D")
    assert conv.flop == 2 * image * 3 * 3 * 4
    assert conv.bytes == 4 * (2 * image + 3 * 3 * 4 * 4)
    swish = known.work(f"{inside}/mul", "_MklSwish")
    assert swish == (0, 4 * 2 * image)
    product = known.work(f"{inside}/mul", "Mul")
    assert product == (0, 4 * 3 * image)
    end = known.work("end", "_MklMatMul")
    assert end == (2 * 2 * 64 * 5, 4 * (2 * 64 + 64 * 5 + 2 * 5))
    # A kind that is fused from nothing known.
    assert known.work("end", "_FusedConv2D") is None
    assert known.work("nothing", "Mul") is None
    assert known.work("other/body/_7/mul", "Mul") is None


@pytest.mark.parametrize(
    ("name", "gflop"), [("small", 0.2192), ("deep", 1.379)]
)
def test_flop_of_the_cases_are_the_known_ones(name, gflop):
    model = NVAE(cases.case(name).model, seed=None)
    assert flops.forward_flop(model) / 1e9 == pytest.approx(gflop, rel=3e-4)


def test_flop_are_counted_without_traces_in_the_layers():
    model = NVAE(cases.case("tiny").model)
    assert flops.forward_flop(model) == flops.forward_flop(model)
    model(tf.zeros([1, 8, 8, 1]), seed=tf.constant([0, 0]))


def test_nodes_in_bodies_of_functions_count():
    @tf.function(autograph=False)
    def inner(x):
        return x + x + x

    def count(calls):
        graph = (
            tf.function(lambda x: [inner(x) for _ in range(calls)])
            .get_concrete_function(tf.TensorSpec([]))
            .graph
        )
        return train_step.count_nodes(graph)

    assert count(2) - count(1) == 2  # The call, and its output.
    assert count(1) > 4


def test_cases_can_be_changed():
    case = cases.case("deep", 7, num_groups_per_scale=3)
    assert (case.batch_size, case.model.num_groups) == (7, 3)
    assert case.image_shape == (32, 32, 3)
    assert cases.CASES["deep"].model.num_groups == 30


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no case 'huge'.*small"):
        cases.case("huge")
    with pytest.raises(UserError, match=r"no axis 'depth'.*groups"):
        growth.run(results.Results(tmp_path), ["depth"])


def test_axes_change_what_they_say():
    for axis in growth.AXES.values():
        values = [point.value for point in axis.points]
        assert values == sorted(values)
        for point in axis.points:
            case = cases.case(axis.case, point.batch_size, **point.changes)
            assert point.value in (
                case.batch_size,
                case.model.num_groups,
                case.model.num_channels_enc,
                case.model.image_size,
            )


def test_measured_runs_in_another_process(tmp_path, monkeypatch):
    (tmp_path / "measuring.py").write_text(
        "import os\n"
        "def own_id(started): return {'id': os.getpid()}\n"
        "def die(started): os.kill(os.getpid(), 9)\n"
        "def fail(started): raise ValueError('too small')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert processes.measured("measuring:own_id")["id"] != os.getpid()
    assert "SIGKILL" in processes.measured("measuring:die")["error"]
    error = processes.measured("measuring:fail")["error"]
    assert error == "ValueError: too small"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    sampling.export("tiny", str(folder), started=time.time())
    return folder


@pytest.mark.parametrize("program", sampling.PROGRAMS)
def test_every_program_draws(exported, program):
    result = sampling.draw(
        "tiny", program, str(exported), 3, 0.01, started=time.time()
    )
    assert result["images_per_second"] > 0
    assert result["images_per_gflop"] == pytest.approx(
        result["images_per_second"] / result["matmul_flops"] * 1e9
    )


@pytest.mark.parametrize("engine", ["SavedModel", "ONNX Runtime", "LiteRT"])
def test_engines_draw_with_noise_that_is_given(exported, engine):
    if engine == "LiteRT":
        pytest.importorskip(
            "ai_edge_litert", reason='needs LiteRT: pip install ".[litert]"'
        )
        engines.export("tiny", engine, str(exported), 3, started=time.time())
    result = engines.draw(
        "tiny", engine, str(exported), 3, 0.01, started=time.time()
    )
    assert result["images_per_second"] > 0
    assert re.match(r"\d+\.\d", result["version"])


def test_engines_are_told_as_ratios_and_missing_ones_by_name(
    tmp_path, monkeypatch, capsys
):
    rates = {"SavedModel": iter([4.0, 2.0, 3.0]), "LiteRT": iter([6.0] * 3)}

    def measured(_, *, engine="", **arguments):
        if engine and engine not in rates:
            return {"error": f"no {engine}"}
        rate = next(rates[engine]) if engine else 0
        return {"version": "1.2", "images_per_second": rate}

    monkeypatch.setattr(engines, "measured", measured)
    store = results.Results(tmp_path)
    engines.run(store, "tiny", 2, 0.01, 3, {})
    told = capsys.readouterr().out
    assert re.search(r"LiteRT +\| +1\.2 \| +2\.00 \|", told)
    assert re.search(r"OpenVINO +\| +\| +no OpenVINO \|", told)
    assert list(store.read("engines")) == ["tiny SavedModel", "tiny LiteRT"]


# Writes a record of a step every 10 ms, and ends at SIGTERM.
_FAKE_TRAINING = """
import json, os, sys, time
cores = sorted(os.sched_getaffinity(0))
print("on", cores, flush=True)
with open(sys.argv[1], "w") as file:
    for step in range(1, 2000):
        time.sleep(0.01)
        for kind in ("train", "evaluation"):
            file.write(json.dumps({"step": step, "kind": kind}) + "\\n")
        file.flush()
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"),
    reason="this system keeps no process to its cores",
)
def test_steps_of_a_training_are_timed_on_its_cores(tmp_path):
    core = max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    command = [sys.executable, "-c", _FAKE_TRAINING, str(tmp_path / "records")]
    steps = scaling.timed_steps(command, tmp_path / "records", [core], 0.5)
    assert steps.printed.strip() == f"on [{core}]"
    assert os.sched_getaffinity(0) == before
    assert len(steps.times) > 2
    assert 5 < scaling.images_per_second(steps.times, 1) < 101
    # Before the first few, which are not timed.
    assert 0 < steps.start < 30


def test_rate_is_that_of_the_median_step():
    assert scaling.images_per_second([0.0, 1.0, 3.0, 4.0], 8) == 8


def test_results_are_replaced_by_name(tmp_path):
    store = results.Results(tmp_path / "new")
    assert store.read("growth") == {}
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        store.add("growth", name, {"value": value})
    assert store.read("growth") == {"b": {"value": 2}, "a": {"value": 3}}
    (tmp_path / "new" / "growth.json").write_text("[]")
    with pytest.raises(UserError, match=r"growth\.json"):
        store.read("growth")


def test_targets_are_compared_with_what_was_measured(tmp_path):
    store = results.Results(tmp_path)
    store.add(
        "train_step", "small float32 bn_swish", {"mfu": 0.4, "peak_gb": 2.0}
    )
    store.add("train_step", "deep float32 bn_swish", {"error": "no memory"})
    for value, nodes in ((5, 1000), (60, 1000 + 55 * 400)):
        store.add(
            "growth",
            f"groups {value} float32 bn_swish",
            {"axis": "groups", "value": value, "nodes": nodes},
        )
    lines = {
        cells[1].strip(): [cell.strip() for cell in cells[2:5]]
        for cells in (
            line.split("|") for line in targets.compare(store).splitlines()
        )
    }
    assert lines["MFU, small"] == [">= 33.0%", "40.0%", "yes"]
    assert lines["peak memory, small"] == ["<= 1.00 GB", "2.00 GB", "no"]
    assert lines["MFU, deep"][1:] == ["not measured", ""]
    assert lines["graph nodes per further group"][1:] == ["400.0", "no"]


@pytest.mark.parametrize(
    ("kind", "run", "flop"),
    [
        # A batch of one matrix is multiplied by every one of the other.
        (
            "BatchMatMulV2",
            lambda: tf.linalg.matmul(tf.ones([4, 8]), tf.ones([64, 8, 16])),
            2 * 64 * 4 * 8 * 16,
        ),
        (
            "BatchMatMulV2",
            lambda: tf.linalg.matmul(
                tf.ones([3, 8, 4]), tf.ones([3, 8, 5]), transpose_a=True
            ),
            2 * 3 * 4 * 8 * 5,
        ),
        (
            "Conv2DBackpropFilter",
            lambda: tf.raw_ops.Conv2DBackpropFilter(
                input=tf.ones([2, 8, 8, 3]),
                filter_sizes=[3, 3, 3, 5],
                out_backprop=tf.ones([2, 4, 4, 5]),
                strides=[1, 2, 2, 1],
                padding="SAME",
            ),
            2 * (2 * 4 * 4 * 5) * (3 * 3 * 3),
        ),
        (
            "Conv2DBackpropInput",
            lambda: tf.raw_ops.Conv2DBackpropInput(
                input_sizes=[2, 8, 8, 3],
                filter=tf.ones([3, 3, 3, 5]),
                out_backprop=tf.ones([2, 4, 4, 5]),
                strides=[1, 2, 2, 1],
                padding="SAME",
            ),
            2 * (2 * 4 * 4 * 5) * (3 * 3 * 3),
        ),
        (
            "DepthwiseConv2dNative",
            lambda: tf.nn.depthwise_conv2d(
                tf.ones([2, 8, 8, 3]),
                tf.ones([5, 5, 3, 1]),
                [1, 2, 2, 1],
                "SAME",
            ),
            2 * (2 * 4 * 4 * 3) * (5 * 5),
        ),
        (
            "DepthwiseConv2dNativeBackpropFilter",
            lambda: tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=tf.ones([2, 8, 8, 3]),
                filter_sizes=[5, 5, 3, 1],
                out_backprop=tf.ones([2, 4, 4, 3]),
                strides=[1, 2, 2, 1],
                padding="SAME",
            ),
            2 * (2 * 4 * 4 * 3) * (5 * 5),
        ),
    ],
)
def test_flop_of_each_kind(kind, run, flop):
    graph = tf.function(run, autograph=False).get_concrete_function().graph
    (node,) = (op for op in graph.get_operations() if op.type == kind)
    assert graph_work.GraphWork(graph).work(node.name, kind).flop == flop


@pytest.fixture(scope="module")
def filled(step, roofs, tmp_path_factory):
    """The repository's document, filled with made-up results."""
    folder = tmp_path_factory.mktemp("report")
    store = results.Results(folder / "results")
    store.add("train_step", "small float32 bn_swish", step)
    for axis in ("groups", "channels", "resolution", "batch"):
        for i, value in enumerate((10, 20, 40)):
            store.add(
                "growth",
                f"{axis} {value} float32 bn_swish",
                step | {"axis": axis, "value": value, "nodes": 900 + i},
            )
    for i, program in enumerate(sampling.PROGRAMS):
        store.add(
            "sampling",
            f"small {program}",
            {"images_per_gflop": 2.0 * (i + 1), "peak_gb": 0.5},
        )
    for count in (1, 2):
        store.add(
            "scaling",
            f"small {count}",
            {
                "processes": count,
                "images_per_second": 90.0 + 10 * count,
                "start_seconds": 20.0 + 2 * count,
            },
        )
    for name in ("small step float32", "small SavedModel"):
        store.add(
            "compare_peer",
            name,
            {"ratio": 0.5, "ratios": [0.25, 0.5, 0.75], "peak_ratio": 1.25}
            | ({"start_ratio": 6.0} if " step " in name else {}),
        )
    store.add("roofline", "tiny", roofs)
    store.add("input_pipeline", "MNIST, x", {"images_per_second": 1e6})
    document = folder / "performance.md"
    content = report.blocks(store, document)
    text = (_ROOT / "docs" / "developers" / "performance.md").read_text("utf-8")
    return folder, content, report.fill(text, content)


def test_every_part_of_the_document_is_filled(filled):
    _, content, text = filled
    assert text.count("<!-- begin ") == len(content)
    for part in content.values():
        assert part in text
    assert "| 2 | 1.10 | 55% |" in re.sub(" +", " ", text)
    assert "SavedModel, noise given" in text
    words = re.sub(" +", " ", text)
    assert "| small, float32 | 0.50 | 0.25 to 0.75 | 6.0 | 1.25 |" in words
    assert "| small, SavedModel | 0.50 | 0.25 to 0.75 | 1.25 |" in words
    # Filled again, it stays the same.
    assert report.fill(text, content) == text


def test_plots_are_where_the_document_links_to(filled):
    folder, content, _ = filled
    for axis in ("groups", "channels", "resolution", "batch"):
        link = f"performance/growth_{axis}.png"
        assert f"]({link})" in content[f"growth_{axis}"]
        with Image.open(folder / link) as image:
            assert image.width > 600


def test_document_without_marks_is_refused():
    with pytest.raises(UserError, match="begin start"):
        report.fill("# Performance", {"start": "x"})


def test_parts_without_results_stay(tmp_path):
    assert report.blocks(results.Results(tmp_path), tmp_path / "x.md") == {}
