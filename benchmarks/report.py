"""Puts results into docs/developers/performance.md.

    python -m benchmarks.report

replaces what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` in
the document by tables and plots of the results; the text around is kept, and
so are the parts that nothing was measured for.  Ratios and counts only: times
belong to one machine.
"""

import os
import pathlib
import re

from absl import flags

from benchmarks import (
    cases,
    growth,
    plots,
    results,
    roofline,
    sampling,
    targets,
)
from benchmarks.train_step import PHASES, name_of
from nvae_tf.core.errors import UserError
from nvae_tf.core.files import write_bytes

__all__ = ["blocks", "fill"]

# Which rate of training a source of images has to keep up with.
_FED = {
    "MNIST": name_of("small"),
    "CIFAR-size": name_of("deep"),
    "faces": name_of("celeba_hq256", recompute="cell"),
}


def fill(text: str, content: dict[str, str]) -> str:
    """Replaces the marked parts of a document.

    Args:
      text: of the document.
      content: new parts by name; those left out stay.

    Raises:
      UserError: if the document lacks the marks of a part.
    """
    for name, part in content.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(
            f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL
        )
        if not pattern.search(text):
            raise UserError(
                f"The document has no part between {begin!r} and {end!r}."
            )
        whole = f"{begin}\n\n{part}\n\n{end}"
        text = pattern.sub(lambda _, whole=whole: whole, text)
    return text


def blocks(store: results.Results, document: pathlib.Path) -> dict[str, str]:
    """The parts of the document that there are results for.

    Args:
      store: of the results.
      document: its plots go to the folder of its name.
    """
    figures = plots.draw(store, document.with_suffix(""))
    made = {
        "targets": _targets(store),
        "peer": _peer(store),
        "train_step": _train_steps(store),
        "start": _starts(store),
        "roofline": _roofline(store),
        "sampling": _sampling(store),
        "scaling": _scaling(store),
        "input": _input(store),
        **{
            f"growth_{axis}": _growth(store, axis, path, document)
            for axis, path in figures.items()
            if axis != "tiny"
        },
    }
    return {name: text for name, text in made.items() if text}


def _good(store: results.Results, benchmark: str) -> dict[str, dict]:
    return {
        name: result
        for name, result in store.read(benchmark).items()
        if "error" not in result
    }


def _table(headings, rows) -> str:
    return results.table(headings, rows) if rows else ""


def _targets(store) -> str:
    if not _good(store, "train_step"):
        return ""
    return targets.compare(store, with_times=False)


def _peer(store) -> str:
    steps, samplers = [], []
    for name, result in _good(store, "compare_peer").items():
        case, _, program = name.partition(" ")
        ratios = [f"{result['ratio']:.2f}"]
        ratios.append(
            f"{min(result['ratios']):.2f} to {max(result['ratios']):.2f}"
        )
        peak = f"{result['peak_ratio']:.2f}"
        if program.startswith("step "):
            start = f"{result['start_ratio']:.1f}"
            precision = program.removeprefix("step ")
            steps.append([f"{case}, {precision}", *ratios, start, peak])
        else:
            samplers.append([f"{case}, {program}", *ratios, peak])
    tables = (
        _table(
            ["case, precision", "time of a step", "from round to round"]
            + ["process start to first step", "peak memory"],
            steps,
        ),
        _table(
            ["case, program", "images per second", "from round to round"]
            + ["peak memory"],
            samplers,
        ),
    )
    return "\n\n".join(filter(None, tables))


def _train_steps(store) -> str:
    return _table(
        ["case, precision, recompute", "batch", "groups", "parameters"]
        + ["forward GFLOP", "MFU", "nodes", "peak GB"],
        [
            [
                name.replace(" ", ", "),
                result["batch_size"],
                result["groups"],
                f"{result['parameters'] / 1e6:.1f} M",
                f"{result['forward_flop'] / 1e9:.3g}",
                f"{result['mfu']:.1%}",
                f"{result['nodes']:,}",
                f"{result['peak_gb']:.2f}",
            ]
            for name, result in _good(store, "train_step").items()
        ],
    )


def _starts(store) -> str:
    return _table(
        ["case, precision, recompute", "in all", *PHASES],
        [
            [
                name.replace(" ", ", "),
                *(
                    f"{seconds / result['tensorflow_seconds']:.1f}"
                    for seconds in (
                        result["start_seconds"],
                        *(result["phases"][phase] for phase in PHASES),
                    )
                ),
            ]
            for name, result in _good(store, "train_step").items()
        ],
    )


def _roofline(store) -> str:
    found = _good(store, "roofline")
    if not found:
        return ""
    columns = {
        case: {family["name"]: family for family in result["families"]}
        for case, result in found.items()
    }
    rows = []
    for name in roofline.FAMILIES:
        cells = []
        for families in columns.values():
            family = families.get(name)
            cells += (
                [f"{family['share']:.0%}", f"{family['roof']:.0%}"]
                if family
                else ["", ""]
            )
        rows.append([name, *cells])
    whole, at_once = ["all"], ["operations at a time"]
    for result in found.values():
        whole += ["100%", f"{result['roof']:.0%}"]
        at_once += [f"{result['at_once']:.1f}", ""]
    headings = [
        heading
        for case in columns
        for heading in (f"{case}: time", "roof over it")
    ]
    return results.table(["operations", *headings], [*rows, whole, at_once])


def _growth(store, axis: str, path: pathlib.Path, document) -> str:
    link = os.path.relpath(path, document.parent)
    points = sorted(
        (
            result
            for result in _good(store, "growth").values()
            if result["axis"] == axis
        ),
        key=lambda r: (
            r["recompute"] != cases.RECOMPUTE,
            r["recompute"],
            r["value"],
        ),
    )
    first = points[0]
    rows = [
        [
            result["value"],
            result["recompute"],
            f"{_per_image(result) / _per_image(first):.2f}",
            f"{result['mfu']:.1%}",
            f"{result['nodes']:,}",
            f"{result['start_seconds'] / first['start_seconds']:.2f}",
            f"{result['peak_gb']:.2f}",
        ]
        for result in points
    ]
    title = growth.AXES[axis].title
    return f"![Growth with {title}]({link})\n\n" + results.table(
        [title, "recompute", "step time per image", "MFU", "nodes"]
        + ["start-up", "peak GB"],
        rows,
    )


def _per_image(result: dict) -> float:
    return result["step_seconds"] / result["batch_size"]


def _sampling(store) -> str:
    found = _good(store, "sampling")
    rows = []
    for name, result in found.items():
        case, _, program = name.partition(" ")
        live = found.get(f"{case} {sampling.PROGRAMS[0]}")
        ratio = result["images_per_gflop"]
        rows.append(
            [
                case,
                program,
                f"{ratio / live['images_per_gflop']:.2f}" if live else "",
                f"{ratio:.2f}",
                f"{result['peak_gb']:.2f}",
            ]
        )
    return _table(
        ["case", "program", "over the live model", "images per GFLOP"]
        + ["peak GB"],
        rows,
    )


def _scaling(store) -> str:
    found = sorted(
        _good(store, "scaling").values(), key=lambda r: r["processes"]
    )
    if len(found) < 2:
        return ""
    first = found[0]["images_per_second"] / found[0]["processes"]
    rows = []
    for result in found:
        ratio = result["images_per_second"] / first
        count = result["processes"]
        start = result["start_seconds"] / found[0]["start_seconds"]
        efficiency = f"{ratio / count:.0%}"
        rows.append([count, f"{ratio:.2f}", efficiency, f"{start:.2f}"])
    return results.table(
        [
            "processes",
            "images/s, one process = 1",
            "efficiency",
            "start to first step, one process = 1",
        ],
        rows,
    )


def _input(store) -> str:
    trained = _good(store, "train_step")
    rows = []
    for name, result in _good(store, "input_pipeline").items():
        fed = trained.get(_FED.get(name.partition(",")[0], ""))
        if fed:
            ratio = result["images_per_second"] / fed["images_per_second"]
            rows.append([name, f"{ratio:,.0f}"])
    return _table(["source", "images read while one is trained on"], rows)


def _main(_) -> None:
    store = results.from_flags()
    document = pathlib.Path(flags.FLAGS.document)
    try:
        text = document.read_text("utf-8")
    except OSError as error:
        raise UserError(f"--document={document}: {error.strerror}.") from error
    content = blocks(store, document)
    if not content:
        raise UserError(
            f"There are no results in {store.folder}; `make bench` leaves "
            "some, or name another folder with --results."
        )
    write_bytes(document, fill(text, content).encode())
    print(f"{document}: {', '.join(content)}")


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_string(
        "document", "docs/developers/performance.md", "To fill in."
    )
    results.define_folder()
    command_line.run(_main)
