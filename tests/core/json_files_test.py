"""Tests of the JSON that others have written."""

import json
import os

import pytest

from nvae_tf.core.errors import CheckpointError, DataError
from nvae_tf.core.json_files import MOST_BYTES, MOST_DEPTH, read_json
from tests.support.refusals import refused


def _refused(path, *parts, error=DataError):
    with refused(error, *parts, path=path):
        read_json(path, error)


def test_what_json_writes_is_read(tmp_path):
    value = {"a": [1, -0.5, None, True, "h\u00e9\U0001f600", {}], "": -(2**63)}
    path = tmp_path / "x.json"
    for ascii_only in (True, False):
        path.write_text(
            json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8"
        )
        assert read_json(path) == value


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b'{"\\ud800": 1}', "not JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "twice"),
        (b'{"%b": 1, "%b": 2}' % (b"k" * 9000, b"k" * 9000), "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": 9223372036854775808}', "64 bits"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "64 bits"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' * 100_000, "deep"),
        (b"[" * 80 + b"]" * 80, "deep"),
        (b"[1]", "list"),
        (b"null", "NoneType"),
    ],
)
def test_what_is_not_plain_json_is_refused(tmp_path, text, part):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    _refused(path, part)


def test_deepest_nesting_that_is_allowed_is_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    assert read_json(path, kind=None)


def test_results_of_diverged_runs_are_read_where_asked(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"nelbo": Infinity, "b": 1e999}')
    infinity = float("inf")
    assert read_json(path, finite=False) == {"nelbo": infinity, "b": infinity}


def test_large_file_is_refused_unread(tmp_path):
    path = tmp_path / "x.json"
    with open(path, "wb") as file:
        file.truncate(2**40)
    _refused(path, f"{MOST_BYTES:,} bytes")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    _refused(tmp_path / "pipe.json", "a pipe", error=CheckpointError)
    _refused(tmp_path, "a folder")
    _refused("/dev/zero", "a device")
    _refused(tmp_path / "none.json", "does not exist")
    (tmp_path / "loop").symlink_to("loop")
    _refused(tmp_path / "loop")
    with pytest.raises(DataError, match="cannot be read"):
        read_json("a\0b", DataError)
    with pytest.raises(OSError, match="a pipe"):
        read_json(tmp_path / "pipe.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
