"""`nvae train --config=... --dry_run`: a run in words, before it starts.

`describe` prints what `nvae_tf.training.run_plan` finds out: the latent
groups, the parameters, an estimate of the memory, the steps and what would go
wrong.
"""

from __future__ import annotations

import textwrap

from nvae_tf.config import RECOMPUTE, Config
from nvae_tf.training.run_plan import Plan, make_plan

__all__ = ["describe"]

_WIDTH = 80


def describe(config: Config, num_replicas: int = 1) -> str:
    """`make_plan` as text for people: lines of at most 80 characters.

    Args:
      config: of the run.
      num_replicas: devices that would train together.
    """
    plan = make_plan(config, num_replicas)
    model, train = config.model, config.train
    size = f"{model.image_size}x{model.image_size}x{model.image_channels}"
    padded = f", padded to {model.padded_size}" if model.padding else ""
    pairs = model.num_flow_pairs
    flow = f"{_count(pairs, 'flow pair')} each" if pairs else "no flow"
    per_value = plan.num_latent_values / model.num_dimensions
    lines = [
        f"{config.name}: a dry run, nothing is trained",
        "",
        *_fact(
            "images",
            f"{size}{padded}, {_count(model.num_bits, 'bit')}, "
            f"{model.likelihood} likelihood",
        ),
        *(
            _fact("classes", f"{plan.num_classes:,}, told prior and decoder")
            if plan.num_classes
            else ()
        ),
        *_fact("parameters", f"{plan.num_parameters:,} trainable"),
        *(
            _fact("begins with", f"the weights of {train.initial_model}")
            if train.initial_model
            else ()
        ),
        *_fact(
            "latents",
            f"{_count(model.num_groups, 'group')}, {flow}; "
            f"{plan.num_latent_values:,} values, {per_value:.3g} per value "
            "of the image",
        ),
        "",
        *_scale_table(plan),
        "",
        *_memory_table(config, plan),
        "",
        *_fact(
            "batch",
            f"{train.batch_size:,} x {_count(num_replicas, 'replica')} "
            + (f"x {train.accumulate:,} passes " * (train.accumulate > 1))
            + f"= {plan.effective_batch:,} images",
        ),
        *_fact("data", _data_line(config, plan)),
        *_fact("steps", _steps_line(train.epochs, plan)),
        "",
    ]
    if not plan.problems:
        return "\n".join([*lines, "No problem is foreseen."])
    first, *others = plan.problems
    lines += _wrap("Problem: ", first)
    for other in others:
        lines += _wrap("Then:    ", other)
    return "\n".join(lines)


def _scale_table(plan: Plan) -> list[str]:
    """One line per scale, in the order of the top-down walk."""
    rows = [
        ("groups", "number", "latent shape", "values", "encoder", "decoder")
    ]
    for scale in plan.scales:
        last = scale.first_group + scale.num_groups - 1
        numbers = f"{scale.first_group}-{last}"
        rows.append(
            (
                numbers if scale.num_groups > 1 else str(last),
                str(scale.num_groups),
                "x".join(map(str, scale.shape)),
                f"{scale.num_values:,}",
                f"{scale.encoder_channels} ch",
                f"{scale.decoder_channels} ch",
            )
        )
    return _table(rows)


def _memory_table(config: Config, plan: Plan) -> list[str]:
    """Estimated memory by what is recomputed; a star for what is set."""
    batch = config.train.batch_size
    rows = [("recompute", "per image", f"a batch of {batch:,}", "in all")]
    for recompute in RECOMPUTE:
        size = getattr(plan.activations, recompute)
        rows.append(
            (
                f"{recompute} *"
                if recompute == config.recompute
                else recompute,
                _bytes(size),
                _bytes(size * batch),
                _bytes(size * batch + plan.state_bytes),
            )
        )
    device = "machine" if plan.device == "CPU" else plan.device
    size = "unknown memory"
    if plan.device_bytes is not None:
        size = _bytes(plan.device_bytes)
    heading = (
        f"Least memory of one replica in {config.precision}: activations kept "
        "for the backward pass, and in all with "
        f"{_bytes(plan.state_bytes)} for weights, gradients and optimiser."
    )
    return [
        *_wrap("", heading),
        f"This {device} has {size}.",
        *_table(rows),
        "* as configured; the others with --config.recompute.",
    ]


def _data_line(config: Config, plan: Plan) -> str:
    data = config.data
    name = data.name or data.path
    source = f"{data.source} {name}".strip()
    if plan.num_images is None:
        return f"{source}, number of images unknown"
    return f"{source}, {plan.num_images:,} training images"


def _steps_line(epochs: int, plan: Plan) -> str:
    if plan.num_steps is None:
        return f"{epochs:,} epochs, steps unknown"
    return (
        f"{plan.steps_per_epoch:,} per epoch, {plan.num_steps:,} in "
        f"{epochs:,} epochs"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def _bytes(count: float) -> str:
    """Decimal units, three digits, as memory is sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    decimals = 0 if unit == "B" else max(0, 3 - len(str(int(count))))
    return f"{count:,.{decimals}f} {unit}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns flush right, a rule under the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  "
        + "   ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "  " + "   ".join("-" * width for width in widths))
    return lines


def _fact(label: str, text: str) -> list[str]:
    return _wrap(label.ljust(13), text)


def _wrap(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
