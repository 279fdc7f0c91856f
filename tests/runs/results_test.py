"""Results of commands: the latest whole, the history complete."""

import fcntl
import json
import os
import subprocess
import sys
from concurrent import futures

import pytest

from nvae_tf.core import locks
from nvae_tf.core.errors import DataError
from nvae_tf.core.json_files import read_json, read_json_lines
from nvae_tf.runs import results
from nvae_tf.runs.results import number_text, write_result

_WRITER = """
import sys
from nvae_tf.runs.results import write_result
path, writer = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for number in range(30):
    write_result(path, {"writer": writer, "number": number, "x": "y" * 3000})
"""


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_replace_the_latest_and_add_to_the_history(tmp_path):
    path = tmp_path / "r.json"
    write_result(path, {"nll": 1.0})
    written = write_result(path, {"nll": float("nan"), "groups": [1, 2]})
    assert written == {"nll": None, "groups": [1, 2]}
    assert json.loads(path.read_text()) == written
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"nll": 1.0}, written]


def test_what_is_not_finite_is_written_as_json_at_any_depth(tmp_path):
    nan, inf = float("nan"), float("inf")
    record = {"nll": nan, "kl": [1.0, nan], "more": {"x": [[inf]], "y": True}}
    plain = {"nll": None, "kl": [1.0, None], "more": {"x": [[None]], "y": True}}
    assert write_result(tmp_path / "r.json", record) == plain
    assert read_json(tmp_path / "r.json") == plain
    assert [*read_json_lines(tmp_path / "r.jsonl")] == [plain]


def test_number_that_is_none_is_named():
    assert number_text(1.5, "8.2f") == "    1.50"
    assert number_text(None, "12.2f") == "  not finite"
    assert number_text(float("inf"), ".2f") == "not finite"


def test_no_record_is_lost_between_processes(tmp_path):
    path = tmp_path / "r.json"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in writers:
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    records = _lines(tmp_path / "r.jsonl")
    for number in range(3):
        own = [r["number"] for r in records if r["writer"] == str(number)]
        assert own == list(range(30))
    assert len(records) == 90
    assert json.loads(path.read_text()) in records


def test_line_that_a_crash_cut_off_spoils_no_other(tmp_path):
    history = tmp_path / "r.jsonl"
    history.write_text('{"nll": 1.0}\n{"nll": 2.')
    for value in (3.0, 4.0):
        write_result(tmp_path / "r.json", {"nll": value})
    first, torn, *rest = history.read_text().splitlines()
    assert json.loads(first) == {"nll": 1.0}
    assert torn == '{"nll": 2.'
    assert [json.loads(line) for line in rest] == [{"nll": 3.0}, {"nll": 4.0}]


def test_line_that_is_being_written_is_waited_for(tmp_path):
    """To others it looks torn until it is whole."""
    history = tmp_path / "r.jsonl"
    with open(history, "ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b'{"nll": 1')
        with futures.ThreadPoolExecutor() as pool:
            done = pool.submit(write_result, tmp_path / "r.json", {"nll": 2.0})
            assert not futures.wait([done], timeout=0.3).done
            file.write(b".0}\n")
            fcntl.flock(file, fcntl.LOCK_UN)
            done.result()
    assert _lines(history) == [{"nll": 1.0}, {"nll": 2.0}]


def test_writer_that_stands_still_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 0.2)
    history = tmp_path / "r.jsonl"
    with open(history, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_result(tmp_path / "r.json", {"nll": 2.0})
    assert _lines(history) == [{"nll": 2.0}]


def test_link_in_place_of_the_history_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / "r.jsonl").symlink_to(target)
    with pytest.raises(DataError, match=r"r\.jsonl"):
        write_result(tmp_path / "r.json", {"nll": 2.0})
    assert target.read_bytes() == b"precious"


def test_what_is_there_is_never_written_again(tmp_path):
    """Else a crash or another process could take it away."""
    history = tmp_path / "r.jsonl"
    history.write_text('{"nll": 1.0}\n')
    before = os.stat(history).st_ino
    write_result(tmp_path / "r.json", {"nll": 2.0})
    assert os.stat(history).st_ino == before
    assert _lines(history) == [{"nll": 1.0}, {"nll": 2.0}]


def test_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(results.os, "write", lambda *_: 3)
    with pytest.raises(DataError, match=r"r\.jsonl.*no room"):
        write_result(tmp_path / "r.json", {"nll": 2.0})
    assert not (tmp_path / "r.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        write_result(tmp_path / "file" / "r.json", {"nll": 2.0})
