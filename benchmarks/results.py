"""What was measured, kept as JSON, and tables of it."""

import json
import os
import pathlib
import platform
from collections.abc import Sequence

from absl import flags

from nvae_tf.core.errors import UserError
from nvae_tf.core.files import write_bytes

__all__ = ["Results", "define_folder", "from_flags", "table"]

# `--help` of a benchmark shows its own flags: `--results` is to count as such.
flags.disclaim_key_flags()


class Results:
    """The results of all benchmarks, a JSON file each.

    A measurement that is repeated replaces the one of the same name; all
    others stay, so that slow ones can be added to quick ones.

    Args:
      folder: of the files.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def read(self, benchmark: str) -> dict[str, dict]:
        """Results of a benchmark by name, in the order of measuring.

        Raises:
          UserError: if the file is not what `add` wrote.
        """
        path = self._path(benchmark)
        try:
            return json.loads(path.read_bytes())["results"]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a file of results: {error!r}. Remove it, and "
                "measure again."
            ) from error

    def add(self, benchmark: str, name: str, result: dict) -> None:
        """Keeps a result."""
        results = self.read(benchmark)
        results.pop(name, None)
        results[name] = result
        content = {"machine": _machine(), "results": results}
        write_bytes(
            self._path(benchmark), (json.dumps(content, indent=1)).encode()
        )

    def _path(self, benchmark: str) -> pathlib.Path:
        return self.folder / f"{benchmark}.json"


def _machine() -> dict:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def define_folder() -> None:
    """Defines `--results`."""
    flags.DEFINE_string(
        "results", "runs/benchmarks", "Folder of the results, JSON."
    )


def from_flags() -> Results:
    """The results in the folder that `--results` names."""
    return Results(flags.FLAGS.results)


def table(headings: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table, aligned to be read as text too.

    Args:
      headings: of the columns; the first is flush left, all others right.
      rows: of cells.
    """
    cells = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = [
        "-" * width if not i else "-" * (width - 1) + ":"
        for i, width in enumerate(widths)
    ]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])
