"""`nvae_tf.export.verify`, and the exporting commands as they are typed."""

import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.core.errors import ExportError, UserError
from nvae_tf.export import verify
from nvae_tf.export.onnx import export_onnx
from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.served.row_status import OUTPUT
from nvae_tf.export.source import Source
from nvae_tf.export.verify import open_export
from tests.support.export_cases import source, write_run
from tests.support.in_process import run as nvae
from tests.support.shared_exports import saved_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SavedModel and an ONNX export of the plain VAE."""
    path = tmp_path_factory.mktemp("exports")
    base = source("plain_vae")
    served = saved_model("plain_vae", tmp_path_factory).parent
    shutil.copytree(served, path / "nvae")
    export_onnx(base, path / "nvae.onnx")
    export_onnx(base, path / "fixed.onnx", fixed_batch=2, graphs=["sample"])
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run of the plain VAE."""
    return write_run(tmp_path_factory.mktemp("run"), "plain_vae")


@pytest.mark.parametrize(
    "name",
    [
        "nvae",
        pytest.param("nvae/1", marks=pytest.mark.long),
        "nvae.onnx",
        "fixed.onnx",
    ],
)
def test_sound_exports_pass(folder, run, capsys, name):
    assert nvae("verify", str(folder / name), f"--workdir={run}") == 0
    report = capsys.readouterr().out
    assert "plain_vae, step 7, float32, for temperature 0.7" in report
    rows = report.splitlines()[4:]
    names = open_export(folder / name).runner.names
    assert [row.split()[0] for row in rows] == names
    assert all(row.endswith(" ok") for row in rows)


def test_live_model_is_optional(folder, capsys):
    assert nvae("verify", str(folder / "nvae")) == 0
    assert " - " in capsys.readouterr().out


def test_weights_of_another_run_are_noticed(folder):
    base = source("plain_vae")
    params = tf.nest.map_structure(lambda t: 0.9 * t, base.model.read_params())
    other = Source(base.model, base.config, params=params)
    results = verify.verify(open_export(folder / "nvae.onnx"), other)
    assert all("Differs from the live model" in r.problem for r in results)


def test_other_architecture_is_refused(folder):
    with pytest.raises(ExportError, match="architectures differ"):
        verify.verify(open_export(folder / "nvae"), source("normal"))


class _Faulty:
    """A runner whose outputs are tampered with."""

    def __init__(self, runner, tamper):
        self._runner, self._tamper = runner, tamper
        self.names = ["score"]
        self.inputs, self.outputs = runner.inputs, runner.outputs

    def run(self, name, inputs):
        outputs = self._runner.run(name, inputs)
        # The status is another matter.
        return {
            k: v if k == OUTPUT else self._tamper(v) for k, v in outputs.items()
        }


def _raise(value):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (lambda x: np.full_like(x, np.nan), "not finite"),
        (lambda x: x + len(x), "depends on the rows around"),
        (lambda x: x + np.random.default_rng().random(), "another output"),
        (_raise, "out of memory"),
    ],
)
def test_faults_are_reported(folder, monkeypatch, capsys, tamper, problem):
    runner = _Faulty(SavedModelRunner(folder / "nvae" / "1"), tamper)
    monkeypatch.setattr(verify, "SavedModelRunner", lambda path: runner)
    assert nvae("verify", str(folder / "nvae")) == 1
    assert problem in capsys.readouterr().out


class _Unfair(_Faulty):
    """Serves rows that it should not, or not those that it should."""

    def __init__(self, runner, tamper):
        super().__init__(runner, tamper)
        self.names = ["sample"]

    def run(self, name, inputs):
        return self._tamper(self._runner.run(name, inputs))


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (lambda o: {**o, OUTPUT: o[OUTPUT] | 4}, "in order was not served"),
        (lambda o: {**o, OUTPUT: o[OUTPUT] & 0}, "no sense was served"),
        (
            lambda o: {**o, "images": o["images"] + np.uint8(o[OUTPUT].sum())},
            "changed another",
        ),
    ],
)
def test_unfairness_is_reported(folder, monkeypatch, capsys, tamper, problem):
    runner = _Unfair(SavedModelRunner(folder / "nvae" / "1"), tamper)
    monkeypatch.setattr(verify, "SavedModelRunner", lambda path: runner)
    assert nvae("verify", str(folder / "nvae")) == 1
    assert problem in capsys.readouterr().out


def test_what_is_no_export_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"no model")
    metadata = tmp_path / "damaged"
    metadata.mkdir()
    (metadata / "saved_model.pb").write_bytes(b"no model")
    facts = (folder / "nvae/1/metadata.json").read_bytes()
    (metadata / "metadata.json").write_bytes(facts)
    (tmp_path / "a.onnx").write_bytes(b"no model")
    for name, message in {
        "absent": "There is no export",
        "empty": "neither a SavedModel",
        "broken": "metadata.json",
        "damaged": "not a SavedModel that loads",
        "a.onnx": "not an ONNX file that",
    }.items():
        with pytest.raises(ExportError, match=re.escape(message)):
            nvae("verify", str(tmp_path / name))


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ("export savedmodel", "models/nvae"),
        pytest.param("export onnx", "nvae.onnx", marks=pytest.mark.long),
    ],
)
def test_commands_export_a_run(run, tmp_path, capsys, words, output):
    output = tmp_path / output
    arguments = (f"--workdir={run}", f"--output={output}")
    nvae(words, *arguments, "--temperature=0.5")
    assert "agrees with the live model" in capsys.readouterr().out
    assert nvae("verify", str(output), f"--workdir={run}") == 0
    assert "step 9, float32, for temperature 0.5" in capsys.readouterr().out


def test_command_without_a_run_says_so(tmp_path):
    with pytest.raises(UserError, match="There is no workdir"):
        nvae(
            "export savedmodel",
            f"--workdir={tmp_path / 'absent'}",
            f"--output={tmp_path / 'nvae'}",
        )
    assert not (tmp_path / "nvae").exists()
