"""Files and folders that appear whole or not at all, and outlive a power cut.

Whatever this project writes goes to a temporary name beside its target first
and is moved into place at the end.  What a killed writer left beside a target
goes when that target is written the next time.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import socket
from collections.abc import Iterator

from nvae_tf.core.errors import DataError, UserError

__all__ = ["new_folder", "remove", "replacing", "sync", "write_bytes"]

_HOST = socket.gethostname()


def sync(path: str | os.PathLike) -> None:
    """Brings a file's content, or the names in a folder, to the disk.

    Args:
      path: of the file or folder.

    Raises:
      OSError: if that fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, error: type[UserError] = DataError
) -> Iterator[pathlib.Path]:
    """Gives a temporary path that takes the place of `path` at the end.

    Args:
      path: the file; its folder is created if need be.  If the block raises,
        whatever was there before stays.
      error: what is raised.

    Raises:
      UserError: `error`, if the file cannot be written.
    """
    path = pathlib.Path(path)
    # Beside the target, so that the rename cannot cross file systems.
    temporary = _beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except OSError as problem:
        raise error(f"Cannot write {path}: {problem}.") from problem
    finally:
        remove(temporary)


def write_bytes(
    path: str | os.PathLike,
    content: bytes,
    error: type[UserError] = DataError,
) -> None:
    """Writes `content` to `path`, whole or not at all.

    Raises:
      UserError: `error`, if the file cannot be written.
    """
    with replacing(path, error) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def new_folder(
    path: str | os.PathLike,
    *,
    overwrite: bool = False,
    error: type[UserError] = DataError,
) -> Iterator[pathlib.Path]:
    """Gives an empty folder that becomes `path` at the end.

    Args:
      path: the folder; those above it are created.  If the block raises,
        nothing of it stays, and what was there before does.
      overwrite: take the place of an existing folder.
      error: what is raised.

    Raises:
      UserError: `error`, if `path` exists, or cannot be written.
    """
    path = pathlib.Path(path)
    # Beside the target, so that the rename cannot cross file systems, and
    # under names that are no numbers: servers look for numbers only.
    temporary, old = _beside(path, "tmp"), _beside(path, "old")
    if not overwrite:
        _refuse_existing(path, error)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        remove(temporary)
        temporary.mkdir()
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            sync(entry)
        if not overwrite:
            # Somebody may have been faster.
            _refuse_existing(path, error)
        elif path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
        sync(path.parent)
    except OSError as problem:
        raise error(f"Cannot write {path}: {problem}.") from problem
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        remove(temporary)
        remove(old)


def remove(path: str | os.PathLike) -> None:
    """Removes a file or a folder, as far as that can be done."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(path)


def _beside(path: pathlib.Path, kind: str) -> pathlib.Path:
    """A name that no other process uses, on whichever machine it runs."""
    writer = f"{_HOST}-{os.getpid()}"
    return path.with_name(f".{path.name}.{writer}.{kind}")


def _refuse_existing(path: pathlib.Path, error: type[UserError]) -> None:
    if path.exists():
        raise error(
            f"{path} exists already: name another place, or replace it with "
            "--overwrite."
        )


def _remove_leftovers(path: pathlib.Path) -> None:
    """Removes what writers of `path` that no longer run have left."""
    name = re.compile(
        rf"\.{re.escape(path.name)}\.{re.escape(_HOST)}-(\d+)\.(tmp|old)"
    )
    for entry in path.parent.iterdir():
        match = name.fullmatch(entry.name)
        if match is None or _runs(int(match[1])):
            continue
        if match[2] == "old" and not path.exists():
            # Its writer ended between the two renames.
            os.rename(entry, path)
        remove(entry)


def _runs(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        # Somebody else's.
        return True
    return True
