r"""Makes the workdir of a run of what `train` wrote.

    python -m examples.accelerator_training.collect --results=out \
        --name=mnist --data=data/mnist --workdir=runs/mnist
    nvae sample --workdir=runs/mnist

The model there is the trained one, its average beside it; the moments of the
optimiser stay where they were.  First some test images are evaluated: their
NELBO must be what was measured on the accelerator.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np
from absl import flags

from examples.accelerator_training import functions, weights_file
from nvae_tf.commands import command_line
from nvae_tf.config import Config, config_from_dict
from nvae_tf.core.errors import DataError
from nvae_tf.core.files import write_bytes
from nvae_tf.datasets import pipeline
from nvae_tf.evaluation.evaluator import Evaluator
from nvae_tf.model import losses
from nvae_tf.runs.run_metadata import run_metadata
from nvae_tf.runs.workdir import Workdir, read_tensors
from nvae_tf.training import new_run

_RESULTS = flags.DEFINE_string("results", "", "Folder that train wrote to.")
_NAME = flags.DEFINE_string("name", "", "Of the training.")
_DATA = flags.DEFINE_string(
    "data", "", "Where the images are; by default where they were."
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder to write; a new one.")
_IMAGES = flags.DEFINE_integer(
    "images", 200, "Test images to evaluate.", lower_bound=2
)
_DRAWS = 4
# Standard errors that two measurements of one thing may be apart; and nats per
# thousand, for the rounding of weights and of devices.
_STANDARD_ERRORS = 4
_ROUNDING = 1e-3


def main(argv) -> None:
    """Reads, verifies and writes."""
    del argv
    folder = pathlib.Path(_RESULTS.value)
    average = _read(folder / f"{_NAME.value}_average.npz")
    results = _read(folder / f"{_NAME.value}_run.npz")
    workdir = Workdir(_WORKDIR.value)
    new_run.require_new(workdir)
    config = config_from_dict(json.loads(_text(results["config"])))
    if _DATA.value:
        data = dataclasses.replace(config.data, path=_DATA.value)
        config = dataclasses.replace(config, data=data)
    step = restored(config, average, results)
    verify(
        step, config, results["bounds/nelbo"], results["bounds/nelbo_images"]
    )
    write(workdir, step, config, results)
    print(f"{_WORKDIR.value} is a run at step {int(results['step'])}.")


def restored(config: Config, average: dict, results: dict):
    """All state of the training, but for the optimiser's moments.

    Args:
      config: of the run.
      average: arrays of the file of averaged weights.
      results: arrays of the other file.

    Raises:
      DataError: if they are not those of such a model.
    """
    step = functions.make_step(config, unroll=False)
    model = step.model
    try:
        for kind, variables in (
            ("weights", model.trainable_variables),
            ("statistics", model.non_trainable_variables),
        ):
            mean = weights_file.widened(average[kind])
            planes = np.ascontiguousarray(results[f"difference/{kind}"].T)
            last = mean + planes.view(np.float16)[:, 0].astype(np.float32)
            ends = np.cumsum([v.shape.num_elements() for v in variables])
            for variable, part in zip(
                variables, np.split(last, ends[:-1]), strict=True
            ):
                variable.assign(part.reshape(variable.shape))
            if step.average:
                getattr(step.average, kind).assign(mean)
        for name, variable in step.named_variables().items():
            if name.startswith(("spectral/", "training/")):
                variable.assign(results[name])
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"The files of {_NAME.value!r} are not of the model that they "
            f"describe ({error}); copy them again."
        ) from error
    return step


def verify(step, config: Config, nelbo: np.ndarray, images: np.ndarray) -> None:
    """Evaluates some test images as it was done on the accelerator.

    Args:
      step: all state of the training.
      config: of the run.
      nelbo: `[M]`, nats, of the averaged model there.
      images: `[M]`, of which test images, in ascending order.

    Raises:
      DataError: if the results differ by more than their noise.
    """
    own = []
    source = pipeline.open_source(config, "test")
    count = min(_IMAGES.value, len(source))
    evaluator = Evaluator(step.model)
    batches = pipeline.batches(
        source,
        config,
        training=False,
        batch_size=min(100, count),
        seed=config.train.seed,
    )

    def some():
        for number, batch in enumerate(batches):
            if number * min(100, count) >= count:
                return
            yield batch

    with _averaged(step):
        evaluator(
            some(), _DRAWS, on_images=lambda nelbo, nll: own.append(nelbo)
        )
    batches.close()
    own = np.concatenate(own)
    both = images < min(count, len(own))
    there = np.asarray(nelbo, float)[both]
    own = own[images[both]]
    difference = own - there
    error = difference.std() / math.sqrt(len(own))
    text = (
        f"NELBO of {len(own)} test images: {own.mean():.3f} here, "
        f"{there.mean():.3f} there, difference {difference.mean():.3f} +- "
        f"{error:.3f} nats"
    )
    print(text)
    limit = _STANDARD_ERRORS * error + _ROUNDING * abs(there.mean())
    if not abs(difference.mean()) <= limit:
        raise DataError(f"{text}: these are not the weights that were trained.")


def write(workdir: Workdir, step, config: Config, results: dict) -> None:
    """Writes the workdir; config.json last, without which there is no run."""
    number = int(results["step"])
    images = len(pipeline.open_source(config, "train"))
    per_epoch = images // config.train.batch_size
    metrics = _text(results["metrics"]).encode()
    with workdir.locked():
        new_run.require_new(workdir)
        write_bytes(workdir.metrics_path, metrics)
        workdir.checkpoints().save(
            number,
            read_tensors(step.named_variables()),
            run_metadata(
                config,
                steps_per_epoch=per_epoch,
                position=divmod(number, per_epoch),
                metrics_offset=len(metrics),
                evaluation=_evaluation(config, metrics, number),
            ),
        )
        for name, pictures in results.items():
            if name.startswith("pictures/"):
                kind = name.removeprefix("pictures/")
                path = workdir.path / "accelerator" / f"{kind}.npz"
                write_bytes(path, weights_file.packed({"images": pictures}))
        workdir.write_config(config)


def _averaged(step):
    """The model with its average in place, if there is one."""
    import contextlib

    return step.average.in_place() if step.average else contextlib.nullcontext()


def _evaluation(config: Config, metrics: bytes, step: int) -> dict[str, Any]:
    """What a checkpoint remembers of the last evaluation."""
    records = [json.loads(line) for line in metrics.decode().splitlines()]
    bounds = [r for r in records if r["kind"] == "bounds"]
    measured = [r for r in records if r["kind"] == "evaluation_ema"]
    if not measured:
        return None
    nelbo = measured[-1]["nelbo"]
    values = {
        "nelbo": nelbo,
        "nll": bounds[-1]["nll_all"] if bounds else nelbo,
        "bits_per_dim": float(losses.bits_per_dim(nelbo, config.model)),
    }
    return {"step": step, "average": values}


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return weights_file.unpacked(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}. Name what train wrote with "
            "--results and --name."
        ) from error


def _text(array: np.ndarray) -> str:
    return array.tobytes().decode()


if __name__ == "__main__":
    command_line.run(main)
