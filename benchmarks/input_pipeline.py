"""Images per second of the input pipeline alone.

    python -m benchmarks.input_pipeline [--seconds=5]

reads generated images from every kind of source, shuffled, transformed and
batched as in training.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import results
from nvae_tf.commands import command_line
from nvae_tf.commands.data.prepare import prepare
from nvae_tf.config import Config, config_from_dict
from nvae_tf.datasets import pipeline

_MNIST = {
    "image_size": 28,
    "image_channels": 1,
    "padding": 2,
    "num_bits": 1,
    "likelihood": "bernoulli",
    "num_latent_scales": 2,
}
_CIFAR = {"image_size": 32, "image_channels": 3}
_FACES = {"image_size": 256, "image_channels": 3, "num_bits": 5}
_NUM_IMAGES = {28: 20_000, 32: 20_000, 256: 300}


def _images(model: dict) -> np.ndarray:
    """Smooth random images, which compress about as well as photographs."""
    size, channels = model["image_size"], model["image_channels"]
    rng = np.random.default_rng(0)
    count = _NUM_IMAGES[size]
    coarse = rng.integers(0, 256, (count, size // 4, size // 4, channels))
    fine = coarse.repeat(4, 1).repeat(4, 2) + rng.integers(
        0, 16, (count, size, size, channels), np.uint8
    )
    return np.minimum(fine, 255).astype(np.uint8)


def _config(model: dict, **data) -> Config:
    data = {"validation_fraction": 0.01} | data
    return config_from_dict({"model": model, "data": data})


def _sources(root: pathlib.Path) -> Iterator[tuple[str, Config, int]]:
    """Names, configurations and batch sizes; the files are written here."""
    for name, model, batch_size, data in (
        ("MNIST, 28x28, binarised", _MNIST, 200, {"binarize": True}),
        ("CIFAR-size, 32x32, flipped", _CIFAR, 32, {"flip": True}),
        ("faces, 256x256, 5 bits, flipped", _FACES, 4, {"flip": True}),
    ):
        size = model["image_size"]
        array = root / f"{size}.npy"
        images = _images(model)
        np.save(array, images)
        in_memory = _config(model, source="array", path=str(array), **data)
        yield f"{name}: array", in_memory, batch_size
        prepared = root / f"prepared{size}"
        prepare(in_memory, prepared)
        yield (
            f"{name}: tfrecord",
            _config(model, source="tfrecord", path=str(prepared), **data),
            batch_size,
        )
        if size == 28:
            continue
        folder = root / f"folder{size}"
        folder.mkdir()
        for number, image in enumerate(images[:5000]):
            Image.fromarray(image).save(folder / f"{number}.png")
        yield (
            f"{name}: image_folder (PNG)",
            _config(model, source="image_folder", path=str(folder), **data),
            batch_size,
        )


def _rate(config: Config, batch_size: int, seconds: float) -> float:
    iterator = pipeline.batches(
        pipeline.open_source(config, "train"),
        config,
        training=True,
        batch_size=batch_size,
        seed=0,
    )
    with contextlib.closing(iterator):
        for _ in range(10):  # Start-up, and what was read ahead.
            next(iterator)
        start, batches = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(iterator)
            batches += 1
        return batches * batch_size / (time.perf_counter() - start)


def run(store: results.Results, seconds: float = 5.0) -> None:
    """Measures every source, and prints and keeps the results.

    Args:
      store: where to keep them.
      seconds: how long to measure each.
    """
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for name, config, batch_size in _sources(pathlib.Path(root)):
            rate = _rate(config, batch_size, seconds)
            store.add("input_pipeline", name, {"images_per_second": rate})
            rows.append([name, f"{rate:,.0f}"])
            print(*rows[-1], flush=True)
    print(results.table(["source", "images/s"], rows))


def _main(_: Sequence[str]) -> None:
    run(results.from_flags(), flags.FLAGS.seconds)


if __name__ == "__main__":
    flags.DEFINE_float("seconds", 5.0, "How long to measure each source.")
    results.define_folder()
    command_line.run(_main)
