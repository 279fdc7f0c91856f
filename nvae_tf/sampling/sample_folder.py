"""Drawn images in a folder, one file each, to be gone on with later."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from nvae_tf.core.errors import UserError
from nvae_tf.core.files import write_bytes
from nvae_tf.core.json_files import read_json
from nvae_tf.core.reading import shown
from nvae_tf.sampling.images import encode_png

__all__ = ["RUN_WEIGHTS", "SETTINGS", "write_samples"]

SETTINGS = "sampling.json"
# A key of the settings: what tells a run's weights from those of another run.
RUN_WEIGHTS = "run_weights"


def write_samples(
    draw: Callable[[np.ndarray], np.ndarray],
    folder,
    seeds: Iterable[int],
    batch_size: int,
    settings: dict,
    progress: Callable[[range], Iterable[int]] = iter,
) -> int:
    """Writes an image for every seed that has none yet.

    Args:
      draw: int64 seeds `[B]` -> uint8 `[B, H, W, C]`.
      folder: for the files, named after the seeds.
      seeds: not negative.
      batch_size: B.
      settings: how images are drawn, and by which model; kept in the folder,
        so that it never holds images that were drawn in two ways.
      progress: wraps the numbers of the batches.

    Returns:
      How many images were drawn.

    Raises:
      UserError: if the folder holds images drawn with other settings.
      DataError: if a file cannot be written.
    """
    folder = pathlib.Path(folder)
    _check_settings(folder / SETTINGS, settings)
    wanted = np.array(
        [s for s in seeds if not image_path(folder, s).exists()], np.int64
    )
    for number in progress(range(-(-len(wanted) // batch_size))):
        batch = wanted[number * batch_size :][:batch_size]
        # A last, smaller batch is filled up: one graph serves all.
        rows = np.minimum(np.arange(batch_size), len(batch) - 1)
        images = draw(batch[rows])[: len(batch)]
        for seed, image in zip(batch, images, strict=True):
            write_bytes(image_path(folder, seed), encode_png(image))
    return len(wanted)


def image_path(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """The file of a seed's image."""
    return folder / f"{seed:08d}.png"


def _check_settings(path: pathlib.Path, settings: dict) -> None:
    if not os.path.lexists(path):
        write_bytes(path, (json.dumps(settings, indent=2) + "\n").encode())
        return
    advice = "name another folder with --output"
    found = read_json(path, UserError, advice=advice)
    if RUN_WEIGHTS not in found:
        # Folders of before do not say.
        settings = {k: v for k, v in settings.items() if k != RUN_WEIGHTS}
    differing = [
        f"{shown(key)} ({shown(found.get(key))} there, "
        f"{shown(settings.get(key))} now)"
        for key in sorted(settings.keys() | found.keys())
        if found.get(key) != settings.get(key)
    ]
    if differing:
        raise UserError(
            f"{path.parent} holds images that were drawn otherwise: "
            f"{shown(', '.join(differing), 200)}. Name another folder with "
            "--output."
        )
