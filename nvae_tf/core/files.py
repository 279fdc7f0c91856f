"""Files and folders that appear whole or not at all, and outlive a power cut.

Whatever this project writes goes to a temporary name beside its target first
and is moved into place at the end.  What a killed writer left in a folder goes
when another process writes something there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator

from nvae_tf.core.errors import DataError, UserError

__all__ = [
    "new_folder",
    "open_own",
    "process_runs",
    "remove",
    "remove_leftovers",
    "replacing",
    "require_replaceable",
    "scratch_folder",
    "sync",
    "write_bytes",
]

_HOST = socket.gethostname()
# What is being written, or was there before: .NAME.HOST-PID.tmp or .old
_ASIDE = re.compile(rf"\.(.+)\.{re.escape(_HOST)}-(\d+)\.(tmp|old)")
# When folders were last changed, by this process: nothing new is in them.
_SEEN: dict[str, int] = {}


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
    except OSError as problem:
        # Some file systems cannot do that for folders.
        unable = problem.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
        if not (unable and stat.S_ISDIR(os.fstat(descriptor).st_mode)):
            raise
    finally:
        os.close(descriptor)


def open_own(path: str | os.PathLike, flags: int) -> int:
    """Opens a regular file that has one name, and is no link.

    In a folder from elsewhere a link could stand in its place, and what is
    written would go to any file of the user's; a pipe would wait for ever.

        with open(path, "a", opener=open_own) as file:

    Args:
      path: of the file.
      flags: of `os.open`.

    Returns:
      A descriptor.

    Raises:
      OSError: if it cannot be opened, or is something else.
    """
    safe = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | safe, 0o666)
    except OSError as problem:
        if os.path.islink(path):
            raise _no_file("a link", path) from problem
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise _no_file(
        "a second name of another file"
        if stat.S_ISREG(status.st_mode)
        else "a folder, a pipe or a device",
        path,
    )


def process_runs(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        # Somebody else's.
        return True
    return True


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, error: type[UserError] | None = DataError
) -> Iterator[pathlib.Path]:
    """Gives a temporary path that takes the place of `path` at the end.

    Args:
      path: the file; its folder is created if need be.  If the block raises,
        whatever was there before stays.
      error: what is raised; None for the `OSError` itself.

    Raises:
      UserError: `error`, if the file cannot be written.
    """
    path = pathlib.Path(path)
    # Beside the target, so that the rename cannot cross file systems.
    temporary = _beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        _see(path.parent)
    except OSError as problem:
        if error is None:
            raise
        raise error(f"Cannot write {path}: {problem}.") from problem
    finally:
        remove(temporary)


def write_bytes(
    path: str | os.PathLike,
    content: bytes,
    error: type[UserError] | None = DataError,
) -> None:
    """Writes `content` to `path`, whole or not at all; see `replacing`.

    Raises:
      UserError: `error`, if the file cannot be written.
    """
    with replacing(path, error) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def new_folder(
    path: str | os.PathLike,
    *,
    overwrite: bool | None = False,
    error: type[UserError] = DataError,
) -> Iterator[pathlib.Path]:
    """Gives an empty folder that becomes `path` at the end.

    Args:
      path: the folder; those above it are created.  If the block raises,
        nothing of it stays, and what was there before does.
      overwrite: take the place of an existing folder; None where the user
        cannot ask for that.
      error: what is raised.

    Raises:
      UserError: `error`, if `path` exists, or cannot be written.
    """
    path = pathlib.Path(path)
    old = _beside(path, "old")
    if not overwrite:
        _refuse_existing(path, overwrite, error)
    try:
        with scratch_folder(path) as temporary:
            yield temporary
            for entry in [*temporary.rglob("*"), temporary]:
                sync(entry)
            if not overwrite:
                # Somebody may have been faster.
                _refuse_existing(path, overwrite, error)
            elif path.exists():
                os.rename(path, old)
            os.rename(temporary, path)
            sync(path.parent)
    except OSError as problem:
        raise error(f"Cannot write {path}: {problem}.") from problem
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        remove(old)


def require_replaceable(
    path: str | os.PathLike,
    is_kind: Callable[[pathlib.Path], bool],
    kind: str,
    *,
    overwrite: bool,
    error: type[UserError] = DataError,
) -> None:
    """Refuses what `new_folder` must not put a folder in the place of.

    A folder goes as a whole: it must not be one with other things in it.

    Args:
      path: of the folder to make.
      is_kind: whether a folder is one of those that may be replaced.
      kind: what those are, such as "a web export", for the message.
      overwrite: whether the user asks for it.
      error: what is raised.

    Raises:
      UserError: `error`, if there is something, unless it is an empty folder
        or one of the kind and `overwrite` is set.
    """
    path = pathlib.Path(path)
    if not overwrite:
        _refuse_existing(path, overwrite, error)
        return
    try:
        if not path.exists() or is_kind(path):
            return
        is_empty = path.is_dir() and not any(path.iterdir())
    except OSError as problem:
        raise error(f"{path} cannot be looked through: {problem}.") from problem
    if not is_empty:
        raise error(
            f"{path} is not {kind}, so it is not replaced: name another "
            "place, or remove it yourself."
        )


@contextlib.contextmanager
def scratch_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives an empty folder beside `path`, which is removed at the end.

    Args:
      path: what is to come of it; folders above it are created.

    Raises:
      OSError: if it cannot be made.
    """
    path = pathlib.Path(path)
    # Beside the target, so that a rename cannot cross file systems, and under
    # a name that is no number: servers look for numbers only.
    temporary = _beside(path, "tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    remove(temporary)
    try:
        temporary.mkdir()
        yield temporary
    finally:
        remove(temporary)


def remove(path: str | os.PathLike) -> None:
    """Removes a file or a folder, as far as that can be done."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(path)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what writers that no longer run have left in a folder."""
    # Another process may do the same, or the folder not let us look.
    with contextlib.suppress(OSError):
        # To look through the folder for each of many thousand files would
        # take longer than to write them.
        if _SEEN.get(os.path.abspath(folder)) == folder.stat().st_mtime_ns:
            return
        for entry in folder.iterdir():
            match = _ASIDE.fullmatch(entry.name)
            if match is None or process_runs(int(match[2])):
                continue
            target = entry.with_name(match[1])
            if match[3] == "old" and not target.exists():
                # Its writer ended between the two renames.
                os.rename(entry, target)
            remove(entry)


def _beside(path: pathlib.Path, kind: str) -> pathlib.Path:
    """A name that no other process uses, on whichever machine it runs."""
    writer = f"{_HOST}-{os.getpid()}"
    return path.with_name(f".{path.name}.{writer}.{kind}")


def _refuse_existing(
    path: pathlib.Path, overwrite: bool | None, error: type[UserError]
) -> None:
    if path.exists():
        other = ""
        if overwrite is not None:
            other = (
                ", or replace it with --overwrite (overwrite=True in Python)"
            )
        raise error(f"{path} exists already: name another place{other}.")


def _see(folder: pathlib.Path) -> None:
    """Notes that this process has just changed a folder."""
    with contextlib.suppress(OSError):
        _SEEN[os.path.abspath(folder)] = folder.stat().st_mtime_ns


def _no_file(what: str, path) -> OSError:
    return OSError(errno.EINVAL, f"It is {what}, not a file", str(path))
