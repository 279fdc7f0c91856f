"""Finding image files, and parting them into those of training and the rest."""

from __future__ import annotations

import collections
import functools
import hashlib
import heapq
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence

from nvae_tf.core.errors import DataError
from nvae_tf.core.progress import progress
from nvae_tf.core.threads import map_ahead
from nvae_tf.datasets.sources import CorruptImageError

__all__ = [
    "SUFFIXES",
    "content_fractions",
    "find_images",
    "hash_fraction",
    "list_images",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# What is read of a file to tell it from others: all up to three such pieces,
# otherwise the first, the middle and the last.
_PIECE = 2**16
_THREADS = 8
_FILES_PER_TASK = 64
# Fewer are read before anybody asks how far it is.
_MANY_FILES = 10_000


def list_images(root: pathlib.Path) -> list[pathlib.Path]:
    """Image files below `root`, in the order of their paths.

    Hidden files and folders are left out, and what is no regular file, such as
    a pipe.  Links are followed; a file or folder to which several paths lead is
    listed once, by the path without links if there is one.

    Raises:
      DataError: if there are none, or a folder cannot be read.
    """
    # A file is known by its folder's identity and its name there: the numbers
    # of files themselves are not unique on all file systems.
    found: dict[tuple, pathlib.Path] = {}
    links: list[pathlib.Path] = []
    for folder, identity, names, link_names in _walk(root):
        for name in names:
            found[*identity, name] = folder / name
        links += [folder / name for name in link_names]
    for link in sorted(links):
        target = pathlib.Path(os.path.realpath(link))
        try:
            if not stat.S_ISREG(os.stat(target).st_mode):
                continue
            key = (*_identity(target.parent), target.name)
        except OSError:
            # It leads nowhere, of which reading it tells.
            key = (link,)
        found.setdefault(key, link)
    if not found:
        raise DataError(
            f"There are no images in {root}; files must end in "
            f"{', '.join(SUFFIXES)}."
        )
    return sorted(
        found.values(), key=lambda path: path.relative_to(root).as_posix()
    )


def find_images(paths: Sequence[str]) -> list[pathlib.Path]:
    """The image files among and below paths, in the order to take them.

    Args:
      paths: image files and folders in any mixture.

    Raises:
      DataError: if there are none, or a path is neither.
    """
    if not paths:
        raise DataError("Name image files or folders of them with --images.")
    files: list[pathlib.Path] = []
    for path in (pathlib.Path(p).expanduser() for p in paths):
        if path.is_dir():
            files += list_images(path)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            files.append(path)
        elif not path.exists():
            raise DataError(f"--images names {path}, which does not exist.")
        else:
            raise DataError(
                f"--images names {path}, which is neither a folder nor a file "
                f"that ends in {', '.join(SUFFIXES)}."
            )
    return files


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return _fraction(digest)


def content_fractions(
    paths: Sequence[pathlib.Path], *, skip_corrupt: bool = False
) -> list[float]:
    """Numbers in [0, 1) that depend on the files' contents alone.

    Copies have the same number under any name.  Of files above 192 KiB the
    size and three pieces of 64 KiB decide: others that share all these share
    the number, which is harmless.  Numbers are remembered while a process
    lives and the files do not change.

    Args:
      paths: of the files.
      skip_corrupt: let the path decide where a file cannot be read.

    Raises:
      CorruptImageError: if a file cannot be read.
    """

    def read(chunk: Sequence[pathlib.Path]) -> list[float]:
        return [_content_fraction(path, skip_corrupt) for path in chunk]

    chunks = [
        paths[start : start + _FILES_PER_TASK]
        for start in range(0, len(paths), _FILES_PER_TASK)
    ]
    fractions: list[float] = []
    with progress(
        total=len(paths),
        desc="comparing contents",
        unit="file",
        leave=False,
        disable=len(paths) < _MANY_FILES,
    ) as bar:
        for part in map_ahead(read, chunks, _THREADS):
            fractions += part
            bar.update(len(part))
    return fractions


def _walk(
    root: pathlib.Path,
) -> Iterator[tuple[pathlib.Path, tuple, list[str], list[str]]]:
    """Every folder once, those that links lead to after all others.

    Yields:
      `(folder, identity, names of image files, names of links)`; the links are
      named like images and lead to no folder.
    """
    folders = collections.deque([root])
    linked: list[pathlib.Path] = []
    seen = set()
    while folders or linked:
        folder = folders.popleft() if folders else heapq.heappop(linked)
        try:
            identity = _identity(folder)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                visible = [e for e in entries if not e.name.startswith(".")]
        except OSError as error:
            raise DataError(
                f"Cannot read the folder {root}: {error}."
            ) from error
        names, links = [], []
        for entry in visible:
            is_named_so = entry.name.lower().endswith(SUFFIXES)
            if entry.is_symlink():
                if os.path.isdir(entry.path):
                    heapq.heappush(linked, folder / entry.name)
                elif is_named_so:
                    links.append(entry.name)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(folder / entry.name)
            elif is_named_so and entry.is_file(follow_symlinks=False):
                names.append(entry.name)
        yield folder, identity, names, links


def _identity(folder: pathlib.Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _content_fraction(path: pathlib.Path, skip_corrupt: bool) -> float:
    try:
        status = os.stat(path)
        return _remembered(str(path), status.st_size, status.st_mtime_ns)
    except OSError as error:
        if skip_corrupt:
            return hash_fraction(str(path))
        raise CorruptImageError(
            f"{path} cannot be read ({error.strerror}): replace or delete it, "
            "or set data.skip_corrupt=True."
        ) from error


@functools.lru_cache(maxsize=2**20)
def _remembered(path: str, size: int, _: int) -> float:
    """See `content_fractions`; the last argument is when it changed."""
    if size <= 3 * _PIECE:
        starts = [0, _PIECE, 2 * _PIECE]
    else:
        starts = [0, (size - _PIECE) // 2, size - _PIECE]
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(_PIECE))
    return _fraction(digest.digest())


def _fraction(digest: bytes) -> float:
    return int.from_bytes(digest[:6], "big") / 2**48
