"""Rows of results, one of JSON a line, in the order of measuring."""

import json
import pathlib
from typing import Any

__all__ = ["Row", "Rows", "latest", "precision_of", "read", "tell"]

Row = dict[str, Any]
Rows = list[Row]


def read(path: str | pathlib.Path | None) -> Rows:
    """The rows of a file; none if there is no file."""
    if not path or not pathlib.Path(path).exists():
        return []
    lines = pathlib.Path(path).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def tell(path: pathlib.Path, row: Row) -> None:
    """Prints a row, and appends it to a file."""
    text = json.dumps(row)
    print(text, flush=True)
    with path.open("a") as file:
        file.write(text + "\n")


def latest(rows: Rows, kind: str) -> Rows:
    """The rows with times of a kind of program, the latest of each label."""
    found = {
        row["label"]: row
        for row in rows
        if "queued_ms" in row and row["kind"] == kind
    }
    return list(found.values())


def precision_of(row: Row) -> str:
    """What a row's program computes in, "tf32" for rounded float32."""
    rounds = "+tf32" in row.get("label", "")
    return "tf32" if rounds else row["precision"]
