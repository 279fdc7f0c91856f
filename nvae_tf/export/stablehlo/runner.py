"""Running StableHLO exports with JAX; see `nvae_tf.export.runners`."""

import os
import pathlib
import re
from typing import Any

import numpy as np

from nvae_tf.core.errors import ExportError, one_line
from nvae_tf.core.extras import require
from nvae_tf.core.json_files import read_json
from nvae_tf.core.reading import open_regular

__all__ = [
    "DESCRIPTION",
    "StableHloRunner",
    "check",
    "is_export",
    "require_packages",
]

DESCRIPTION = "graphs.json"
_PURPOSE = "A StableHLO export"
_DTYPES = ("float32", "uint8")
_MOST_BYTES = 2**30
_MOST_ROWS = 2**16


def require_packages() -> None:
    """Raises ExportError, naming the extra, if what exports need is missing."""
    require("jax", "stablehlo", _PURPOSE, ExportError)


def is_export(path: str | os.PathLike) -> bool:
    """Whether a folder looks like such an export."""
    return (pathlib.Path(path) / DESCRIPTION).is_file()


class StableHloRunner:
    """The graphs of a StableHLO export, in JAX.

    Args:
      path: the export's folder.

    Attributes:
      names: of the graphs.
      facts: what the export says of itself.
      fixed_batch: rows that the graphs take.

    Raises:
      ExportError: if it is none that loads, or calls what is not in it.
    """

    def __init__(self, path: str | os.PathLike):
        require_packages()
        from nvae_tf.export.stablehlo import portable
        from nvae_tf.export.stablehlo.program import Graphs

        self._path = pathlib.Path(path)
        try:
            found = read_json(self._path / DESCRIPTION)
            check(found)
            self.facts: dict[str, Any] = found["facts"]
            self._graphs = Graphs(self._path)
            for name in self._graphs.names:
                with open_regular(
                    self._path / f"{name}.stablehlo", None
                ) as file:
                    artifact = file.read(_MOST_BYTES)
                # Compiled, it could call anything of this process.
                if portable.foreign_calls(artifact):
                    raise ValueError(f"{name} calls what is not in it")
        except (OSError, ValueError) as error:
            raise ExportError(
                f"{self._path} is not a StableHLO export that loads "
                f"({one_line(error, 200)})."
            ) from error
        self.names = self._graphs.names
        self.fixed_batch = self._graphs.batch

    def inputs(self, name):
        """See `nvae_tf.export.runners.Runner`."""
        return _specs(self._graphs.describe(name)["inputs"])

    def outputs(self, name):
        """See `nvae_tf.export.runners.Runner`."""
        return _specs(self._graphs.describe(name)["outputs"])

    def run(self, name, inputs) -> dict[str, np.ndarray]:
        """See `nvae_tf.export.runners.Runner`."""
        return self._graphs.run(name, inputs)


def check(found: dict[str, Any]) -> None:
    """Raises ValueError for a description that no export has.

    Args:
      found: what `graphs.json` holds.
    """
    graphs, batch = found.get("graphs"), found.get("batch")
    if not isinstance(graphs, dict) or not graphs:
        raise ValueError("it has no graphs")
    if type(batch) is not int or not 1 <= batch <= _MOST_ROWS:
        raise ValueError("it has no number of rows")
    if type(found.get("num_groups")) is not int:
        raise ValueError("it has no number of groups")
    if not isinstance(found.get("facts"), dict):
        raise ValueError("it does not tell what it is")
    for name, graph in graphs.items():
        if not re.fullmatch("[a-z_]{1,20}", name):
            raise ValueError("a graph has no name")
        for side in ("inputs", "weights", "outputs"):
            specs = graph.get(side) if isinstance(graph, dict) else None
            if not isinstance(specs, list) or not all(map(_is_spec, specs)):
                raise ValueError(f"{name} has no {side}")


def _is_spec(spec: Any) -> bool:
    return (
        isinstance(spec, dict)
        and isinstance(spec.get("name"), str)
        and spec.get("dtype") in _DTYPES
        and isinstance(spec.get("shape"), list)
        and len(spec["shape"]) <= 8
        and all(type(n) is int and 0 <= n < 2**24 for n in spec["shape"])
    )


def _specs(described) -> dict[str, tuple]:
    return {spec["name"]: (spec["dtype"], spec["shape"]) for spec in described}
