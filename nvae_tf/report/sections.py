"""What a report says of a run's records and configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nvae_tf.config import Config
from nvae_tf.evaluation.sample_quality import frechet_title
from nvae_tf.report import plots as report_plots
from nvae_tf.report.page import Figure, Row, Section, Table, figure
from nvae_tf.report.records import History, is_number, leaves

__all__ = [
    "configuration",
    "evaluations",
    "events",
    "facts",
    "latents",
    "training",
]

# Values of evaluations that become columns, with their headings.
_COLUMNS = {
    "nelbo": "NELBO, nats",
    "nll": "-log p(x), nats",
    "num_importance_samples": "K",
    "bits_per_dim": "NELBO, bits/dim",
    "nll_bits_per_dim": "-log p(x), bits/dim",
    "reconstruction_nll": "reconstruction, nats",
    "kl": "KL, nats",
    "num_images": "images",
    "nelbo_standard_error": "NELBO, standard error",
    "nll_standard_error": "-log p(x), standard error",
}
_MOST_EVENTS = 200
# Beyond this a number is shown by its exponent.
_LONG = 1e15


def facts(
    config: Config,
    history: History,
    evaluation: Mapping[str, Any] = {},
    ema: bool | None = None,
) -> list[tuple[str, str]]:
    """The numbers to put first: the latest evaluation and the model's size.

    Args:
      config: of the run.
      history: of the run.
      evaluation: of evaluation.json; counts where it is of held-out images,
        unless training evaluated again since, or the same weights on more.
      ema: whether the numbers of the averaged weights count; None if the run
        keeps them.
    """
    model = config.model
    found = []
    is_average = bool(history.averaged) and ema is not False
    records = history.averaged if is_average else history.evaluations
    last = records[-1] if records else None
    step = evaluation.get("step")
    step = step if is_number(step) else 0
    is_held_out = "nelbo" in evaluation and evaluation.get("split") != "train"
    if is_held_out and (
        last is None
        or step > last["step"]
        or (step == last["step"] and not _is_quick_look(evaluation, last))
    ):
        last = evaluation
        is_average = bool(evaluation.get("ema"))
    if last is not None:
        found += [
            (_COLUMNS[name], shown(last[name]))
            for name in ("nelbo", "bits_per_dim", "nll")
            if last.get(name) is not None
        ]
        if last.get("step") is not None:
            found.append(("held out, at step", shown(last["step"])))
        if config.train.ema_decay:
            found.append(
                ("weights", "averaged" if is_average else "as trained")
            )
    elif history.train and history.train[-1].get("nelbo") is not None:
        found.append(
            ("NELBO of the last batch, nats", shown(history.train[-1]["nelbo"]))
        )
    groups = " + ".join(map(str, model.groups_top_down))
    return [
        *found,
        ("latent groups, coarse to fine", groups),
        (
            "image",
            f"{model.image_size} x {model.image_size} x "
            f"{model.image_channels}, {model.num_bits} "
            f"bit{'s' if model.num_bits > 1 else ''}",
        ),
        ("likelihood", model.likelihood),
        ("precision", config.precision),
    ]


def _is_quick_look(evaluation: Mapping, other: Mapping) -> bool:
    """Whether it is of fewer images than another of the same step."""
    counts = evaluation.get("num_images"), other.get("num_images")
    return all(map(is_number, counts)) and counts[0] < counts[1]


def training(config: Config, history: History) -> Section:
    """Curves over the steps."""
    figures = []

    def add(caption, names, points=(), averaged=(), label="nats"):
        curves = _present(history, names, "train")
        marks = _present(history, points, "evaluations")
        marks |= _present(history, averaged, "averaged")
        if curves or marks:
            plot = report_plots.lines(curves, marks, label)
            figures.append(figure(plot, caption))

    add(
        "Negative evidence lower bound",
        {"nelbo": "training batches"},
        {"nelbo": "held out", "nll": "held out, -log p(x)"},
        {"nelbo": "held out, averaged weights"},
    )
    add(
        "Its two parts on training batches",
        {"reconstruction_nll": "reconstruction", "kl": "KL"},
    )
    add(
        "Coefficients",
        {
            "beta": "beta (KL)",
            "regularization": "lambda",
            "learning_rate": "learning rate",
        },
        label="",
    )
    add(
        "Gradient norm and regularised norms",
        {
            "gradient_norm": "gradient",
            "spectral": "sum of singular values",
            "batch_norm": "sum of max |gamma|",
        },
        label="",
    )
    if _ever(history, "skipped"):
        add("Skipped steps so far", {"skipped": "skipped"}, label="steps")
    if config.precision == "mixed_float16":
        add("Loss scale", {"loss_scale": "loss scale"}, label="")
    text = "" if figures else "No record of training yet."
    return Section("Training", text, tuple(figures))


def latents(config: Config, history: History) -> Section:
    """KL and active latents of every group."""
    scales = config.model.groups_top_down
    figures: list[Figure] = []
    channels = config.model.num_latent_per_group
    for name, caption, label, largest in (
        (
            "kl_per_group",
            "KL per latent group on training batches"
            + ("; white lines part the scales" if len(scales) > 1 else ""),
            "nats",
            None,
        ),
        (
            "active_latents",
            "Active latents per group on training batches: channels whose KL "
            f"exceeds 0.1 nats, of {channels}",
            "channels",
            channels,
        ),
    ):
        series = history.series(name)
        if series is not None and series.values.ndim == 2:
            plot = report_plots.heatmap(series, scales, label, largest)
            figures.append(figure(plot, caption))
    if history.evaluations:
        last = history.evaluations[-1]
        for name, caption, label in (
            ("kl_per_group", "KL per latent group", "nats"),
            ("active_latents", "Active latents per group", "channels"),
        ):
            values = last.get(name)
            if isinstance(values, list) and len(values) == sum(scales):
                heights = np.array(values, np.float64)
                plot = report_plots.group_bars(heights, scales, label)
                where = f"{caption}, held out, at step {last['step']:,}"
                figures.append(figure(plot, where))
    return Section("Latent groups", "", tuple(figures))


def evaluations(
    history: History, results: Mapping[str, dict[str, Any]]
) -> Section:
    """Numbers on images: of evaluations during training, and of commands.

    Args:
      history: of the run.
      results: what commands measured, by the names of their files.
    """
    tables = [
        table
        for records, what in (
            (history.averaged, "step, averaged weights"),
            (history.evaluations, "step"),
        )
        for table in _table_of(records, what)
    ]
    for file, result in results.items():
        rows = [
            Row((_COLUMNS.get(name, name), shown(value)))
            for name, value in leaves(_with_frechet_title(result))
            if not isinstance(value, list)
        ]
        if rows:
            tables.append(Table((file, "value"), tuple(rows), wraps=True))
    text = "" if tables else "Not evaluated yet."
    return Section("Evaluation", text, (), tuple(tables))


def _table_of(records: Sequence[Mapping], what: str) -> list[Table]:
    """A table of evaluations, the latest first; none without any."""
    columns = [
        name
        for name in _COLUMNS
        if any(r.get(name) is not None for r in records)
    ]
    if not columns:
        return []
    rows = [
        Row(tuple(shown(r.get(name)) for name in ("step", *columns)))
        for r in reversed(records)
    ]
    header = (what, *(_COLUMNS[name] for name in columns))
    title = f"All {len(rows)} evaluations" if len(rows) > 10 else ""
    return [Table(header, tuple(rows), title)]


def events(history: History) -> Section:
    """What happened besides steps: rollbacks, changes, skipped steps."""
    rows = [
        Row((shown(r["step"]), str(r.get("kind", "")), _details(r)))
        for r in history.events[-_MOST_EVENTS:]
    ]
    skipped = _ever(history, "skipped")
    text = (
        f"{skipped:,} steps were skipped because their gradient was not "
        "finite or too long."
        if skipped
        else "No step was skipped."
        if history.train
        else ""
    )
    if not rows:
        return Section("Events", text)
    table = Table(("step", "event", "details"), tuple(rows), wraps=True)
    return Section("Events", text, (), (table,))


def configuration(config: Config) -> Section:
    """Every key; those that are not the default stand out."""
    defaults = dict(leaves(Config().to_dict()))
    rows = tuple(
        Row((key, shown(value)), value != defaults[key])
        for key, value in leaves(config.to_dict())
    )
    changed = tuple(row for row in rows if row.is_changed)
    header = ("key", "value")
    return Section(
        "Configuration",
        "Keys that differ from the defaults; then all.",
        (),
        (
            Table(header, tuple(Row(r.cells) for r in changed), wraps=True),
            Table(header, rows, f"All {len(rows)} keys", wraps=True),
        ),
    )


def shown(value: Any, depth: int = 3) -> str:
    """A value as people read it.

    Args:
      value: of JSON.
      depth: of lists and groups within it; what is deeper is left out.
    """
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, list | tuple | dict):
        if not depth:
            return "..."
        if isinstance(value, dict):
            return ", ".join(
                f"{key}: {shown(item, depth - 1)}"
                for key, item in value.items()
            )
        return ", ".join(shown(item, depth - 1) for item in value)
    if abs(value) >= _LONG or not math.isfinite(value):
        return f"{value:.4g}"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.4g}" if abs(value) < 10 else f"{value:,.2f}"
    return f"{int(value):,}"


def _with_frechet_title(result: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its Frechet distance under the name that it may have."""
    keys = ("frechet_distance", "fid")
    if not any(key in result for key in keys):
        return dict(result)
    title = frechet_title(result)
    return {
        (title if name in keys else name): value
        for name, value in result.items()
    }


def _details(record: dict[str, Any]) -> str:
    """All else that an event's record holds, as text."""
    parts = []
    for key, value in record.items():
        if key in ("step", "kind"):
            continue
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            parts.append(f"{key}: {'; '.join(value)}")
        else:
            parts.append(f"{key}: {shown(value)}")
    return ", ".join(parts)


def _present(history: History, names, kind: str) -> dict:
    """Series by their legends, of those names that were recorded."""
    names = dict.fromkeys(names) if not isinstance(names, dict) else names
    found = {
        legend: history.series(name, kind) for name, legend in names.items()
    }
    return {
        k: s for k, s in found.items() if s is not None and s.values.ndim == 1
    }


def _ever(history: History, name: str) -> int:
    """The latest count of something, 0 if it is not recorded."""
    values = [r[name] for r in history.train if is_number(r.get(name))]
    counts = [value for value in values if value]
    return int(counts[-1]) if counts else 0
