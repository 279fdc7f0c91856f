"""All benchmarks, one after the other.

    python -m benchmarks.suite            # the small cases: minutes
    python -m benchmarks.suite --full     # all cases and the growth: hours

Leave the machine alone meanwhile.  `python -m benchmarks.report` makes
docs/developers/performance.md of the results.
"""

from absl import flags

from benchmarks import (
    cases,
    compare_peer,
    growth,
    input_pipeline,
    results,
    roofline,
    sampling,
    scaling,
    targets,
    train_step,
)
from nvae_tf.core.extras import is_installed
from nvae_tf.distribute.cores import available_cores

__all__ = ["run"]


def run(store: results.Results, full: bool) -> None:
    """Measures, and prints and keeps the results.

    Args:
      store: where to keep them.
      full: also what takes long.
    """
    _title("Training steps")
    quick = ("small", "mnist", "deep")
    train_step.run(store, quick)
    if full:
        train_step.run(store, quick, recomputes=("none", "cell"))
        train_step.run(store, quick, precisions=("mixed_bfloat16",))
        train_step.run(store, ["cifar"])
        train_step.run(store, ["cifar"], precisions=("mixed_bfloat16",))
        train_step.run(store, ["cifar"], recomputes=("cell",))
        train_step.run(store, ["celeba_hq256"], recomputes=("cell",))
        _title("Growth")
        growth.run(store, ["groups"], recomputes=(cases.RECOMPUTE, "cell"))
        growth.run(store, ["channels", "resolution", "batch"])
    _title("Roofline")
    roofline.run(store, [*quick, "cifar"] if full else quick)
    _title("Sampling")
    sampling.run(store, ["small", "cifar"] if full else ["small"])
    if is_installed("torch"):
        _title("Beside PyTorch")
        compare_peer.run(store, [*quick, "cifar"] if full else ["small"])
    _title("Several processes")
    cores = available_cores()
    scaling.run(store, [count for count in (1, 2, 4, 8) if count <= cores])
    _title("Input pipeline")
    input_pipeline.run(store, seconds=5.0 if full else 2.0)
    _title("Targets")
    print(targets.compare(store))


def _title(text: str) -> None:
    print(f"\n{text}\n{'=' * len(text)}", flush=True)


def _main(_) -> None:
    run(results.from_flags(), flags.FLAGS.full)


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_bool("full", False, "Also what takes hours.")
    results.define_folder()
    command_line.run(_main)
