"""Running exports that are folders of graphs; see `nvae_tf.export.runners`.

The program that lies beside the graphs runs them here as well.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from nvae_tf.core.errors import ExportError, one_line
from nvae_tf.core.json_files import read_json
from nvae_tf.export.beside.graph_folder import DESCRIPTION, GraphFolder

__all__ = ["FolderRunner", "describes_export", "format_of", "is_export"]


def is_export(path: str | os.PathLike) -> bool:
    """Whether a folder looks like such an export."""
    return (pathlib.Path(path) / DESCRIPTION).is_file()


def describes_export(path: str | os.PathLike) -> bool:
    """Whether a folder's description is that of such an export.

    Others may have a file of that name, too: who would remove a folder asks
    this.
    """
    try:
        content = read_json(pathlib.Path(path) / DESCRIPTION, ExportError)
    except ExportError:
        return False
    return content.keys() >= {"format", "graphs", "sha256"}


def format_of(path: str | os.PathLike) -> str:
    """The format that an export says its graphs have.

    Raises:
      ExportError: if it says nothing.
    """
    name = read_json(pathlib.Path(path) / DESCRIPTION, ExportError).get(
        "format"
    )
    if not isinstance(name, str):
        raise ExportError(
            f"{path} is not an export that loads: its {DESCRIPTION} names no "
            "format."
        )
    return name


class FolderRunner:
    """The graphs of an export.

    Args:
      path: the export's folder.
      graphs: opens it.

    Attributes:
      FORMAT: of the graphs.
      names: of the graphs.
      facts: what the export says of itself.
      fixed_batch: rows that the graphs take.

    Raises:
      ExportError: if it is none that loads, or a graph is refused.
    """

    FORMAT = ""

    def __init__(self, path: str | os.PathLike, graphs: type[GraphFolder]):
        path = pathlib.Path(path)
        try:
            found = read_json(path / DESCRIPTION)
            if not isinstance(found.get("facts"), dict):
                raise ValueError("it does not tell what it is")
            self.facts: dict[str, Any] = found["facts"]
            self._graphs = graphs(path)
            for name in self._graphs.names:
                self._look_through(name)
        except (OSError, ValueError) as error:
            raise ExportError(
                f"{path} is not a {self.FORMAT} export that loads "
                f"({one_line(error, 300)})."
            ) from error
        self.names = self._graphs.names
        self.fixed_batch = self._graphs.batch

    def _look_through(self, name: str) -> None:
        """Raises ValueError for a graph that must not be run."""
        raise NotImplementedError

    def inputs(self, name):
        """See `nvae_tf.export.runners.Runner`."""
        return _specs(self._graphs.describe(name)["inputs"])

    def outputs(self, name):
        """See `nvae_tf.export.runners.Runner`."""
        return _specs(self._graphs.describe(name)["outputs"])

    def run(self, name, inputs) -> dict[str, np.ndarray]:
        """See `nvae_tf.export.runners.Runner`."""
        return self._graphs.run(name, inputs)


def _specs(described) -> dict[str, tuple]:
    return {spec["name"]: (spec["dtype"], spec["shape"]) for spec in described}
