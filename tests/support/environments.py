"""Environments with a wheel in them, and packages of the running one."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from importlib import metadata

from packaging.requirements import Requirement

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# What a build reads.
_SOURCES = ("LICENSE", "README.md", "configs", "nvae_tf", "pyproject.toml")


def build_wheel(
    folder: pathlib.Path, add: Callable[[pathlib.Path], object] = lambda _: None
) -> pathlib.Path:
    """Builds the wheel of this clone, from a copy that it may write to.

    Args:
      folder: for the copy and the wheel.
      add: called with the copy, to put more into it.
    """
    copy = folder / "clone"
    copy.mkdir(parents=True)
    subprocess.run(
        ["cp", "-r", *_SOURCES, "setup.py", copy], cwd=_ROOT, check=True
    )
    add(copy)
    _pip("wheel", "--no-build-isolation", f"--wheel-dir={folder}", str(copy))
    (wheel,) = folder.glob("*.whl")
    return wheel


class Environment:
    """An environment that holds a wheel and what it declares to need.

    The packages are those of the running environment, linked: nothing is
    downloaded or copied.

    Args:
      folder: to make; the environment, and `here`, an empty folder.
      wheel: to install.
    """

    def __init__(self, folder: pathlib.Path, wheel: pathlib.Path):
        self.here = folder / "here"
        self.here.mkdir(parents=True)
        venv.create(folder / "environment", symlinks=True)
        self._bin = folder / "environment" / "bin"
        self._python = self._bin / "python"
        _pip(f"--python={self._python}", "install", str(wheel))
        (self.packages,) = folder.glob("environment/lib/python*/site-packages")
        for distribution in _needed(
            "nvae_tf", metadata.distribution("nvae_tf").requires or []
        ):
            self._link(distribution)

    def add_everything(self) -> None:
        """Adds all packages of the running environment, after the others.

        Its `.pth` files, among them that of a clone, are not read.
        """
        path = self.packages / "running.pth"
        path.write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, program: str, *arguments: str, status: int = 0) -> str:
        """Runs a program of the environment; returns what it printed."""
        result = subprocess.run(
            [self._bin / program, *arguments],
            cwd=self.here,
            # Neither the clone's path nor its configuration.
            env={
                "HOME": str(self.here),
                "PATH": str(self._bin),
                "CUDA_VISIBLE_DEVICES": "-1",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result.stdout if status == 0 else result.stderr

    def _link(self, distribution: metadata.Distribution) -> None:
        """Links what a distribution has in site-packages."""
        for name in {path.parts[0] for path in distribution.files or []}:
            link = self.packages / name
            if name not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(distribution.locate_file(name))


def _pip(*arguments: str) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--quiet",
            *arguments,
            "--no-deps",
            "--no-index",
        ],
        check=True,
    )


def _needed(
    name: str, requirements: list[str], extra: str = ""
) -> Iterator[metadata.Distribution]:
    """All distributions that requirements lead to, without extras of ours."""
    waiting = [(extra, text) for text in requirements]
    seen = {(name, extra)}
    while waiting:
        extra, text = waiting.pop()
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        distribution = metadata.distribution(requirement.name)
        if (requirement.name, "") not in seen:
            yield distribution
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) not in seen:
                seen.add((requirement.name, extra))
                waiting += [(extra, t) for t in distribution.requires or []]
