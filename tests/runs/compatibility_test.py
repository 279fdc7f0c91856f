"""What earlier versions wrote is read, drawn from, trained and verified.

`tests/data/runs` holds a small run of every released layout, with all that
came of it; `make_archive.py` there says how it was made.
"""

import hashlib
import json
import pathlib
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from nvae_tf.authors import reference_import
from nvae_tf.config import config_from_dict
from nvae_tf.core.errors import CheckpointError, ExportError, UserError
from nvae_tf.datasets import pipeline
from nvae_tf.distribute.devices import open_devices
from nvae_tf.export import verify
from nvae_tf.export.source import load_source
from nvae_tf.report.records import read_history, read_result
from nvae_tf.runs.workdir import Workdir, load_model
from nvae_tf.training import trainer
from nvae_tf.training.run_state import RunState
from tests.support.in_process import run

pytestmark = pytest.mark.long

_FOLDER = pathlib.Path(__file__).parents[1] / "data" / "runs"
_ARCHIVES = sorted(_FOLDER.glob("*.tar.xz"))


def test_there_is_a_run_of_the_first_release():
    assert "0.1.tar.xz" in [path.name for path in _ARCHIVES]


@pytest.fixture(scope="module", params=_ARCHIVES, ids=lambda p: p.name)
def old(request, tmp_path_factory):
    """The folder of an archive's content; to be left as it is."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _pictures(folder):
    paths = sorted(folder.glob("*.png"))
    assert len(paths) == 4
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def _off(a, b):
    """By how many levels pixels differ."""
    return np.abs(a.astype(int) - b.astype(int))


def test_configuration_and_checkpoint_are_read(old):
    _, config, info = load_model(old / "run", ema=False)
    assert config.name == "tiny"
    assert config.data.source == "mnist_5k"
    assert info["step"] == 18
    state = json.loads(
        (old / "run/checkpoints/00000018/state.json").read_text()
    )["state"]
    assert info["nelbo"] == state["evaluation"]["nelbo"]
    best = load_model(old / "run", checkpoint="best", ema=False)[2]
    assert best["step"] == 18


def test_same_seeds_draw_the_same_images(old, tmp_path):
    options = [f"--workdir={old / 'run'}", "--num=4", "--temperature=0.7"]
    run(
        "sample",
        *options,
        "--noema",
        "--pixels=mean",
        f"--output={tmp_path}/mean/",
    )
    off = _off(_pictures(tmp_path / "mean"), _pictures(old / "samples"))
    assert off.max() <= 1
    # A folder that was begun then is gone on with now.
    folder = tmp_path / "ema"
    shutil.copytree(old / "samples_ema", folder)
    for number in (1, 3):
        (folder / f"{number:08d}.png").unlink()
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    options += ["--ema", "--pixels=sample"]
    run("sample", *options, f"--output={folder}/")
    off = _off(_pictures(folder), _pictures(old / "samples_ema"))
    # Rounding may choose another part of the mixture, for a pixel or two.
    assert np.mean(off[[1, 3]] > 1) < 0.01
    assert {path: path.read_bytes() for path in kept} == kept


def test_images_of_the_run_have_the_same_latents(old, tmp_path):
    run(
        "encode",
        f"--workdir={old / 'run'}",
        "--noema",
        "--indices=0,1,2",
        f"--output={tmp_path}/latents.npz",
    )
    with np.load(tmp_path / "latents.npz") as now:
        with np.load(old / "latents.npz") as then:
            assert set(then) <= set(now)
            for name in then:
                if then[name].dtype.kind == "f":
                    np.testing.assert_allclose(
                        now[name], then[name], rtol=1e-3, atol=1e-4
                    )
                else:
                    np.testing.assert_array_equal(now[name], then[name])


def test_training_goes_on_as_it_would_have(old, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(old / "run", workdir)
    before = (workdir / "metrics.jsonl").read_bytes()
    values = json.loads((workdir / "config.json").read_text())
    values["train"] |= {"epochs": 3, "log_every": 1}
    values["evaluation"] |= {
        "final_importance_samples": 2,
        "image_temperatures": (),
    }
    trainer.train(config_from_dict(values), workdir)
    assert Workdir(workdir).checkpoints().steps()[-1] == 27
    after = (workdir / "metrics.jsonl").read_bytes()
    assert after.startswith(before)
    (tmp_path / "continued.jsonl").write_bytes(after[len(before) :])
    now = read_history(tmp_path / "continued.jsonl")
    then = read_history(old / "continued.jsonl")
    for kind in ("train", "evaluations"):
        records = getattr(then, kind)
        assert [r["step"] for r in getattr(now, kind)] == [
            r["step"] for r in records
        ]
        for name in ("nelbo", "kl", "reconstruction_nll"):
            np.testing.assert_allclose(
                now.series(name, kind).values,
                then.series(name, kind).values,
                rtol=1e-3,
                err_msg=name,
            )
    # The same batches, noise and schedules, not any others.
    np.testing.assert_allclose(
        now.series("learning_rate").values,
        then.series("learning_rate").values,
    )
    assert now.averaged


def test_records_of_commands_are_read(old):
    history = read_history(old / "run" / "metrics.jsonl")
    assert history.last_step == 18
    assert [r["step"] for r in history.evaluations] == [9, 18]
    result = read_result(old / "run" / "evaluation.json")
    assert (result["step"], result["num_images"]) == (18, 64)
    lines = (old / "run" / "evaluation.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["nelbo"] == result["nelbo"]


@pytest.mark.parametrize(
    "name", ["served", "onnx/nvae.onnx", "onnx/nvae_score.onnx"]
)
def test_exports_verify_against_the_run(old, capsys, name):
    status = run("verify", str(old / name), f"--workdir={old / 'run'}")
    assert status == 0, capsys.readouterr().out


def test_authors_format_has_the_weights_of_the_run(old):
    read = reference_import.read(old / "authors.pt")
    assert (read.epoch, read.global_step) == (2, 18)
    model, _ = reference_import.load(old / "authors.pt")
    saved = Workdir(old / "run").checkpoints().restore_latest().tensors
    for name, variable in model.named_variables("model/").items():
        np.testing.assert_array_equal(variable, saved[name], err_msg=name)


def test_prepared_images_are_the_same(old):
    values = json.loads((old / "run" / "config.json").read_text())
    values["data"] = {
        "source": "tfrecord",
        "path": str(old / "prepared"),
        "resize": "crop",
    }
    config = config_from_dict(values)
    digest = hashlib.sha256()
    counts = []
    for split in ("train", "validation"):
        source = pipeline.open_source(config, split)
        counts.append(len(source))
        for number in range(len(source)):
            digest.update(np.ascontiguousarray(source[number]))
    assert counts == [7, 5]
    expected = (old / "prepared.sha256").read_text().strip()
    assert digest.hexdigest() == expected


# --- altered files -----------------------------------------------------------


@pytest.fixture(scope="module")
def altered(old, tmp_path_factory):
    """A copy of the run, and a state to restore from it."""
    workdir = tmp_path_factory.mktemp("altered") / "run"
    shutil.copytree(old / "run", workdir)
    folder = Workdir(workdir)
    config = folder.read_config()
    return workdir, RunState(config, folder, open_devices(), 9)


@pytest.fixture
def write_state(altered):
    """Changes the state of the checkpoint, checksums and all if need be."""
    path = altered[0] / "checkpoints" / "00000018" / "state.json"
    before = path.read_bytes()

    def write(change, consistent):
        content = json.loads(before)
        change(content["state"])
        if consistent:
            text = json.dumps(content["state"], sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            content["state_sha256"] = digest
        path.write_text(json.dumps(content))

    yield write
    path.write_bytes(before)


_CHANGES = {
    "seed": lambda state: state.update(seed=1),
    "steps_per_epoch": lambda state: state.update(steps_per_epoch=8),
    "position": lambda state: state.update(position=[1, 0]),
    "model": lambda state: state["model"].update(num_cells_enc=2),
    "no position": lambda state: state.pop("position"),
    "metrics_offset": lambda state: state.update(metrics_offset=-7075),
    "no metrics_offset": lambda state: state.update(metrics_offset="7075"),
    "images_per_step": lambda state: state.update(images_per_step="2"),
    "evaluation": lambda state: state.update(evaluation=[1]),
    "no evaluation_due": lambda state: state.update(evaluation_due=None),
    "rollbacks": lambda state: state.update(rollbacks=[{"failed_at": 1}]),
    "no rollbacks": lambda state: state.update(rollbacks=7),
}


@pytest.mark.parametrize("name", _CHANGES)
def test_state_that_was_altered_is_refused(altered, write_state, name):
    _, state = altered
    write_state(_CHANGES[name], consistent=False)
    with pytest.raises(CheckpointError, match="damaged: a checksum is wrong"):
        load_model(altered[0])
    write_state(_CHANGES[name], consistent=True)
    key = name.removeprefix("no ")
    with pytest.raises(UserError, match=rf"{altered[0]}.*\b{key}\b"):
        state.restore()


def test_state_that_was_not_altered_is_taken(altered, write_state):
    write_state(lambda state: None, consistent=True)
    assert altered[1].restore().step == 18


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_arrays_that_were_altered_are_refused(altered, share):
    path = altered[0] / "checkpoints" / "00000018" / "tensors.safetensors"
    before = path.read_bytes()
    content = bytearray(before)
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)
    try:
        with pytest.raises(CheckpointError, match="a checksum is wrong"):
            load_model(altered[0])
    finally:
        path.write_bytes(before)


def test_configuration_of_another_model_is_refused(old, tmp_path):
    shutil.copytree(old / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    values["model"]["num_flow_pairs"] = 0
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="another configuration"):
        load_model(tmp_path / "run")


def test_export_of_another_model_is_refused(old, tmp_path):
    shutil.copytree(old / "served" / "1", tmp_path / "1")
    path = tmp_path / "1" / "metadata.json"
    facts = json.loads(path.read_text())
    facts["config"]["model"]["num_flow_pairs"] = 0
    path.write_text(json.dumps(facts))
    source = load_source(old / "run")
    with pytest.raises(ExportError, match="not an export of this workdir"):
        verify.verify(verify.open_export(tmp_path / "1"), source)
