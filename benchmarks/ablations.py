r"""What a changed recipe does to a small model, against the spread of seeds.

    python -m benchmarks.ablations --out=ablations.jsonl \
        --garments=data/fashion_mnist --page=docs/recipes.md

Every variant trains the preset `mnist_demo`, at half its width, for the same
number of steps on 4,500 images, once for every seed, and is evaluated on 500
others at the end; one core a run.  A seed chooses weights, order and noise, and
is the same for all variants.  Rows go to --out as they come, and what is there
is not computed again.  --page puts the tables where the page has places for
them.
"""

import contextlib
import pathlib
import statistics
import tempfile

from absl import flags

from benchmarks import cases, results
from benchmarks.kept_rows import kept_rows
from benchmarks.processes import measured
from benchmarks.report import fill
from nvae_tf.config.run import Config
from nvae_tf.core.errors import UserError
from nvae_tf.core.files import write_bytes
from nvae_tf.core.json_files import read_json_lines

__all__ = [
    "BASELINE",
    "VARIANTS",
    "garments",
    "run",
    "summarize",
    "table",
    "train",
]

BASELINE = "as the paper"
# What each changes: in the configuration; or by a context of `ideas`, by name,
# and what it is called with.
VARIANTS: dict[str, dict] = {
    BASELINE: {},
    "sigma by softplus": {"sigma_by_softplus": ()},
    "averaged weights, 0.99": {"train__ema_decay": 0.99},
    "images shifted by up to 2 pixels": {"shifted_images": (2,)},
    "the same, and posteriors that agree": {"consistent_posteriors": (2, 0.1)},
    "0.1 nats of each channel free": {"free_bits": (0.1,)},
    "lambda 0.001 instead of 0.01": {"train__regularization": 0.001},
    "8 latents per group instead of 20": {"model__num_latent_per_group": 8},
    "KL annealed over 10 % instead of 30 %": {"train__kl_anneal_portion": 0.1},
    "learning rate 0.003 instead of 0.01": {"train__learning_rate": 0.003},
    "4 and 2 groups instead of 2 and 1": {"model__num_groups_per_scale": 4},
    "lambda 0.1": {"train__regularization": 0.1},
    "KL annealed over 60 %": {"train__kl_anneal_portion": 0.6},
    "told the class": {"data__labels": True},
}
_DATA = ("digits", "garments")
_TRAIN, _HELD_OUT = 4500, 500


def run(out, data: dict[str, str], names, seeds, epochs: int) -> list[dict]:
    """Trains what `out` has no row of, one run on each core.

    Args:
      out: JSON lines, one for each run.
      data: the array of images by name; "" for the digits of the package.
      names: of variants.
      seeds: of the runs of each.
      epochs: of every run.

    Returns:
      A dict for every run: "data", "variant", "seed", "epochs", and what
      `train` gives.

    Raises:
      UserError: if a run fails.
    """
    wishes = [
        {"data": kind, "variant": name, "seed": seed, "epochs": epochs}
        for seed in seeds
        for kind in data
        for name in names
    ]

    def compute(wish):
        kind = wish["data"]
        arguments = {key: wish[key] for key in ("variant", "seed", "epochs")}
        return measured(
            "benchmarks.ablations:train",
            one_thread=True,
            path=data[kind],
            **arguments,
        )

    def told(row):
        values = (row[key] for key in ("data", "variant", "seed"))
        return f"{' '.join(map(str, values))} {row['nelbo']:.2f} nats"

    rows = kept_rows(out, wishes, compute, told)
    return [row for row in rows if row["epochs"] == epochs]


def train(
    path: str,
    variant: str,
    seed: int,
    epochs: int,
    started: float | None = None,
) -> dict:
    """One run.

    Args:
      path: of an array of images; "" for the digits of the package.
      variant: a key of `VARIANTS`.
      seed: of weights, order and noise.
      epochs: how long.
      started: not used.

    Returns:
      "nelbo" and "nll" in nats, by image; "kl" by group; "active", latents of
      each group with a KL above 0.1 nats.
    """
    del started
    from benchmarks import ideas
    from nvae_tf.training import trainer

    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(tempfile.TemporaryDirectory())
        changes = dict(VARIANTS[variant])
        for name in [name for name in changes if name in ideas.__all__]:
            context = getattr(ideas, name)
            stack.enter_context(context(*changes.pop(name)))
        trainer.train(_config(path, changes, seed, epochs), workdir)
        records = read_json_lines(pathlib.Path(workdir, "metrics.jsonl"))
        kinds = {record["kind"]: record for record in records}
    # Of the averaged weights, where they are kept: that is what they are for.
    found = kinds.get("evaluation_ema", kinds["evaluation"])
    return {
        "nelbo": found["nelbo"],
        "nll": found["nll"],
        "kl": found["kl_per_group"],
        "active": found["active_latents"],
    }


def summarize(rows: list[dict], kind: str) -> list[dict]:
    """A variant in numbers, for each that has runs.

    Args:
      rows: of `run`.
      kind: of data.

    Returns:
      "variant"; "seeds", how many; "nelbo" and "nll", means; "difference",
      the mean difference of the NLL from the baseline's of the same seed, and
      "spread", its standard deviation, None without two of them; "active",
      means by group.
    """
    runs: dict[str, dict[int, dict]] = {}
    for row in rows:
        if row["data"] == kind:
            runs.setdefault(row["variant"], {})[row["seed"]] = row
    first = runs.get(BASELINE, {})
    found = []
    for name in VARIANTS:
        if name not in runs:
            continue
        of_seed = runs[name]
        differences = [
            row["nll"] - first[seed]["nll"]
            for seed, row in of_seed.items()
            if seed in first
        ]
        several = name != BASELINE and len(differences) > 1
        found.append(
            {
                "variant": name,
                "seeds": len(of_seed),
                **{
                    key: statistics.mean(r[key] for r in of_seed.values())
                    for key in ("nelbo", "nll")
                },
                "difference": (
                    statistics.mean(differences) if several else None
                ),
                "spread": statistics.stdev(differences) if several else None,
                "active": [
                    statistics.mean(group)
                    for group in zip(
                        *(r["active"] for r in of_seed.values()), strict=True
                    )
                ],
            }
        )
    return found


def table(rows: list[dict], kind: str) -> str:
    """`summarize` in Markdown."""
    cells = []
    for row in summarize(rows, kind):
        difference = ""
        if row["difference"] is not None:
            difference = f"{row['difference']:+.2f} +- {row['spread']:.2f}"
        cells.append(
            [
                row["variant"],
                row["seeds"],
                f"{row['nelbo']:.2f}",
                f"{row['nll']:.2f}",
                difference,
                ", ".join(f"{count:.1f}" for count in row["active"]),
            ]
        )
    return results.table(
        ["recipe", "seeds", "NELBO", "-log p, K = 20"]
        + ["difference", "active latents"],
        cells,
    )


def _config(path: str, changes: dict, seed: int, epochs: int) -> Config:
    """Of a run.

    Args:
      path: see `train`.
      changes: of a variant, those of the configuration.
      seed: see `train`.
      epochs: likewise.
    """
    if path:
        changes = {
            "data__source": "array",
            "data__path": path,
            "data__validation_fraction": _HELD_OUT / (_TRAIN + _HELD_OUT),
            **changes,
        }
    return cases.half_width_demo(
        seed,
        epochs,
        evaluation__every_epochs=epochs,
        evaluation__final_importance_samples=20,
        **changes,
    )


def garments(folder, path) -> str:
    """Writes the first images of Fashion-MNIST, and their labels, as arrays.

    Args:
      folder: of its IDX files.
      path: of an `.npz` file.

    Returns:
      The path.

    Raises:
      UserError: if the folder lacks a file.
    """
    import numpy as np

    from nvae_tf.datasets.idx_files import read_idx, read_idx_labels

    found = {}
    for kind, read in (("images", read_idx), ("labels", read_idx_labels)):
        files = sorted(pathlib.Path(folder).glob(f"train-{kind}*"))
        if not files:
            raise UserError(
                f"{folder} of --garments has no file train-{kind}*: `python -m "
                "examples.fashion_mnist --output=FOLDER` makes such a folder."
            )
        found[kind] = read(files[0], 2048)[: _TRAIN + _HELD_OUT]
    np.savez(path, **found)
    return str(path)


def _main(_) -> None:
    values = flags.FLAGS
    names = values.only or list(VARIANTS)
    unknown = sorted(set(names) - set(VARIANTS))
    if unknown:
        raise UserError(
            f"--only has {unknown[0]!r}; choose among {', '.join(VARIANTS)}."
        )
    page = pathlib.Path(values.page) if values.page else None
    if page:
        # To say now that there is no such page, or no place in it.
        fill(
            page.read_text("utf-8"), {f"ablations_{kind}": "" for kind in _DATA}
        )
    with tempfile.TemporaryDirectory() as folder:
        data = {_DATA[0]: ""}
        if values.garments:
            array = pathlib.Path(folder, "garments.npz")
            data[_DATA[1]] = garments(values.garments, array)
        seeds = map(int, values.seeds)
        rows = run(values.out, data, names, seeds, values.epochs)
    tables = {f"ablations_{kind}": table(rows, kind) for kind in data}
    print("\n\n".join(tables.values()))
    if page:
        text = fill(page.read_text("utf-8"), tables)
        write_bytes(page, text.encode())


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_string("out", "ablations.jsonl", "Rows, kept.")
    flags.DEFINE_string("page", "", "Page with places for the tables.")
    flags.DEFINE_string(
        "garments", "", "Folder of Fashion-MNIST; left out if empty."
    )
    flags.DEFINE_list("seeds", ["1", "2", "3"], "Of the runs of each variant.")
    flags.DEFINE_multi_string("only", [], "A variant; all if not given.")
    flags.DEFINE_integer("epochs", 12, "Of every run.", lower_bound=2)
    command_line.run(_main)
