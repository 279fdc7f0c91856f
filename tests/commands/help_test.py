"""Every command's `--help`: a screen with an example, at once."""

import collections
import json
import pathlib
import re
import subprocess
import sys

import pytest

from nvae_tf.commands.main import COMMANDS

# Flags whose help says of what: the meaning is one, its object another.
_OF_WHAT = {
    "batch_size",
    "checkpoint",
    "data_path",
    "images",
    "labels",
    "model",
    "num",
    "output",
    "seed",
    "temperature",
    "version",
    "workdir",
}
# What exports are sampled at is one number, elsewhere one of many spellings.
_NARROWER = {
    ("export savedmodel", "temperature"),
    ("export onnx", "temperature"),
    ("export web", "temperature"),
    ("export stablehlo", "temperature"),
    ("export litert", "temperature"),
    ("play", "temperature"),
}
_WORDS = [c.words for group in COMMANDS.values() for c in group]
_SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "help_pages.py"


@pytest.fixture(scope="module")
def printed():
    """What the script prints, in a process that has imported nothing."""
    result = subprocess.run(
        [sys.executable, str(_SCRIPT)],
        cwd=_SCRIPT.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("words", _WORDS)
def test_help_is_one_screen_with_an_example(printed, words):
    page = printed["pages"][words]
    text = page["text"]
    assert page["status"] == 0, text
    lines = text.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert re.search(rf"^    nvae {words}( |$)", text, re.MULTILINE)
    for name in page["flags"]:
        assert f"]{name}" in text or f"--{name}" in text


def test_help_needs_nothing_heavy(printed):
    loaded = {name.partition(".")[0] for name in printed["modules"]}
    assert "absl" in loaded
    assert not loaded & {"tensorflow", "keras", "onnx", "matplotlib"}


def _by_name(printed, key: str) -> dict[str, set]:
    """The values that flags of one name have for "type" or "help"."""
    values = collections.defaultdict(set)
    for words, page in printed["pages"].items():
        for name, flag in page["flags"].items():
            if (words, name) not in _NARROWER:
                values[name].add(flag[key])
    return values


def test_flags_of_one_name_take_values_of_one_type(printed):
    types = _by_name(printed, "type")
    assert types["workdir"] == {"string"}
    assert [name for name, found in types.items() if len(found) > 1] == []


def test_flags_of_one_name_say_one_thing(printed):
    helps = _by_name(printed, "help")
    several = {name for name, found in helps.items() if len(found) > 1}
    assert several <= _OF_WHAT
