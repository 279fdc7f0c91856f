"""This project and the PyTorch peer learn the same digits, step by step.

    python -m benchmarks.learning_curve --peer_python=OTHER/bin/python

Both train the preset `mnist_demo`, at half its width, on its 4,500 digits, with
the same batch size, schedules and number of steps, and are evaluated on the
500 held-out digits after every epoch; each seed chooses initial weights, order
and noise.  Rows go to --out as they come, and what is there is not computed
again; the plot shows every run.  Takes long on two cores.
"""

import dataclasses
import pathlib
import statistics
import tempfile

import numpy as np
from absl import flags

from benchmarks import cases
from benchmarks.kept_rows import kept_rows
from benchmarks.plots import new_figure
from benchmarks.processes import measured
from nvae_tf.config.run import Config
from nvae_tf.core.errors import UserError
from nvae_tf.core.files import replacing
from nvae_tf.core.json_files import read_json_lines

__all__ = ["PROGRAMS", "draw", "run", "summarize", "train_ours"]

PROGRAMS = ("this project", "PyTorch peer")


def run(out, seeds, epochs: int, *, python: str | None = None) -> list[dict]:
    """Trains what `out` has no row of.

    Args:
      out: JSON lines, one for each run.
      seeds: of the runs of each program.
      epochs: of every run.
      python: the interpreter that has PyTorch; None for this one.

    Returns:
      A dict for every run: "program", "seed", "epochs", and "points", see
      `benchmarks.torch_peer.learn.learn`.

    Raises:
      UserError: if a run fails.
    """
    wishes = [
        {"program": program, "seed": seed, "epochs": epochs}
        for seed in seeds
        for program in PROGRAMS
    ]
    with tempfile.TemporaryDirectory() as folder:
        images = pathlib.Path(folder) / "images.npz"
        np.savez(images, **_images(_config(0, epochs)))

        def compute(wish):
            config = _config(wish["seed"], epochs)
            return _train(wish["program"], config, images, python)

        def told(row):
            nelbo = row["points"][-1]["nelbo"]
            return f"{row['program']} {row['seed']} {nelbo:.2f} nats"

        rows = kept_rows(out, wishes, compute, told)
    return [row for row in rows if row["epochs"] == epochs]


def train_ours(seed: int, epochs: int, started: float | None = None) -> dict:
    """Our training; see `benchmarks.torch_peer.learn.learn`."""
    del started
    from nvae_tf.training import trainer

    with tempfile.TemporaryDirectory() as workdir:
        trainer.train(_config(seed, epochs), workdir)
        records = read_json_lines(pathlib.Path(workdir) / "metrics.jsonl")
        return {
            "points": [
                {
                    "step": record["step"],
                    "nelbo": record["nelbo"],
                    "kl_per_group": record["kl_per_group"],
                    "active": record["active_latents"],
                }
                for record in records
                if record["kind"] == "evaluation"
            ]
        }


def summarize(rows: list[dict]) -> dict:
    """How far the programs' means are apart, and how far seeds are.

    Args:
      rows: of `run`, at least two seeds of each program.

    Returns:
      "step"; "difference", ours less the peer's mean NELBO at each step, and
      "spread", the standard deviation of one run of the peer's there, in nats;
      "active", latent channels in use at the end by program.
    """
    ours, peers = (
        [row["points"] for row in rows if row["program"] == program]
        for program in PROGRAMS
    )
    curves = [
        np.array([[point["nelbo"] for point in points] for points in runs])
        for runs in (ours, peers)
    ]
    return {
        "step": [point["step"] for point in ours[0]],
        "difference": (curves[0].mean(0) - curves[1].mean(0)).tolist(),
        "spread": curves[1].std(0, ddof=1).tolist(),
        "active": {
            program: [points[-1]["active"] for points in runs]
            for program, runs in zip(PROGRAMS, (ours, peers), strict=True)
        },
    }


def draw(rows: list[dict], path) -> None:
    """Plots the NELBO of every run.

    Args:
      rows: of `run`.
      path: of a PNG.

    Raises:
      UserError: if matplotlib is missing.
    """
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    for program, color in zip(PROGRAMS, ("C0", "C1"), strict=True):
        label = program
        for row in rows:
            if row["program"] == program:
                axes.plot(
                    [point["step"] for point in row["points"]],
                    [point["nelbo"] for point in row["points"]],
                    color=color,
                    marker=".",
                    linewidth=1,
                    label=label,
                )
                label = None
    axes.set_xlabel("steps")
    axes.set_ylabel("held-out NELBO, nats")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path, error=UserError) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _config(seed: int, epochs: int) -> Config:
    return cases.half_width_demo(
        seed,
        epochs,
        evaluation__every_epochs=1,
        evaluation__final_importance_samples=1,
    )


def _images(config: Config) -> dict[str, np.ndarray]:
    from nvae_tf.datasets import pipeline

    sources = {
        "train": pipeline.open_source(config, "train"),
        "held_out": pipeline.open_source(config, "validation"),
    }
    return {
        key: np.stack([source[i] for i in range(len(source))])
        for key, source in sources.items()
    }


def _train(program: str, config: Config, images, python) -> dict:
    if program == PROGRAMS[0]:
        return measured(
            "benchmarks.learning_curve:train_ours",
            one_thread=True,
            seed=config.train.seed,
            epochs=config.train.epochs,
        )
    return measured(
        "benchmarks.torch_peer.learn:learn",
        interpreter=python,
        one_thread=True,
        model=dataclasses.asdict(config.model),
        train=dataclasses.asdict(config.train),
        images=str(images),
    )


def _main(_) -> None:
    values = flags.FLAGS
    rows = run(
        values.out,
        map(int, values.seeds),
        values.epochs,
        python=values.peer_python or None,
    )
    if values.figure:
        draw(rows, values.figure)
    found = summarize(rows)
    for step, difference, spread in zip(
        found["step"], found["difference"], found["spread"], strict=True
    ):
        print(f"{step:6d} {difference:+7.2f} nats, spread {spread:.2f}")
    spreads = statistics.mean(found["spread"])
    print(f"mean spread {spreads:.2f} nats; in use at the end:")
    for program, counts in found["active"].items():
        print(f"  {program}: {counts}")


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_list("seeds", ["1", "2", "3"], "Of the runs of each program.")
    flags.DEFINE_integer("epochs", 8, "Of every run.", lower_bound=2)
    flags.DEFINE_string("peer_python", "", "An interpreter that has PyTorch.")
    flags.DEFINE_string("out", "learning_curve.jsonl", "Rows, kept.")
    flags.DEFINE_string("figure", "", "PNG to draw; none if empty.")
    command_line.run(_main)
