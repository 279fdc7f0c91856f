"""Exports of a model that is told classes: each takes them, row by row."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from nvae_tf.authors import reference_export
from nvae_tf.core.errors import (
    CheckpointError,
    ClientError,
)
from nvae_tf.export.onnx import export_onnx
from nvae_tf.export.onnx_runner import ALL_GRAPHS, OnnxRunner
from nvae_tf.export.onnx_sampler import Sampler
from nvae_tf.export.parity import Reference, difference
from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.saved_model import export_saved_model
from nvae_tf.export.served.row_status import OUTPUT, RowStatus
from nvae_tf.export.verify import open_export, verify
from nvae_tf.export.warmup import example_inputs
from nvae_tf.serving.client import Client
from tests.support.export_cases import source
from tests.support.export_servers import Backend, serve_grpc
from tests.support.in_process import run as nvae

pytestmark = pytest.mark.early

_SEEDS = np.arange(20, 25)
_LABELS = [2, 0, 1, 1, 2]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "nvae"
    return export_saved_model(source("classes"), path, warmup_batch_sizes=())


@pytest.fixture(scope="module")
def runner(served):
    return SavedModelRunner(served)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "nvae.onnx"
    export_onnx(source("classes"), path, graphs=["sample"])
    return path


class _Here:
    """A served model that is asked in this process."""

    def __init__(self, runner):
        self._runner = runner
        self.asked = []

    def signatures(self):
        return {
            name: {
                "inputs": self._runner.inputs(name),
                "outputs": self._runner.outputs(name),
            }
            for name in self._runner.names
        }

    def predict(self, signature, inputs, outputs=None):
        self.asked.append(inputs)
        return self._runner.run(signature, inputs)

    def close(self):
        pass


def _draw(runner, seeds, labels):
    groups = source("classes").config.model.num_groups
    return runner.run(
        "sample",
        {
            "seed": np.asarray(seeds),
            "temperature": np.full([len(seeds), groups], 0.7, np.float32),
            "label": np.asarray(labels, np.int32),
        },
    )["images"]


def _assert_same(images, expected):
    assert np.mean(np.abs(images.astype(int) - expected) > 1) < 1e-3


# --- SavedModel -------------------------------------------------------------


def test_every_signature_takes_a_label_and_agrees(served, runner):
    reference = Reference(source("classes"), (11, 12, 13, 14), 0.9)
    for name in runner.names:
        assert runner.inputs(name)["label"] == ("int32", [None])
        inputs, expected = reference.ask(name)
        assert inputs["label"].tolist() == [0, 1, 2, 0]
        assert difference(runner.run(name, inputs), expected, 1e-3) < 1e-4
        other = {**inputs, "label": (inputs["label"] + 1) % 3}
        changed = runner.run(name, other)
        assert any(
            not np.array_equal(changed[key], value)
            for key, value in runner.run(name, inputs).items()
        ), name
    results = verify(open_export(served), source("classes"))
    assert not [result.problem for result in results if result.problem]
    page = (served / "README.md").read_text()
    assert f"| {int(RowStatus.BAD_LABEL)} |" in page


@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1])
def test_row_of_no_class_is_told_of_and_changes_no_other(runner, bad):
    for name in runner.names:
        inputs = example_inputs(runner.inputs(name), 3, (8, 8, 3))
        expected = runner.run(name, inputs)
        inputs["label"][1] = bad
        found = runner.run(name, inputs)
        status = [RowStatus.SERVED, RowStatus.BAD_LABEL, RowStatus.SERVED]
        assert found[OUTPUT].tolist() == status
        for key, value in found.items():
            if key == OUTPUT:
                continue
            np.testing.assert_array_equal(value[::2], expected[key][::2])
            if value.dtype.kind == "f":
                assert np.isnan(value[1]).all()
            else:
                assert not value[1].any() if value.ndim > 1 else not value[1]


# --- ONNX -------------------------------------------------------------------


@pytest.mark.long
def test_onnx_graphs_take_labels_and_agree(tmp_path):
    path = tmp_path / "nvae.onnx"
    export_onnx(source("classes"), path, graphs=ALL_GRAPHS, triton=True)
    runner = OnnxRunner(path, full_check=True)
    assert runner.names == sorted(ALL_GRAPHS)
    reference = Reference(source("classes"), (11, 12, 13, 14), 0.9)
    for name in runner.names:
        assert runner.inputs(name)["label"] == ("int32", [None])
        inputs, expected = reference.ask(name)
        found = runner.run(name, inputs)
        assert difference(found, expected, 1e-3) < 1e-4, name
    results = verify(open_export(path), source("classes"))
    assert not [result.problem for result in results if result.problem]
    assert "TYPE_INT32" in path.with_suffix(".pbtxt").read_text()


@pytest.mark.long
def test_sampler_draws_classes_as_the_server_does(onnx, runner):
    sampler = Sampler(onnx)
    assert sampler.num_classes == 3
    images = sampler.sample(_SEEDS, labels=_LABELS, batch_size=2)
    _assert_same(images, _draw(runner, _SEEDS, _LABELS))
    _assert_same(
        sampler.sample(_SEEDS, labels=1), _draw(runner, _SEEDS, [1] * 5)
    )
    _assert_same(sampler.sample(_SEEDS), _draw(runner, _SEEDS, [0, 1, 2, 0, 1]))


@pytest.mark.long
@pytest.mark.parametrize(
    ("labels", "words"),
    [(3, "0 to 2"), ([0, 1], "one integer, or 5"), (0.5, "one integer")],
)
def test_sampler_refuses_other_labels(onnx, labels, words):
    with pytest.raises(ValueError, match=words):
        Sampler(onnx).sample(_SEEDS, labels=labels)


@pytest.mark.long
def test_program_beside_draws_classes(onnx, runner, tmp_path):
    def draw(*options):
        return subprocess.run(
            [
                sys.executable,
                str(onnx.with_name("onnx_sampler.py")),
                str(onnx),
                "--num=4",
                "--seed=20",
                f"--output={tmp_path}/grid.png",
                *options,
            ],
            capture_output=True,
            text=True,
            check=False,
        )

    done = draw("--labels=2,0,1,1")
    assert done.returncode == 0, done.stderr
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    tiles = sheet.reshape(2, 8, 2, 8, 3).swapaxes(1, 2).reshape(4, 8, 8, 3)
    _assert_same(tiles, _draw(runner, _SEEDS[:4], _LABELS[:4]))
    for options, words in (
        (["--labels=7"], "0 to 2"),
        (["--labels=seven"], "no whole numbers"),
    ):
        done = draw(*options)
        assert done.returncode == 2
        assert words in done.stderr


# --- folders of graphs ------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("kind", ["litert", "stablehlo"])
def test_folders_of_graphs_take_labels_and_agree(tmp_path, kind, runner):
    if kind == "litert":
        pytest.importorskip("ai_edge_litert")
        from nvae_tf.export.litert.export import export_litert as export
        from nvae_tf.export.litert.program import Graphs
    else:
        pytest.importorskip("jax")
        from nvae_tf.export.stablehlo.export import export_stablehlo as export
        from nvae_tf.export.stablehlo.program import Graphs
    path = export(source("classes"), tmp_path / "x", 2, graphs=ALL_GRAPHS)
    graphs = Graphs(path)
    assert graphs.num_classes == 3
    _assert_same(
        graphs.sample(_SEEDS, labels=_LABELS), _draw(runner, _SEEDS, _LABELS)
    )
    _assert_same(graphs.sample(_SEEDS), _draw(runner, _SEEDS, [0, 1, 2, 0, 1]))
    with pytest.raises(ValueError, match="0 to 2"):
        graphs.sample(_SEEDS, labels=3)
    results = verify(open_export(path), source("classes"))
    assert not [result.problem for result in results if result.problem]
    described = json.loads((path / "graphs.json").read_text())
    for classes in (0, -1, "3"):
        changed = json.dumps({**described, "num_classes": classes})
        (path / "graphs.json").write_text(changed)
        with pytest.raises(ValueError, match="classes"):
            Graphs(path)


# --- clients ----------------------------------------------------------------


def test_client_sends_classes(runner):
    predictor = _Here(runner)
    client = Client(predictor, batch_size=2)
    assert client.has_classes
    images = client.sample(_SEEDS, labels=_LABELS)
    np.testing.assert_array_equal(images, _draw(runner, _SEEDS, _LABELS))
    sent = np.concatenate([asked["label"] for asked in predictor.asked])
    assert sent.dtype == np.int32
    assert sorted(sent) == sorted(_LABELS)
    scores = client.score(images, _SEEDS, 1)["nelbo"]
    again = client.score(images, _SEEDS, [1] * 5)["nelbo"]
    np.testing.assert_array_equal(scores, again)
    assert (scores != client.score(images, _SEEDS, 0)["nelbo"]).all()
    assert client.reconstruct(images, _SEEDS, 2).shape == images.shape
    for labels, words in (
        (None, "class of every image"),
        ([0, 1], "5 for one each"),
        (0.5, "integers"),
        (-1, "from 0"),
    ):
        with pytest.raises(ClientError, match=words):
            client.sample(_SEEDS, labels=labels)
    with pytest.raises(ClientError, match="status 7"):
        client.sample(_SEEDS, labels=3)


def test_client_of_another_model_refuses_classes(runner):
    class Untold(_Here):
        def signatures(self):
            found = super().signatures()
            for sides in found.values():
                del sides["inputs"]["label"]
            return found

    client = Client(Untold(runner))
    assert not client.has_classes
    with pytest.raises(ClientError, match="knows no classes"):
        client.sample([1], labels=0)


def test_commands_of_clients_take_classes(served, runner, tmp_path):
    with serve_grpc(Backend(served)) as target:
        options = [f"--target={target}", f"--output={tmp_path}/x.png"]
        nvae("client sample", *options, "--num=4", "--seed=20", "--labels=1")
        sheet = np.asarray(Image.open(tmp_path / "x.png"))
        expected = _draw(runner, _SEEDS[:4], [1] * 4)
        np.testing.assert_array_equal(sheet[:8, :8], expected[0])
        np.testing.assert_array_equal(sheet[-8:, -8:], expected[3])
        with pytest.raises(ClientError, match="class of every image"):
            nvae("client sample", *options, "--num=4")
        nvae(
            "client score",
            f"--target={target}",
            f"--images={tmp_path}/x.png",
            "--labels=2",
        )


# --- what has no place for classes ------------------------------------------


def test_authors_program_has_no_place_for_classes():
    model, config = source("classes").model, source("classes").config
    progress = reference_export.Progress(0, 0)
    with pytest.raises(CheckpointError, match=r"model\.num_classes is 3"):
        reference_export.checkpoint_values(model, config, "cifar10", progress)
