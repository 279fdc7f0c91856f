"""The plots of a report, as PNG files.

matplotlib is imported where it is used: it comes with the extra `report`.
"""

from __future__ import annotations

import io
import typing
from collections.abc import Mapping, Sequence

import numpy as np

from nvae_tf.report.records import Series

__all__ = ["group_bars", "heatmap", "lines"]

# Told apart also by people who do not see all colours.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SIZE = (5.6, 3.3)  # Inches: legible when a telephone shrinks it.
_DPI = 160
_MOST_POINTS = 500
# Largest over smallest value from which on an axis is logarithmic.
_WIDE_RANGE = 8.0
_SHOWN_PERCENT = 97.0


class _Axes(typing.NamedTuple):
    figure: typing.Any
    axes: typing.Any


def lines(
    curves: Mapping[str, Series],
    points: Mapping[str, Series] = {},
    label: str = "",
) -> bytes:
    """Quantities over the steps.

    Args:
      curves: drawn as lines, by their names in the legend.
      points: drawn as marks, joined thinly.
      label: of the vertical axis.

    Returns:
      A PNG file.
    """
    figure, axes = _new()
    colors = iter(_COLORS * 3)
    for name, series in curves.items():
        thin = series.thinned(_MOST_POINTS)
        axes.plot(
            thin.steps, thin.values, label=name, color=next(colors), lw=1.3
        )
    for name, series in points.items():
        axes.plot(
            series.steps,
            series.values,
            label=name,
            color=next(colors),
            marker="o",
            ms=4,
            lw=0.8,
        )
    values = [s.values for s in (*curves.values(), *points.values())]
    axes.yaxis.set_major_formatter(lambda value, _: _text(value))
    _choose_scale(axes, np.concatenate(values))
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    _add_legend(figure)
    return _finished(figure, axes)


def heatmap(
    series: Series,
    scales: Sequence[int],
    label: str,
    largest: float | None = None,
) -> bytes:
    """A quantity per latent group over the steps.

    Args:
      series: values `[N, L]`, not negative.
      scales: groups of each scale, top-down; lines part the scales.
      label: of the colours.
      largest: the values go evenly from 0 to this; None where they differ by
        orders of magnitude: the colours then follow their square root, and
        end where the first steps' huge values begin.

    Returns:
      A PNG file.
    """
    figure, axes = _new(height=_SIZE[1] + 0.03 * sum(scales))
    thin = series.thinned(_MOST_POINTS)
    groups = thin.values.shape[1]
    values, highest = np.maximum(thin.values, 0.0).T, largest
    if largest is None:
        values = np.sqrt(values)
        known = values[np.isfinite(values)]
        highest = np.percentile(known, _SHOWN_PERCENT) if len(known) else 1.0
    mesh = axes.pcolormesh(
        _edges(thin.steps),
        np.arange(groups + 1) - 0.5,
        values,
        cmap="viridis",
        vmin=0.0,
        vmax=highest or 1.0,
    )
    for boundary in np.cumsum(scales)[:-1]:
        axes.axhline(boundary - 0.5, color="white", lw=1.5)
    axes.set_ylim(groups - 0.5, -0.5)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("latent group, top-down")
    bar = figure.colorbar(
        mesh, ax=axes, pad=0.02, extend="max" if largest is None else "neither"
    )
    bar.set_label(label)
    if largest is None:
        ticks = np.linspace(0.0, highest or 1.0, 5)
        bar.set_ticks(ticks, labels=[_text(t * t, 3) for t in ticks])
    else:
        bar.ax.yaxis.get_major_locator().set_params(integer=True)
    return _finished(figure, axes)


def group_bars(values: Sequence[float], scales: Sequence[int], label) -> bytes:
    """One number per latent group.

    Args:
      values: `[L]`, top-down.
      scales: groups of each scale, top-down; each has its colour.
      label: of the vertical axis.

    Returns:
      A PNG file.
    """
    figure, axes = _new()
    start = 0
    for number, count in enumerate(scales):
        axes.bar(
            np.arange(start, start + count),
            values[start : start + count],
            color=_COLORS[number % len(_COLORS)],
            label=f"scale {number}" + (" (coarsest)" if not number else ""),
        )
        start += count
    if len(scales) > 1:
        _add_legend(figure)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", alpha=0.25)
    axes.set_ylabel(label)
    return _finished(figure, axes, "latent group, top-down")


def _new(height: float = _SIZE[1]) -> _Axes:
    """A figure that no window and no global state knows."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(_SIZE[0], min(height, 6.0)), dpi=_DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return _Axes(figure, axes)


def _add_legend(figure) -> None:
    """Above the axes, where it hides nothing."""
    figure.legend(loc="outside upper left", ncols=3, fontsize=8, frameon=False)


def _choose_scale(axes, values: np.ndarray) -> None:
    """Logarithmic where the values span a wide range above 0."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    if values.min() > 0 and values.max() > _WIDE_RANGE * values.min():
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_yscale("log")
        few = values.max() < 200 * values.min()
        subs = (1.0, 2.0, 5.0) if few else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(lambda value, _: _text(value))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _text(value: float, digits: int = 6) -> str:
    """A number at an axis, without an exponent where it is of common size."""
    if 100 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _edges(steps: np.ndarray) -> np.ndarray:
    """Borders between steps, `[N]` -> `[N + 1]`."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = (steps[1:] + steps[:-1]) / 2
    first, last = 2 * steps[0] - middle[0], 2 * steps[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])


def _finished(figure, axes, label: str = "step") -> bytes:
    axes.set_xlabel(label)
    if label == "step":
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.get_major_locator().set_params(nbins=6)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
