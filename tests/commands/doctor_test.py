"""`nvae doctor` finds what is wrong with a machine, and says what to do."""

import importlib.metadata
import json
import os
import pathlib
import re
import sys
import tomllib

import pytest

from nvae_tf.core import extras
from nvae_tf.distribute import machine
from tests.support.in_process import run


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a fake nvidia-smi on the path, before any other."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")

    def write(body):
        path = folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return write


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No other nvidia-smi, and an empty folder for data."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))


def _doctor(capsys, *flags):
    status = run("doctor", "--nostep", "--json", *flags)
    report = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in report["checks"]}
    problems = [k for k, c in checks.items() if c["status"] == "problem"]
    assert report["problems"] == problems
    assert status == int(bool(problems))
    return checks


def test_page_fits_a_screen_and_names_what_is_there(alone, tmp_path, capsys):
    assert run("doctor", "--nostep") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    # A path is not taken apart.
    assert all(len(x) <= 80 for x in lines if str(tmp_path) not in x)
    text = "\n".join(lines)
    for name in ("tensorflow", "keras", "numpy"):
        assert f"{name} {importlib.metadata.version(name)}" in text
    assert "CPU:0" in text
    assert lines[-1] == "This machine can train."


def test_gpus_that_only_the_driver_sees_are_a_problem(program, capsys):
    program('echo "81559, NVIDIA H100"; echo "81559, NVIDIA H100"')
    check = _doctor(capsys)["GPUs"]
    assert check["status"] == "problem"
    version = importlib.metadata.version("tensorflow")
    assert f'"tensorflow[and-cuda]=={version}"' in check["text"]
    assert "2 (NVIDIA H100)" in check["text"]
    assert check["facts"]["driver"][0]["memory"] == 81559 * 2**20
    assert run("doctor", "--nostep") == 1
    assert "To be mended: GPUs." in capsys.readouterr().out


@pytest.mark.parametrize("value", ["", "-1"])
def test_gpus_that_the_environment_hides_are_no_problem(
    program, monkeypatch, capsys, value
):
    program('echo "81559, NVIDIA H100"')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    check = _doctor(capsys)["GPUs"]
    assert check["status"] == "note"
    assert f"CUDA_VISIBLE_DEVICES={value!r}" in check["text"]


def test_driver_that_fails_is_quoted(program, capsys):
    program("echo 'Driver/library version mismatch'; exit 18")
    check = _doctor(capsys)["GPUs"]
    assert check["status"] == "problem"
    assert "Driver/library version mismatch" in check["text"]


def test_without_a_driver_there_is_nothing_to_mend(alone, capsys):
    assert _doctor(capsys)["GPUs"]["status"] == "ok"


@pytest.mark.parametrize("output", ["", "what, ever", "[N/A], GPU", "\\377"])
def test_odd_answers_of_a_driver_do_no_harm(program, capsys, output):
    program(f"printf '{output}'")
    _doctor(capsys)
    assert all(gpu.memory is None for gpu in machine.driver_gpus())


def test_driver_that_hangs_is_given_up(program, monkeypatch):
    program("exec sleep 60")
    monkeypatch.setattr(machine, "_PATIENCE_SECONDS", 0.2)
    with pytest.raises(OSError, match="no answer"):
        machine.driver_gpus()


def test_data_is_looked_for_where_tfds_does(alone, tmp_path, capsys):
    check = _doctor(capsys)["Data"]
    assert check["status"] == "note"
    assert str(tmp_path / "data") in check["text"]
    version = tmp_path / "data" / "cifar10" / "3.0.2"
    version.mkdir(parents=True)
    (tmp_path / "data" / "downloads" / "cifar10").mkdir(parents=True)
    check = _doctor(capsys)["Data"]
    assert check["status"] == "ok"
    # What a download that failed has left is no data set.
    assert check["facts"]["datasets"] == []
    (version / "dataset_info.json").touch()
    check = _doctor(capsys)["Data"]
    assert check["facts"]["datasets"] == ["cifar10"]
    assert check["facts"]["writable"]


def test_data_folder_that_cannot_be_written_to_is_noted(
    alone, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file" / "data"))
    check = _doctor(capsys)["Data"]
    assert check["status"] == "note"
    assert not check["facts"]["writable"]
    assert "cannot be written to" in check["text"]


def test_missing_extras_come_with_their_command(alone, monkeypatch, capsys):
    def is_installed(module):
        return module not in ("av", "onnxruntime")

    monkeypatch.setattr(extras, "is_installed", is_installed)
    check = _doctor(capsys)["Extras"]
    assert check["status"] == "note"
    assert extras.how_to_install("onnx,video") in check["text"]
    assert check["facts"]["onnx"] == ["onnxruntime"]


def test_every_extra_is_known_with_all_its_packages():
    text = pathlib.Path("pyproject.toml").read_text()
    declared = tomllib.loads(text)["project"]["optional-dependencies"]
    installed = importlib.metadata.packages_distributions()

    def normal(name):
        return re.match(r"[\w.-]+", name)[0].lower().replace("_", "-")

    for name, modules in extras.EXTRAS.items():
        brought = {normal(d) for m in modules for d in installed[m]}
        assert brought >= {normal(d) for d in declared[name]}, name
        assert len(modules) == len(declared[name]), name
    # Nothing of the program needs those of developers.
    others = {"all", "dev", "docs", "peer", "predict"}
    assert set(declared) == {*extras.EXTRAS, *others}


def test_package_of_another_version_is_a_problem(alone, monkeypatch, capsys):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "2.4.0" if name == "keras" else version(name),
    )
    monkeypatch.setattr(
        importlib.metadata,
        "requires",
        lambda _: ["keras==3.15.*", "numpy>=2", "av>=99; extra == 'video'"],
    )
    check = _doctor(capsys)["Packages"]
    assert check["status"] == "problem"
    assert "keras 2.4.0 is not ==3.15.*" in check["text"]
    assert "numpy" not in check["text"].partition(";")[2]
    assert "av" not in check["text"]


def test_tensorflow_that_does_not_import_is_told_of(alone, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    checks = _doctor(capsys)
    assert checks["Devices"]["status"] == "problem"
    assert "tensorflow" in checks["Devices"]["text"]
    assert checks["Machine"]["status"] == "ok"


@pytest.mark.long
def test_small_model_trains_and_draws(alone, capsys):
    assert run("doctor", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    check = report["checks"][-1]
    assert (check["name"], check["status"]) == ("Step", "ok")
    assert 0 < check["facts"]["nelbo"] < 1e4
    assert check["facts"]["changed"]
    assert "4 images drawn" in check["text"]
