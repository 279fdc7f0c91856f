"""Files appear whole or not at all, whatever fails and whoever is killed."""

import errno
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from nvae_tf.core import files
from nvae_tf.core.errors import DataError, UserError
from tests.support import faults

_ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]


@pytest.fixture(scope="module")
def ended():
    """The number of a process that no longer runs."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _leftover(path: pathlib.Path, process: int, kind: str) -> pathlib.Path:
    host = socket.gethostname()
    return path.with_name(f".{path.name}.{host}-{process}.{kind}")


@pytest.mark.parametrize("error_number", _ERRORS)
def test_file_is_the_old_or_the_new_wherever_the_disk_fails(
    tmp_path, error_number
):
    path = tmp_path / "record.json"

    def write():
        files.write_bytes(path, b"new")

    for number in faults.numbers_of_calls(write):
        path.write_bytes(b"old")
        with faults.disk(number, error_number):
            with pytest.raises(DataError, match=r"Cannot write .*record\.json"):
                write()
        assert path.read_bytes() in (b"old", b"new")
        assert _names(tmp_path) == ["record.json"]
    write()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("error_number", _ERRORS)
def test_folder_is_the_old_or_the_new_wherever_the_disk_fails(
    tmp_path, error_number, overwrite
):
    path = tmp_path / "export"

    def write():
        with files.new_folder(path, overwrite=overwrite) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "a.txt").write_bytes(b"new")

    def prepare():
        files.remove(path)
        if overwrite:
            (path / "inner").mkdir(parents=True)
            (path / "inner" / "a.txt").write_bytes(b"old")

    prepare()
    for number in faults.numbers_of_calls(write):
        prepare()
        with faults.disk(number, error_number):
            with pytest.raises(DataError, match=r"Cannot write .*export"):
                write()
        assert _names(tmp_path) in (["export"], [])
        content = b""
        if path.exists():
            content = (path / "inner" / "a.txt").read_bytes()
        assert content in ((b"old", b"new") if overwrite else (b"", b"new"))


def test_folder_that_may_not_be_replaced_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="--overwrite"):
        with files.new_folder(tmp_path / "a"):
            raise AssertionError
    with pytest.raises(UserError, match=r"another place\.$"):
        with files.new_folder(tmp_path / "a", overwrite=None):
            raise AssertionError


def test_of_two_writers_of_one_folder_the_second_is_told(tmp_path):
    path = tmp_path / "samples"

    def write_late():
        with files.new_folder(path) as late:
            (late / "a").write_bytes(b"late")
            # The other one, under the name of its own process.
            other = _leftover(path, os.getppid(), "tmp")
            other.mkdir()
            (other / "a").write_bytes(b"early")
            other.rename(path)

    with pytest.raises(DataError, match="exists already"):
        write_late()
    assert (path / "a").read_bytes() == b"early"
    assert _names(tmp_path) == ["samples"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_killed_writers_left_goes_with_the_next_write(
    tmp_path, ended, folder
):
    for name in ("record.json", "another.png"):
        _leftover(tmp_path / name, ended, "tmp").write_bytes(b"half")
        half = _leftover(tmp_path / f"{name}-folder", ended, "tmp")
        half.mkdir()
        (half / "a").write_bytes(b"half")
    if folder:
        with files.new_folder(tmp_path / "new"):
            pass
    else:
        files.write_bytes(tmp_path / "new", b"whole")
    assert _names(tmp_path) == ["new"]


def test_what_running_writers_and_strangers_have_there_stays(tmp_path):
    kept = [
        _leftover(tmp_path / "a", os.getppid(), "tmp"),
        tmp_path / f".a.elsewhere-{os.getppid()}.tmp",
        tmp_path / ".a.tmp",
        tmp_path / ".hidden",
    ]
    for path in kept:
        path.write_bytes(b"")
    files.write_bytes(tmp_path / "a", b"whole")
    assert {*_names(tmp_path)} == {"a", *(p.name for p in kept)}


def test_folder_whose_writer_ended_between_two_renames_comes_back(
    tmp_path, ended
):
    old = _leftover(tmp_path / "export", ended, "old")
    old.mkdir()
    (old / "a").write_bytes(b"old")
    replaced = _leftover(tmp_path / "kept", ended, "old")
    replaced.mkdir()
    (tmp_path / "kept").mkdir()
    files.write_bytes(tmp_path / "other", b"")
    assert _names(tmp_path) == ["export", "kept", "other"]
    assert (tmp_path / "export" / "a").read_bytes() == b"old"


def test_many_files_do_not_have_their_folder_read_for_each(
    tmp_path, monkeypatch
):
    looks = []
    original = pathlib.Path.iterdir

    def iterdir(self):
        looks.append(self)
        return original(self)

    monkeypatch.setattr(pathlib.Path, "iterdir", iterdir)
    for number in range(50):
        files.write_bytes(tmp_path / f"{number}.png", b"")
    assert len(looks) <= 2


def test_only_folders_of_the_kind_and_empty_ones_are_replaceable(tmp_path):
    def require(name, *, overwrite=True):
        files.require_replaceable(
            tmp_path / name,
            lambda path: (path / "mark").exists(),
            "a page",
            overwrite=overwrite,
        )

    for name in ("empty", "mine", "page"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "page" / "mark").touch()
    (tmp_path / "file").touch()
    for name in ("absent", "empty", "page"):
        require(name)
    for name in ("mine", "file"):
        with pytest.raises(DataError, match="is not a page, so it is not"):
            require(name)
    require("absent", overwrite=False)
    with pytest.raises(DataError, match="exists already"):
        require("page", overwrite=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda path, target: path.symlink_to(target),
        lambda path, target: path.symlink_to(target.with_name("absent")),
        lambda path, target: os.link(target, path),
        lambda path, target: os.mkfifo(path),
        lambda path, target: path.mkdir(),
        lambda path, target: path.symlink_to("/dev/null"),
    ],
    ids=["link", "dangling", "second name", "pipe", "folder", "device"],
)
def test_own_file_is_no_way_to_another(tmp_path, make):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    make(tmp_path / "own", target)
    with pytest.raises(OSError, match="own"):
        files.open_own(tmp_path / "own", os.O_RDWR | os.O_CREAT)
    assert target.read_bytes() == b"precious"
    assert not (tmp_path / "absent").exists()


def test_own_file_is_made_and_its_content_kept(tmp_path):
    path = tmp_path / "own"
    for text in (b"first", b""):
        descriptor = files.open_own(path, os.O_RDWR | os.O_CREAT)
        os.write(descriptor, text)
        os.close(descriptor)
    assert path.read_bytes() == b"first"
