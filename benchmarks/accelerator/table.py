"""Tables of what `run`, the PyTorch peer and `predict` have found.

    python -m benchmarks.accelerator.table --rows=rows.jsonl --peer=peer.jsonl
    python -m benchmarks.accelerator.table --rows=rows.jsonl --page=docs/gpu.md

With `--page`, the tables replace those of a page: what is between the lines
`<!-- NAME -->` and `<!-- /NAME -->`.  A table of no rows leaves the page's.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Callable, Iterable

from benchmarks.accelerator.rows import Rows, latest, precision_of, read
from benchmarks.results import table

__all__ = ["TABLES", "put_into"]


def peers(rows: Rows) -> dict[tuple, dict]:
    """The peer's fastest rows, by (step or sample, case, batch, precision)."""
    best = {}
    for row in rows:
        if "queued_seconds" not in row:
            continue
        key = row["what"], row["case"], row["batch_size"], row["precision"]
        if key not in best or _fastest(row) < _fastest(best[key]):
            best[key] = row
    return best


def _fastest(row: dict) -> float:
    """Seconds of the peer, whose few long steps differ by chance."""
    return min(row["queued_seconds"], row["step_seconds"])


def machine(rows: Rows, peer: Rows, predicted: Rows) -> str:
    """What was measured on, and with what."""
    del predicted
    told = [row for row in rows if "machine" in row]
    versions = {row["torch"] for row in peer if "torch" in row}
    if not told:
        return ""
    found = told[0]
    return "\n".join(
        [
            f"- Device: {found['machine']}, a process of its own; "
            f"{found['cores']} cores.",
            f"- JAX {found['jax']}, Python {found['python']}"
            + (
                f"; PyTorch {', '.join(sorted(versions))}." if versions else "."
            ),
        ]
    )


def _is_plain(row: dict) -> bool:
    parts = row["kind"], row["case"], row["batch_size"], row["precision"]
    usual = "-".join([*map(str, parts), row["recompute"]])
    return row["label"].removesuffix("+tf32") == usual


def steps(rows: Rows, peer: Rows, predicted: Rows) -> str:
    """Training steps, beside the peer's."""
    del predicted
    best = peers(peer)
    cells = []
    for row in latest(rows, "step"):
        if not _is_plain(row):
            continue
        precision = precision_of(row)
        other = best.get(("step", row["case"], row["batch_size"], precision))
        cells.append(
            [
                f"{row['case']}, {row['batch_size']}",
                precision,
                row["recompute"],
                f"{row['queued_ms']:.1f}",
                f"{row['images_per_second']:,.0f}",
                f"{row['tflop_per_second']:.1f}",
                f"{row['peak_gb']:.2f}",
                *_beside(row, other),
                f"{other['peak_gb']:.2f}" if other else "",
            ]
        )
    return _table(
        ["model, batch", "precision", "recompute", "step ms", "images/s"]
        + ["TFLOP/s", "peak GB", "peer ms", "ratio", "peer GB"],
        cells,
    )


def samples(rows: Rows, peer: Rows, predicted: Rows) -> str:
    """Draws of images, beside the peer's."""
    del predicted
    best = peers(peer)
    cells = []
    for row in latest(rows, "sample"):
        precision = precision_of(row)
        other = best.get(("sample", row["case"], row["batch_size"], precision))
        cells.append(
            [
                f"{row['case']}, {row['batch_size']}",
                precision,
                f"{row['queued_ms']:.2f}",
                f"{row['images_per_second']:,.0f}",
                *_beside(row, other),
            ]
        )
    return _table(
        [
            "model, batch",
            "precision",
            "draw ms",
            "images/s",
            "peer ms",
            "ratio",
        ],
        cells,
    )


def checks(rows: Rows, peer: Rows, predicted: Rows) -> str:
    """How far steps are from TensorFlow's."""
    del peer, predicted
    return _table(
        ["program", "worst difference of three steps"],
        [
            [row["label"], f"{row['worst_difference']:.1e}"]
            for row in rows
            if "worst_difference" in row
        ],
    )


def variants(rows: Rows, peer: Rows, predicted: Rows) -> str:
    """Programs of one model that are built differently."""
    del peer, predicted
    measured = latest(rows, "step")
    plain = {
        (row["case"], row["batch_size"], row["recompute"], precision_of(row)): (
            row
        )
        for row in measured
        if _is_plain(row)
    }
    cells = []
    for row in measured:
        key = (
            row["case"],
            row["batch_size"],
            row["recompute"],
            precision_of(row),
        )
        if _is_plain(row) or key not in plain:
            continue
        names = {
            "unrolled": row["unrolled"],
            "masked": row.get("masked"),
            "rounds asked": "+asked" in row["label"],
        }
        usual = plain[key]
        cells.append(
            [
                f"{row['case']}, {row['batch_size']}, {key[3]}",
                ", ".join(name for name, holds in names.items() if holds),
                f"{row['queued_ms']:.1f}",
                f"{row['queued_ms'] / usual['queued_ms']:.2f}",
                f"{row['peak_gb']:.2f}",
                f"{row['compile_seconds']:.0f}",
                f"{usual['compile_seconds']:.0f}",
            ]
        )
    return _table(
        ["model, batch, precision", "change", "step ms", "of the usual"]
        + ["peak GB", "compile s", "usual"],
        cells,
    )


def starts(rows: Rows, peer: Rows, predicted: Rows) -> str:
    """What compiling takes."""
    del peer, predicted
    return _table(
        ["program", "operations", "trace s", "compile s", "beside it"],
        [
            [
                row["label"],
                f"{row['operations']:,}",
                f"{row['trace_seconds']:.1f}",
                f"{row['compile_seconds']:.1f}",
                row["side_by_side"] - 1,
            ]
            for row in rows
            if "queued_ms" in row
        ],
    )


def kernels(rows: Rows, peer: Rows, predicted: Rows, most: int = 15) -> str:
    """Where the device's time goes."""
    del peer, predicted
    parts = []
    for row in rows:
        if "kernels" not in row:
            continue
        parts.append(
            f"`{row['label']}`: {row['launches']:,.0f} kernels in "
            f"{row['busy_ms']:.1f} ms a step."
        )
        parts.append(
            _table(
                ["kernel", "ms a step", "launches", "share"],
                [
                    [
                        f"`{name}`",
                        f"{total:.2f}",
                        f"{count:.0f}",
                        f"{total / row['busy_ms']:.1%}",
                    ]
                    for name, total, count in row["kernels"][:most]
                ],
            )
        )
    return "\n\n".join(parts)


def memory(rows: Rows, peer: Rows, predicted: Rows) -> str:
    """Memory that the compiler predicts, by model, precision and recompute."""
    del rows, peer
    found: dict[tuple, dict] = {}
    for row in predicted:
        if "peak_gb" in row:
            key = row["case"], row["batch_size"], row["precision"]
            found.setdefault(key, {})[row["recompute"]] = row["peak_gb"]
    kinds = ("none", "bn_swish", "cell")
    return _table(
        ["model", "batch", "precision", *kinds, "bn_swish saves"],
        [
            [
                case,
                batch_size,
                precision,
                *(f"{peaks[k]:.1f}" if k in peaks else "" for k in kinds),
                f"{1 - peaks['bn_swish'] / peaks['none']:.0%}"
                if {"none", "bn_swish"} <= peaks.keys()
                else "",
            ]
            for (case, batch_size, precision), peaks in sorted(found.items())
        ],
    )


def errors(rows: Rows, peer: Rows, predicted: Rows) -> str:
    """What did not work."""
    return "\n".join(
        f"- {row.get('label') or row.get('case')}: {row['error']}"
        for row in [*rows, *peer, *predicted]
        if "error" in row
    )


TABLES: dict[str, Callable[[Rows, Rows, Rows], str]] = {
    f.__name__: f
    for f in (
        machine,
        checks,
        steps,
        samples,
        variants,
        starts,
        kernels,
        memory,
        errors,
    )
}


def put_into(page: str, name: str, text: str) -> str:
    """A page with a table in its place.

    Raises:
      ValueError: if the page has no such place.
    """
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    found, count = re.subn(
        pattern, lambda m: f"{m[1]}\n{text}\n\n{m[2]}", page, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"The page has {count} places for {name}.")
    return found


def _beside(row: dict, other: dict | None) -> list[str]:
    if other is None:
        return ["", ""]
    milliseconds = 1e3 * _fastest(other)
    return [f"{milliseconds:.1f}", f"{row['queued_ms'] / milliseconds:.2f}"]


def _table(headings: list[str], cells: Iterable[list]) -> str:
    cells = list(cells)
    return table(headings, cells) if cells else ""


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; prints the tables, or puts them into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rows", help="of run.py")
    add("--peer", help="of the PyTorch peer")
    add("--predicted", help="of predict.py")
    add("--page", type=pathlib.Path, help="to put the tables into")
    given = parser.parse_args(arguments)
    sources = read(given.rows), read(given.peer), read(given.predicted)
    tables = {name: make(*sources) for name, make in TABLES.items()}
    if given.page is None:
        for name, text in tables.items():
            if text:
                print(f"## {name}\n\n{text}\n")
        return 0
    page = given.page.read_text("utf-8")
    for name, text in tables.items():
        if text and f"<!-- {name} -->" in page:
            page = put_into(page, name, text)
    given.page.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
