"""How a training step grows with groups, channels, resolution and batch.

    python -m benchmarks.growth --axes=groups --recompute=none,cell

One thing grows, all else stays; every point is a case of
`benchmarks.train_step` with changes, in a process of its own.
"""

import dataclasses
import itertools

from absl import flags

from benchmarks import cases, results, step_flags
from benchmarks.processes import measured
from nvae_tf.core.errors import UserError

__all__ = ["AXES", "Axis", "Point", "run"]


@dataclasses.dataclass(frozen=True)
class Point:
    """One place on an axis.

    Attributes:
      value: of what grows.
      changes: of the case's model.
      batch_size: another than the case's.
    """

    value: int
    changes: dict
    batch_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Axis:
    """What grows.

    Attributes:
      case: that is changed.
      title: of the plot's axis.
      points: smallest first.
    """

    case: str
    title: str
    points: tuple[Point, ...]


_TEN_GROUPS = {"num_groups_per_scale": 10}

AXES = {
    "groups": Axis(
        "deep",
        "latent groups",
        tuple(
            Point(n, {"num_groups_per_scale": n}) for n in (5, 10, 20, 30, 60)
        ),
    ),
    "channels": Axis(
        "deep",
        "base channels",
        tuple(
            Point(
                n,
                {
                    **_TEN_GROUPS,
                    "num_channels_enc": n,
                    "num_channels_dec": n,
                },
            )
            for n in (16, 32, 64, 128)
        ),
    ),
    "resolution": Axis(
        "deep",
        "height and width of the image",
        tuple(
            Point(n, {**_TEN_GROUPS, "image_size": n}, 1)
            for n in (32, 64, 128, 256)
        ),
    ),
    "batch": Axis(
        "small",
        "images in a batch",
        tuple(Point(n, {}, n) for n in (8, 16, 32, 64, 128)),
    ),
    # Seconds, to try the benchmark itself out.
    "tiny": Axis(
        "tiny",
        "latent groups",
        tuple(Point(n, {"num_groups_per_scale": n}) for n in (2, 3)),
    ),
}


def run(
    store: results.Results,
    axes,
    precisions=("float32",),
    recomputes=(cases.RECOMPUTE,),
    seconds: float = 8.0,
) -> None:
    """Measures axes, and prints and keeps the results.

    Args:
      store: where to keep them; names are "AXIS VALUE PRECISION RECOMPUTE".
      axes: keys of `AXES`.
      precisions: to compute in.
      recomputes: what the backward pass computes again.
      seconds: how long to take steps, two at least.
    """
    for name in axes:
        if name not in AXES:
            raise UserError(
                f"There is no axis {name!r}; choose some of {', '.join(AXES)}."
            )
    step_flags.check(precisions, recomputes)
    for name in axes:
        rows = []
        for precision, recompute, point in itertools.product(
            precisions, recomputes, AXES[name].points
        ):
            result = measured(
                "benchmarks.train_step:measure",
                name=AXES[name].case,
                precision=precision,
                recompute=recompute,
                seconds=seconds,
                batch_size=point.batch_size,
                changes=point.changes,
            )
            label = f"{point.value} {precision} {recompute}"
            store.add(
                "growth",
                f"{name} {label}",
                result | {"axis": name, "value": point.value},
            )
            rows.append(_row(label, result))
            print(name, *rows[-1], flush=True)
        print(
            results.table(
                [name, "step ms", "MFU", "nodes", "start s", "peak GB"], rows
            )
        )


def _row(label: str, result: dict) -> list[str]:
    if "error" in result:
        return [label, result["error"], *[""] * 4]
    return [
        label,
        f"{1e3 * result['step_seconds']:.1f}",
        f"{result['mfu']:.1%}",
        f"{result['nodes']:,}",
        f"{result['start_seconds']:.1f}",
        f"{result['peak_gb']:.2f}",
    ]


def _main(_) -> None:
    values = flags.FLAGS
    run(
        results.from_flags(),
        values.axes,
        values.precision,
        values.recompute,
        values.seconds,
    )


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_list(
        "axes",
        ["groups", "channels", "resolution", "batch"],
        "What grows.",
    )
    step_flags.define(seconds=8.0)
    results.define_folder()
    command_line.run(_main)
