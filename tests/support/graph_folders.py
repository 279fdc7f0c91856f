"""Exports that are folders of graphs, as others may have changed them."""

from __future__ import annotations

import hashlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from nvae_tf.export.beside.graph_folder import DESCRIPTION

__all__ = ["change_description", "draw_without_tensorflow", "replace_file"]

_WITHOUT_TENSORFLOW = """\
import runpy, sys
for name in ("tensorflow", "keras", "nvae_tf"):
    sys.modules[name] = None  # An import of it raises.
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def change_description(
    folder: pathlib.Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """Changes what an export says of itself.

    Args:
      folder: the export.
      change: of the description, in place.
    """
    path = folder / DESCRIPTION
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_file(folder: pathlib.Path, name: str, content: bytes) -> None:
    """Puts another file in the place of one, with its checksum."""
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change_description(folder, lambda c: c["sha256"].update({name: digest}))


def draw_without_tensorflow(
    program: pathlib.Path,
    export: pathlib.Path,
    tmp_path: pathlib.Path,
    *,
    num: int,
    seed: int,
) -> np.ndarray:
    """The picture that a program beside an export draws in a process.

    Args:
      program: its file.
      export: the folder.
      tmp_path: where the process runs and the picture goes.
      num: of images.
      seed: of the first.
    """
    grid = tmp_path / "grid.png"
    command = [sys.executable, "-c", _WITHOUT_TENSORFLOW, program, export]
    command += [f"--num={num}", f"--seed={seed}", f"--output={grid}"]
    result = subprocess.run(
        [*map(str, command)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    with Image.open(grid) as image:
        return np.asarray(image)
