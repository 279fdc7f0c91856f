"""Encodes and decodes images with a model on a TF Serving server.

    nvae client reconstruct --target=HOST:8500 --images=a.png,photos/

Images are turned upright, cropped and scaled as training does it.  In a folder
a reconstruction has its image's name; where two images have one name, all are
numbered, as in 07_NAME.png.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands.client.flags import (
    ClassFlag,
    PhotoFlags,
    ServerFlags,
    check_output,
    write_images,
)

_SERVER = ServerFlags()
_PHOTOS = PhotoFlags()
_CLASSES = ClassFlag()
_SEED = common_flags.define_seed("Of the posterior draws.")
_OUTPUT = common_flags.define_output(
    "reconstructions.png",
    "A .png for one grid, each image beside its reconstruction; or a folder, "
    "ending in /.",
)


def main(argv) -> None:
    """Reads, reconstructs and writes."""
    del argv
    check_output(_OUTPUT.value)
    labels = _CLASSES.read()
    with _SERVER.connect() as client:
        paths, images = _PHOTOS.read(client.image_shape)
        seeds = np.full(len(paths), _SEED.value)
        results = client.reconstruct(images, seeds, labels)
    if _OUTPUT.value.lower().endswith(".png"):
        results = np.concatenate([images, results], axis=2)
    write_images(_OUTPUT.value, results, _names(paths))
    print(f"Wrote {len(paths)} reconstructions to {_OUTPUT.value}.")


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
    """A name for the result of each image, without its suffix."""
    stems = [path.stem for path in paths]
    # Some file systems take no notice of case.
    if len({stem.casefold() for stem in stems}) == len(stems):
        return stems
    digits = len(str(len(stems)))
    return [f"{i:0{digits}}_{stem}" for i, stem in enumerate(stems, 1)]
