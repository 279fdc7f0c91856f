"""A run's folder: held by one process, and safe to take from a stranger."""

import errno
import fcntl
import json
import logging
import os
import subprocess
import sys

import pytest

from nvae_tf.core.errors import CheckpointError, UserError
from nvae_tf.distribute import launcher
from nvae_tf.runs.workdir import Workdir
from nvae_tf.training.metrics import MetricsWriter
from nvae_tf.training.recovery import Recovery
from nvae_tf.training.watchdog import STACKS_FILE, Watchdog
from tests.support import faults
from tests.support.run_helpers import make_config

_SNEAKY = {
    "link": lambda path, target: path.symlink_to(target),
    "second name": lambda path, target: os.link(target, path),
    "pipe": lambda path, target: os.mkfifo(path),
    "folder": lambda path, target: path.mkdir(),
}


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "precious"
    path.write_bytes(b"precious")
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return Workdir(tmp_path / "run")


@pytest.mark.parametrize("kind", _SNEAKY)
def test_lock_of_a_stranger_is_no_way_to_other_files(folder, target, kind):
    _SNEAKY[kind](folder.path / ".lock", target)
    with pytest.raises(UserError, match=r"--workdir=.*\.lock"):
        with folder.locked():
            raise AssertionError
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", _SNEAKY)
def test_records_of_a_stranger_are_no_way_to_other_files(folder, target, kind):
    _SNEAKY[kind](folder.metrics_path, target)
    with pytest.raises(UserError, match=r"Cannot write .*metrics\.jsonl"):
        MetricsWriter(folder, 0)
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", _SNEAKY)
def test_logs_of_a_stranger_are_no_way_to_other_files(folder, target, kind):
    (folder.path / "logs").mkdir()
    _SNEAKY[kind](folder.path / "logs" / "worker_1.log", target)
    with pytest.raises(UserError, match=r"worker_1\.log"):
        launcher.launch(2, folder.path, [sys.executable, "-c", "print('x')"])
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", _SNEAKY)
def test_stacks_of_a_stranger_are_no_way_to_other_files(folder, target, kind):
    _SNEAKY[kind](folder.path / STACKS_FILE, target)
    Watchdog(1.0, folder.path)._write_stacks()
    assert target.read_bytes() == b"precious"


def test_lock_is_held_for_one_process_and_names_it(folder):
    with folder.locked():
        with pytest.raises(
            UserError, match=rf"Another process .*process {os.getpid()} on"
        ):
            with folder.locked():
                raise AssertionError
    with folder.locked():
        pass


def test_file_system_without_locks_is_trained_on(folder, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    entered = False
    with caplog.at_level(logging.WARNING), folder.locked():
        entered = True
    assert entered
    assert "No locks available" in caplog.text


def test_errors_of_what_is_done_under_the_lock_are_not_those_of_the_lock(
    folder,
):
    with pytest.raises(OSError, match="inner"), folder.locked():
        raise OSError("inner")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_folder_that_cannot_be_made_is_named(tmp_path, number):
    folder = Workdir(tmp_path / "new" / "run")
    with faults.disk(0, number):
        with pytest.raises(UserError, match="run cannot be written to"):
            with folder.locked():
                raise AssertionError


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"[" * 100_000,
        b'{"train": {"epochs": 1' + b"0" * 400 + b"}}",
        b'{"train": 7}',
    ],
    ids=lambda value: repr(value)[:20],
)
def test_configuration_from_elsewhere_is_told_of(folder, content):
    folder.config_path.write_bytes(content)
    with pytest.raises(UserError, match=r"config"):
        folder.read_config()


def test_pipe_in_place_of_the_configuration_is_not_waited_for(folder):
    os.mkfifo(folder.config_path)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        folder.read_config()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_configuration_is_the_old_or_the_new_wherever_the_disk_fails(
    folder, tmp_path, number
):
    old, new = (
        make_config(tmp_path / "none.npy", train={"epochs": n}) for n in (2, 3)
    )
    for call in faults.numbers_of_calls(lambda: folder.write_config(new)):
        folder.write_config(old)
        with faults.disk(call, number), pytest.raises(UserError):
            folder.write_config(new)
        assert folder.read_config() in (old, new)
        assert [p.name for p in folder.path.iterdir()] == ["config.json"]


def test_records_go_on_where_the_checkpoint_was(folder):
    writer = MetricsWriter(folder)
    writer.event(1, "a")
    offset = writer.offset()
    writer.event(2, "b")
    writer.rewind(offset)
    writer.event(3, "c")
    writer.close()
    writer = MetricsWriter(folder, offset)
    writer.event(4, "d")
    assert writer.offset() == folder.metrics_path.stat().st_size
    writer.close()
    lines = folder.metrics_path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 4]


def test_disk_without_room_for_records_is_a_sentence(folder):
    writer = MetricsWriter(folder)

    def write():
        for step in range(100):
            writer.event(step, "event", text="x" * 1000)

    with faults.file_limit(20_000):
        with pytest.raises(UserError, match=r"Cannot write .*make room"):
            write()
    writer.close()


def test_disk_that_does_not_keep_records_is_a_sentence(folder):
    writer = MetricsWriter(folder)
    with faults.disk(0, errno.EIO):
        with pytest.raises(UserError, match="Input/output error"):
            writer.offset()
    writer.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"[]",
        b'{"rollbacks": 7, "unfinished": false, "stopped": null}',
        b'{"rollbacks": [7], "unfinished": false, "stopped": null}',
        b'{"rollbacks": [{"failed_at": 1, "target": 0, "learning_rate": "x",'
        b' "regularization": 1, "diagnosis": ""}], "unfinished": false,'
        b' "stopped": null}',
        b'{"rollbacks": [{"failed_at": 1, "target": 0, "learning_rate": NaN,'
        b' "regularization": 1, "diagnosis": ""}], "unfinished": false,'
        b' "stopped": null}',
    ],
    ids=lambda value: repr(value)[:20],
)
def test_setbacks_from_elsewhere_are_told_of(folder, tmp_path, content):
    path = folder.path / "recovery.json"
    path.write_bytes(content)
    config = make_config(tmp_path / "none.npy").train
    with pytest.raises(CheckpointError, match=r"recovery\.json is damaged"):
        Recovery(path, config)


@pytest.mark.long
def test_two_commands_that_start_at_once_do_not_both_train(folder):
    program = """\
import sys, time
from nvae_tf.runs.workdir import Workdir
from nvae_tf.core.errors import UserError
try:
    with Workdir(sys.argv[1]).locked():
        print("trains", flush=True)
        sys.stdin.read()
except UserError as error:
    print(str(error), flush=True)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    lines = sorted(process.stdout.readline() for process in processes)
    for process in processes:
        process.communicate()
    assert lines[0].startswith("Another process")
    assert lines[1] == "trains\n"
