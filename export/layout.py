"""Folders that appear whole or not at all, and versions of a served model."""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from export.errors import ExportError
from nvae_tf.durable import sync

__all__ = ["new_directory", "versions"]


@contextlib.contextmanager
def new_directory(
    path: str | os.PathLike, *, overwrite: bool = False
) -> Iterator[pathlib.Path]:
    """Gives an empty folder that becomes `path` at the end.

    Args:
      path: the folder; those above it are created.  If the block raises,
        nothing of it stays, and what was there before does.
      overwrite: take the place of an existing folder.

    Raises:
      ExportError: if `path` exists, or cannot be written.
    """
    path = pathlib.Path(path)
    # Beside the target, so that the rename cannot cross file systems, and
    # under names that are no numbers: servers look for numbers only.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if not overwrite:
        _refuse_existing(path)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            sync(entry)
        if not overwrite:
            # Somebody may have been faster.
            _refuse_existing(path)
        elif path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise ExportError(f"Cannot write {path}: {error}.") from error
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def versions(path: str | os.PathLike) -> list[int]:
    """The versions in the folder of a served model, ascending."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in path.iterdir()
        if entry.is_dir() and re.fullmatch(r"\d+", entry.name)
    )


def _refuse_existing(path: pathlib.Path) -> None:
    if path.exists():
        raise ExportError(
            f"{path} exists already: name another --version or --output, or "
            "replace it with --overwrite."
        )
