"""Evaluates a trained model on held-out images.

    python -m nvae_tf.evaluate --workdir=runs/demo --num_importance_samples=100

Prints the numbers and writes them to evaluation.json in the workdir.
"""

import json

from absl import flags

from nvae_tf import command_line

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "Which images."
)
_SAMPLES = flags.DEFINE_integer(
    "num_importance_samples",
    1,
    "K of the importance-weighted estimate of -log p(x).",
    lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 0, "Images at once; 0: as in training.", lower_bound=0
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Of binarisation and noise.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)


def main(argv) -> None:
    """Loads, evaluates, writes evaluation.json and prints it."""
    del argv
    from nvae_tf import datasets, workdir
    from nvae_tf.data_files import write_bytes
    from nvae_tf.evaluation import Evaluator
    from nvae_tf.progress import progress

    folder = workdir.Workdir(_WORKDIR.value)
    model, config, info = workdir.load_model(folder.path)
    source = datasets.open_source(config, _SPLIT.value)
    batch_size = (
        _BATCH_SIZE.value
        or config.evaluation.batch_size
        or config.train.batch_size
    )
    batches = progress(
        datasets.batches(
            source,
            config,
            training=False,
            batch_size=batch_size,
            seed=_SEED.value,
        ),
        total=datasets.num_batches(
            source, training=False, batch_size=batch_size
        ),
        unit="batch",
        desc=f"evaluating {_SPLIT.value}",
    )
    result = Evaluator(model)(batches, _SAMPLES.value, seed=_SEED.value)
    record = {
        "step": info["step"],
        "split": _SPLIT.value,
        "seed": _SEED.value,
        **result._asdict(),
    }
    path = folder.path / "evaluation.json"
    write_bytes(path, (json.dumps(record, indent=2) + "\n").encode())
    print(describe(record))
    print(f"Written to {path}")


def describe(record: dict) -> str:
    """The numbers as lines a person reads."""
    groups = "  ".join(f"{kl:.2f}" for kl in record["kl_per_group"])
    active = "  ".join(str(n) for n in record["active_latents"])
    return "\n".join(
        [
            f"{record['num_images']} images ({record['split']}), "
            f"step {record['step']}",
            f"  NELBO             {record['nelbo']:9.3f} nats   "
            f"{record['bits_per_dim']:.4f} bits/dim",
            f"  -log p(x), K={record['num_importance_samples']:<5d}"
            f"{record['nll']:9.3f} nats   "
            f"{record['nll_bits_per_dim']:.4f} bits/dim",
            f"  reconstruction    {record['reconstruction_nll']:9.3f} nats",
            f"  KL                {record['kl']:9.3f} nats",
            f"  KL per group, top-down      {groups}",
            f"  active latents per group    {active}",
        ]
    )


if __name__ == "__main__":
    command_line.run(main)
