"""What is not there is refused in moments: before TensorFlow is loaded."""

import json
import subprocess
import sys

import pytest

from nvae_tf.config import Config
from tests.support.in_process import MODULES, defined_flags

_SCRIPT = """
import json
import sys

from nvae_tf.core.errors import UserError
from tests.support.in_process import run

said = []
for words, *arguments in json.load(sys.stdin):
    try:
        run(words, *arguments)
    except UserError as error:
        said.append(str(error))
loaded = [m for m in ("tensorflow", "keras", "jax") if m in sys.modules]
json.dump({"said": said, "loaded": loaded}, sys.stdout)
"""
_FLAGS = {words: defined_flags(words).keys() for words in MODULES}
_OF_RUNS = [w for w in MODULES if {"workdir", "ema"} <= _FLAGS[w]]
_OF_MODELS = [w for w in _OF_RUNS if "model" in _FLAGS[w]]
_OUTPUT = {"export pretrained": ["--output=out"]}


@pytest.fixture
def said(tmp_path):
    """What commands say, all in one process that may not load TensorFlow."""

    def said(*calls):
        result = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            input=json.dumps(calls),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        assert not found["loaded"]
        assert len(found["said"]) == len(calls)
        return found["said"]

    return said


def test_a_run_that_is_not_there_is_told_before_tensorflow_is_loaded(said):
    assert len(_OF_RUNS) > 15
    calls = [[w, "--workdir=none", *_OUTPUT.get(w, [])] for w in _OF_RUNS]
    for words, text in zip(_OF_RUNS, said(*calls), strict=True):
        assert "no workdir none" in text, words


def test_a_model_that_is_not_there_is_told_before_tensorflow_is_loaded(said):
    assert len(_OF_MODELS) > 14
    calls = [[w, "--model=mnits", *_OUTPUT.get(w, [])] for w in _OF_MODELS]
    for words, text in zip(_OF_MODELS, said(*calls), strict=True):
        assert "Did you mean mnist?" in text, words


def test_what_names_no_weights_is_told_before_tensorflow_is_loaded(said):
    calls = [[w, *_OUTPUT.get(w, [])] for w in _OF_MODELS]
    for words, text in zip(_OF_MODELS, said(*calls), strict=True):
        assert "--workdir=DIR" in text, words


def test_files_that_are_not_there_are_told_before_tensorflow_is_loaded(said):
    calls = [
        ["verify", "none"],
        ["import", "--checkpoint=none", "--workdir=new"],
        ["eval features", "--data=none"],
        ["profile", "--workdir=none"],
    ]
    assert all("none" in text for text in said(*calls))


def test_numbers_for_another_model_are_told_before_tensorflow_is_loaded(said):
    calls = [
        ["sample", "--model=mnist", "--fix_groups=99"],
        ["sample", "--model=mnist", "--temperature=hot"],
        ["nearest", "--model=mnist", "--scale_temperature=1,1,1"],
        ["traverse", "--model=mnist", "--temperature=1,1"],
        ["interpolate", "--model=mnist", "--seeds=1,2", "--temperature=-1"],
    ]
    for (_, _, *_, flag), text in zip(calls, said(*calls), strict=True):
        assert flag.split("=")[0] in text


def test_one_temperature_is_given_in_one_way(said):
    both = ["--model=mnist", "--temperature=0.7", "--scale_temperature=1,0.5"]
    commands = ("sample", "nearest", "traverse", "eval samples")
    for text in said(*([words, *both] for words in commands)):
        assert "--scale_temperature takes the place of" in text


def test_temperatures_of_a_report_are_told_by_their_flag(said, tmp_path):
    (tmp_path / "run").mkdir()
    text = json.dumps(Config().to_dict())
    (tmp_path / "run" / "config.json").write_text(text)
    for wrong in ("hot", "0.7,-1"):
        (text,) = said(["report", "--workdir=run", f"--temperatures={wrong}"])
        assert "--temperatures" in text


def test_an_output_that_cannot_be_written_is_told_before_the_work(
    said, tmp_path
):
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    model = "--model=mnist"
    calls = [
        ["encode", model, "--output=file/x.npz"],
        ["encode", model, "--output=folder.npz"],
        ["sample", model, "--output=file/x.png"],
        ["sample", model, "--output=file/"],
        ["interpolate", model, "--seeds=1,2", "--output=file/"],
        ["nearest", model, "--output=file/below/x.png"],
        ["eval likelihood", model, "--output=file"],
        ["eval samples", model, "--output=file"],
    ]
    for text in said(*calls):
        assert "--output=" in text
        assert "folder" in text
