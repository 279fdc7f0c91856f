"""Plots of how a training step grows."""

import pathlib

from benchmarks import growth, results
from nvae_tf.core.errors import UserError
from nvae_tf.core.files import replacing

__all__ = ["draw", "new_figure"]

_PANELS = {
    "step time per image, smallest = 1": lambda r: (
        r["step_seconds"] / r["batch_size"]
    ),
    "MFU, %": lambda r: 100 * r["mfu"],
    "start-up, smallest = 1": lambda r: r["start_seconds"],
    "graph nodes, thousands": lambda r: r["nodes"] / 1e3,
    "peak memory, GB": lambda r: r["peak_gb"],
}
_RELATIVE = "smallest = 1"


def draw(store: results.Results, folder) -> dict[str, pathlib.Path]:
    """Draws a figure for every axis that was measured at two points or more.

    Args:
      store: of the results.
      folder: where to write `growth_AXIS.png`.

    Returns:
      The files by axis.

    Raises:
      UserError: if matplotlib is missing.
    """
    measured = [r for r in store.read("growth").values() if "error" not in r]
    files = {}
    for axis in growth.AXES:
        curves: dict[str, list[dict]] = {}
        for result in measured:
            if result["axis"] == axis:
                label = (
                    f"{result['precision']}, recompute={result['recompute']}"
                )
                curves.setdefault(label, []).append(result)
        if any(len(curve) > 1 for curve in curves.values()):
            files[axis] = pathlib.Path(folder) / f"growth_{axis}.png"
            _draw_axis(axis, curves, files[axis])
    return files


def new_figure(width: float, height: float):
    """An empty figure of matplotlib's, in inches, for a file.

    Raises:
      UserError: if matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "Plots need matplotlib: pip install 'nvae_tf[report]'."
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_axis(axis: str, curves: dict, path: pathlib.Path) -> None:
    figure = new_figure(11, 5.6)
    *panels, last = figure.subplots(2, 3).flat
    for panel, title in zip(panels, _PANELS, strict=True):
        _draw_panel(panel, title, curves)
        if axis != "groups":
            panel.set_xscale("log", base=2)
        values = sorted({r["value"] for c in curves.values() for r in c})
        panel.set_xticks(values, [str(v) for v in values])
        panel.minorticks_off()
    # The cost of a convolution is a power of these: a straight line.
    if axis in ("channels", "resolution"):
        panels[0].set_ylim(auto=True)
        panels[0].set_yscale("log", base=2)
        panels[0].yaxis.set_major_formatter("{x:g}")
    for panel in panels[2:]:
        panel.set_xlabel(growth.AXES[axis].title)
    last.axis("off")
    last.legend(*panels[0].get_legend_handles_labels(), loc="center")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _draw_panel(panel, title: str, curves: dict[str, list[dict]]) -> None:
    value = _PANELS[title]
    unit = 1.0
    if title.endswith(_RELATIVE):
        # Of the first curve, so that the others can be compared with it.
        unit = value(min(next(iter(curves.values())), key=_value))
    for label, curve in curves.items():
        curve = sorted(curve, key=_value)
        panel.plot(
            [r["value"] for r in curve],
            [value(r) / unit for r in curve],
            marker="o",
            label=label,
        )
    largest = max(value(r) for curve in curves.values() for r in curve)
    panel.set_ylim(0, 1.15 * largest / unit)
    panel.set_title(title, fontsize=10)
    panel.grid(alpha=0.3)


def _value(result: dict) -> int:
    return result["value"]
