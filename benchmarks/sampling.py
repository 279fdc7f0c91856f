"""Sampling by the live model, its SavedModel and its ONNX file.

    python -m benchmarks.sampling --cases=small --batch_size=32

Every program runs in a process of its own and draws whole batches, noise
included; for the exported ones it is also measured what they do with noise
that is given.  Rates are divided by that of a float32 product of 2048 x 2048
matrices, which makes machines comparable.
"""

import pathlib
import statistics
import tempfile
import time

from absl import flags

from benchmarks import cases, results
from benchmarks.processes import measured, peak_gigabytes

__all__ = [
    "ONNX",
    "PROGRAMS",
    "TEMPERATURE",
    "draw",
    "export",
    "median_seconds",
    "open_onnx",
    "open_saved_model",
    "run",
    "untrained",
]

PROGRAMS = (
    "live model",
    "SavedModel",
    "SavedModel, noise given",
    "ONNX Runtime",
    "ONNX Runtime, noise given",
)
TEMPERATURE = 0.7
_SAVED_MODEL = "served"
ONNX = "nvae.onnx"


def run(
    store: results.Results, names, batch_size: int = 32, seconds: float = 8.0
) -> None:
    """Exports and measures cases, and prints and keeps the results.

    Args:
      store: where to keep them; names are "CASE PROGRAM".
      names: of cases.
      batch_size: images at once.
      seconds: how long to measure each program.
    """
    names = [cases.case(name).name for name in names]
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            exported = measured(
                "benchmarks.sampling:export", name=name, folder=folder
            )
            for program in PROGRAMS:
                result = exported
                if "error" not in exported or program == PROGRAMS[0]:
                    result = measured(
                        "benchmarks.sampling:draw",
                        name=name,
                        program=program,
                        folder=folder,
                        batch_size=batch_size,
                        seconds=seconds,
                    )
                store.add("sampling", f"{name} {program}", result)
                rows.append(_row(f"{name} {program}", result))
                print(*rows[-1], flush=True)
    print(
        results.table(
            ["program", "images/s", "images per GFLOP", "peak GB"], rows
        )
    )


def _row(label: str, result: dict) -> list[str]:
    if "error" in result:
        return [label, result["error"], "", ""]
    return [
        label,
        f"{result['images_per_second']:.1f}",
        f"{result['images_per_gflop']:.2f}",
        f"{result['peak_gb']:.2f}",
    ]


def export(name: str, folder: str, *, started: float) -> dict:
    """Writes the SavedModel and the ONNX sampler of an untrained case."""
    del started
    from nvae_tf.export.onnx import export_onnx
    from nvae_tf.export.serving import ServedModel

    source = untrained(name)
    path = pathlib.Path(folder)
    ServedModel(source).save(str(path / _SAVED_MODEL))
    export_onnx(source, path / ONNX, graphs=["sample"])
    return {}


def untrained(name: str):
    """What is exported of a case: a `nvae_tf.export.source.Source`."""
    import dataclasses

    from nvae_tf.config import Config, DataConfig
    from nvae_tf.export.source import Source
    from nvae_tf.model.nvae import NVAE

    case = cases.case(name)
    binary = case.model.likelihood == "bernoulli"
    config = dataclasses.replace(
        Config(), model=case.model, data=DataConfig(binarize=binary)
    )
    return Source(NVAE(case.model), config)


def draw(
    name: str,
    program: str,
    folder: str,
    batch_size: int,
    seconds: float,
    *,
    started: float,
) -> dict:
    """Draws batches with one program in this process.

    Args:
      name: of the case.
      program: one of `PROGRAMS`.
      folder: where `export` wrote.
      batch_size: images at once.
      seconds: how long.
      started: when the process was.
    """
    open_program = {
        "live model": _open_live,
        "SavedModel": open_saved_model,
        "ONNX Runtime": open_onnx,
    }[program.partition(",")[0]]
    draw_batch = open_program(
        name, pathlib.Path(folder), batch_size, "noise given" in program
    )
    images = draw_batch(0)
    if len(images) != batch_size:
        raise ValueError(f"{program} drew {len(images)} images.")
    first = time.time() - started
    usual = median_seconds(draw_batch, seconds)
    peak = peak_gigabytes()
    # TensorFlow is not imported before: ONNX Runtime does without it.
    from benchmarks import machine

    rate = batch_size / usual
    matmul = machine.matmul_rate()
    return {
        "batch_size": batch_size,
        "images_per_second": rate,
        "matmul_flops": matmul,
        "images_per_gflop": rate / (matmul / 1e9),
        "first_batch_seconds": first,
        "peak_gb": peak,
    }


def median_seconds(draw_batch, seconds: float) -> float:
    """How long a call usually takes, after a first one.

    Args:
      draw_batch: takes the number of the batch, from 1.
      seconds: how long to call it in all.
    """
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        draw_batch(1 + len(times))
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _open_live(name, folder, batch_size, noise_given):
    del folder, noise_given
    import tensorflow as tf

    from nvae_tf.model.nvae import NVAE

    model = NVAE(cases.case(name).model)

    @tf.function(autograph=False)
    def sample(seed):
        logits = model.sample_logits(
            seed=seed, temperature=TEMPERATURE, batch_size=batch_size
        )
        return model.likelihood(logits).mean()

    return lambda i: sample(tf.constant([0, i], tf.int32)).numpy()


def open_saved_model(name, folder, batch_size, noise_given):
    """A function of a batch's number that draws with the SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / _SAVED_MODEL))
    groups = cases.case(name).model.num_groups
    temperature = tf.fill([batch_size, groups], TEMPERATURE)
    if noise_given:
        signature = loaded.signatures["decode_noise"]
        eps = {
            f"eps_{i}": tf.random.stateless_normal([batch_size, *shape], [0, i])
            for i, shape in enumerate(cases.case(name).model.latent_shapes)
        }
        return lambda _: signature(temperature=temperature, **eps)[
            "images"
        ].numpy()
    signature = loaded.signatures["sample"]
    rows = tf.range(batch_size, dtype=tf.int64)
    return lambda i: signature(
        seed=rows + i * batch_size, temperature=temperature
    )["images"].numpy()


def open_onnx(name, folder, batch_size, noise_given):
    """A function of a batch's number that draws with the ONNX file."""
    del name
    from nvae_tf.export.onnx_sampler import Sampler

    sampler = Sampler(folder / ONNX)
    if noise_given:
        import numpy as np

        feed = sampler.draw_noise(range(batch_size))
        feed["temperature"] = np.full(
            [batch_size, sampler.num_groups], TEMPERATURE, np.float32
        )
        return lambda _: sampler.session.run(["images"], feed)[0]
    return lambda i: sampler.sample(
        range(i * batch_size, (i + 1) * batch_size),
        TEMPERATURE,
        batch_size=batch_size,
    )


def _main(_) -> None:
    values = flags.FLAGS
    run(results.from_flags(), values.cases, values.batch_size, values.seconds)


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_list("cases", ["small"], "What to measure.")
    flags.DEFINE_integer("batch_size", 32, "Images at once.", lower_bound=1)
    flags.DEFINE_float("seconds", 8.0, "How long to measure each.")
    results.define_folder()
    command_line.run(_main)
