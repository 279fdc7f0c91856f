"""Evaluates a trained model on held-out images.

    nvae eval likelihood --workdir=runs/demo --num_importance_samples=100

Measures the negative evidence lower bound (NELBO), the importance-weighted
estimate of -log p(x) with K draws per image (the paper reports K=1000), bits
per dimension, and how the KL is shared among scales and groups.  Prints the
numbers, writes them to evaluation.json in the workdir, adds them to
evaluation.jsonl there, and draws evaluation.png.  For a pretrained model that
takes an --output; without, they are printed only:

    nvae eval likelihood --model=NAME --data_path=FILES

Uses all GPUs of the machine.  Stopped by SIGTERM or Ctrl-C, it keeps what it
has; the same command goes on from there.  A quick look at a large data set:

    nvae eval likelihood --workdir=runs/demo --num=500

Memory grows with --batch_size times --draws_per_pass, not with K.
"""

import pathlib
import sys

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.model_flags import ModelFlags

_MODEL = ModelFlags()
_SPLIT = common_flags.define_split("test")
_NUM = flags.DEFINE_integer(
    "num", 0, "The first so many images; 0: all.", lower_bound=0
)
_SAMPLES = common_flags.define_importance_samples(10)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    0,
    "Images at once on each device; 0: as in training. Changes no result but "
    "for rounding.",
    lower_bound=0,
)
_DRAWS = flags.DEFINE_integer(
    "draws_per_pass",
    1,
    "Draws of each image at once: with few images, a small --batch_size and "
    "several draws fill the device as well. Changes no result but for "
    "rounding.",
    lower_bound=1,
)
_SEED = common_flags.define_seed("Of binarisation and noise.")
_OUTPUT = common_flags.define_output(
    "", "Folder for these files; by default the workdir."
)
_PLOT = flags.DEFINE_bool(
    "plot",
    None,
    "Draw evaluation.png, KL and active latents per group; needs the extra "
    "'report'. By default, where that is installed.",
)


def main(argv) -> None:
    """Loads, evaluates, writes and prints."""
    del argv
    from nvae_tf.evaluation import evaluation_plot

    # Before TensorFlow is loaded.
    if _PLOT.value:
        evaluation_plot.require_matplotlib()
    _MODEL.read_config()
    if _OUTPUT.value:
        values.require_writable(f"{_OUTPUT.value}/")
    from nvae_tf.core.progress import stop_requests
    from nvae_tf.datasets import image_input, pipeline
    from nvae_tf.runs.results import write_result

    folder = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else _MODEL.folder
    strategy = _all_devices()
    with strategy.scope():
        model, config, info = _MODEL.load()
    source = pipeline.open_source(config, _SPLIT.value)
    if _NUM.value:
        source = image_input.select(source, num=_NUM.value)
    with stop_requests() as stop:
        result, partial = _evaluate(
            strategy, model, config, source, info, folder, stop
        )
    if result is None:
        where = (
            "nothing is kept without --output"
            if partial is None
            else f"what is known so far is in {partial.path}. Start the same "
            "command to go on"
        )
        print(f"Stopped; {where}.", file=sys.stderr)
        sys.exit(stop.status)
    record = {
        "step": info["step"],
        "ema": info["ema"],
        "split": _SPLIT.value,
        "seed": _SEED.value,
        "computed_in": _MODEL.precision,
        **result._asdict(),
    }
    if folder is None:
        print(describe(record))
        print("Not written; --output=FOLDER keeps it.")
        return
    record = write_result(folder / "evaluation.json", record)
    partial.remove()
    print(describe(record))
    print(f"Written to {folder / 'evaluation.json'}")
    _plot(folder / "evaluation.png", record, config.model)


def describe(record: dict) -> str:
    """The numbers as lines a person reads."""
    from nvae_tf.runs.results import number_text

    scales, groups = (
        "  ".join(number_text(kl, ".2f") for kl in record[name])
        for name in ("kl_per_scale", "kl_per_group")
    )
    reconstruction = number_text(record["reconstruction_nll"], "10.3f")
    active = "  ".join(str(n) for n in record["active_latents"])
    weights = ", averaged weights" if record["ema"] else ""
    step = "unknown" if record["step"] is None else record["step"]
    return "\n".join(
        [
            f"{record['num_images']} images ({record['split']}), "
            f"step {step}{weights}",
            _line("NELBO", record, "nelbo", "bits_per_dim"),
            _line(
                f"-log p(x), K={record['num_importance_samples']}",
                record,
                "nll",
                "nll_bits_per_dim",
            ),
            f"  {'reconstruction':18s}{reconstruction} nats",
            f"  {'KL':18s}{number_text(record['kl'], '10.3f')} nats",
            f"  KL per scale, coarsest first  {scales}",
            f"  KL per group, top-down        {groups}",
            f"  active latents per group      {active}",
        ]
    )


def _line(title: str, record: dict, name: str, bits: str) -> str:
    from nvae_tf.runs.results import number_text

    error = record[f"{name}_standard_error"]
    spread = "" if error is None else f" +- {error:.3f}"
    return (
        f"  {title:18s}{number_text(record[name], '10.3f')} nats{spread}   "
        f"{number_text(record[bits], '.4f')} bits/dim"
    )


def _all_devices():
    """A strategy over the GPUs, or over logical CPUs if there are several."""
    import tensorflow as tf

    from nvae_tf.distribute.devices import open_devices

    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    several = len(tf.config.list_logical_devices(kind)) > 1
    return open_devices("mirrored" if several else "one_device").strategy


def _evaluate(strategy, model, config, source, info, path, stop):
    """`(evaluation or None, where its progress is kept or None)`."""
    import contextlib

    from nvae_tf.core.progress import progress
    from nvae_tf.datasets import pipeline
    from nvae_tf.datasets.data_state import data_state
    from nvae_tf.evaluation.evaluator import Evaluator
    from nvae_tf.evaluation.importance import Progress
    from nvae_tf.evaluation.partial_results import PartialResult, weights_digest

    batch_size = strategy.num_replicas_in_sync * (
        _BATCH_SIZE.value
        or config.evaluation.batch_size
        or config.train.batch_size
    )
    settings = {
        "step": info["step"],
        "ema": info["ema"],
        "weights": weights_digest(model),
        "split": _SPLIT.value,
        "data": config.to_dict()["data"],
        "files": data_state(config.data),
        "num_images": len(source),
        "num_importance_samples": _SAMPLES.value,
        "batch_size": batch_size,
        "seed": _SEED.value,
        "computed_in": _MODEL.precision,
    }
    partial = None if path is None else PartialResult(path, settings)
    state = Progress() if partial is None else partial.load()
    done = state.batch * _SAMPLES.value + state.draw
    total = _SAMPLES.value * pipeline.num_batches(
        source, training=False, batch_size=batch_size
    )
    if done:
        print(f"Going on from {partial.path} ({done / total:.0%} done).")
    bar = progress(
        total=total,
        initial=done,
        unit="pass",
        desc=f"evaluating {_SPLIT.value}, K={_SAMPLES.value}",
    )
    batches = pipeline.batches(
        source,
        config,
        training=False,
        batch_size=batch_size,
        seed=_SEED.value,
        position=pipeline.Position(0, state.batch),
    )

    def on_pass(state):
        if partial is not None:
            partial.save_now_and_then(state)
        bar.update(state.batch * _SAMPLES.value + state.draw - bar.n)

    with bar, contextlib.closing(batches):
        result = Evaluator(model, strategy, precision=_MODEL.precision)(
            batches,
            _SAMPLES.value,
            seed=_SEED.value,
            should_stop=stop,
            draws_per_pass=min(_DRAWS.value, _SAMPLES.value),
            progress=state,
            on_pass=on_pass,
        )
    if result is None and partial is not None:
        partial.save(state)
    return result, partial


def _plot(path, record: dict, model) -> None:
    from nvae_tf.core.extras import how_to_install
    from nvae_tf.evaluation import evaluation_plot

    if _PLOT.value is None and not evaluation_plot.can_plot():
        install = how_to_install(evaluation_plot.EXTRA)
        print(f"No {path.name}: to have it, {install}.")
    elif _PLOT.value is not False:
        evaluation_plot.plot_groups(
            path, record, model.groups_top_down, model.num_latent_per_group
        )
        print(f"KL and active latents of the groups in {path}")
