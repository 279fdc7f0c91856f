"""Cartoon faces, drawn by the npm package @dicebear/personas.

    python -m examples.cartoon_faces --output=data/cartoon_faces
    nvae train --config=examples/presets/cartoon_faces.py --workdir=runs/faces

Writes colour pictures on white ground, 64x64, into the folders train (18,000)
and test (2,000, less the few faces that are in train too).  They are combined
at random of hair, beards, eyes, noses, mouths, clothes and colours, and the
same whenever the program runs: it asks for one version of the packages.  Needs
Node.js 18 or later.

    python -m examples.cartoon_faces --output=data/cartoon_faces --hair=hair.npz
    nvae eval features --data=hair.npz --output=faces.keras

makes a network that knows the kinds of hair, whose features `nvae eval samples`
takes.

The style is Personas by Draftbit, under CC BY 4.0.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

import numpy as np
from absl import flags
from PIL import Image

from examples import packages
from nvae_tf.commands import command_line, values
from nvae_tf.core.errors import DataError
from nvae_tf.core.files import new_folder
from nvae_tf.core.npz_files import write_npz
from nvae_tf.core.progress import progress
from nvae_tf.datasets import geometry

__all__ = ["draw", "remove_known", "write_hair"]

_PACKAGES = (
    "@dicebear/core@9.4.3",
    "@dicebear/personas@9.4.3",
    "@resvg/resvg-js@2.6.2",
)
_PROGRAM = pathlib.Path(__file__).with_suffix(".mjs")
_SIZE = 64
_STRIDE = 500
# Of the pictures whose hair is told: what the model of these faces sees.
_SMALL = 32
_NUM_TOLD = 5000


def draw(
    program: pathlib.Path, seeds: range, folder: pathlib.Path
) -> list[str]:
    """Draws the faces of `seeds` into `folder`, which it makes.

    Args:
      program: the program for Node.js, beside its packages.
      seeds: consecutive.
      folder: of files 000000.png, by seed.

    Returns:
      The kind of hair of each.

    Raises:
      DataError: if Node.js cannot run the program.
    """
    folder.mkdir()
    hair = []
    with progress(total=len(seeds), desc=folder.name, unit="face") as bar:
        for first in range(seeds.start, seeds.stop, _STRIDE):
            last = min(first + _STRIDE, seeds.stop)
            values = [str(v) for v in (_SIZE, first, last, folder)]
            done = subprocess.run(
                ["node", str(program), *values],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise DataError(
                    f"node could not draw: {done.stderr.strip()[-500:]}"
                )
            hair += done.stdout.split()
            bar.update(last - first)
    return hair


def write_hair(folder: pathlib.Path, hair: Sequence[str], path) -> None:
    """Writes the first faces, smaller, with their hair, for a classifier.

    Args:
      folder: of faces.
      hair: of each, in the order of their names.
      path: of an `.npz` file: "x_train", uint8 `[N, 32, 32, 3]`, and "y_train",
        int64 `[N]`, the kinds by their names.
    """
    faces = []
    for face in sorted(folder.glob("*.png"))[:_NUM_TOLD]:
        with Image.open(face) as picture:
            image = np.asarray(picture.convert("RGB"))
        faces.append(geometry.resize(image, _SMALL, _SMALL))
    _, kinds = np.unique(hair, return_inverse=True)
    write_npz(path, x_train=faces, y_train=kinds[: len(faces)])


def remove_known(folder: pathlib.Path, known: pathlib.Path) -> int:
    """Removes from `folder` the files whose content is in `known`; how many."""
    contents = {path.read_bytes() for path in known.glob("*.png")}
    copies = [p for p in folder.glob("*.png") if p.read_bytes() in contents]
    for path in copies:
        path.unlink()
    return len(copies)


def main(argv) -> None:
    """Fetches the packages and draws."""
    del argv
    output = flags.FLAGS.output
    num_train, num_test = flags.FLAGS.num_train, flags.FLAGS.num_test
    if flags.FLAGS.hair:
        values.require_writable(flags.FLAGS.hair, "hair")
    with new_folder(output) as folder, tempfile.TemporaryDirectory() as aside:
        packages.npm_modules(_PACKAGES, aside)
        # Modules are looked for beside the program that imports them.
        program = pathlib.Path(shutil.copy(_PROGRAM, aside))
        hair = draw(program, range(num_train), folder / "train")
        if flags.FLAGS.hair:
            write_hair(folder / "train", hair, flags.FLAGS.hair)
        seeds = range(num_train, num_train + num_test)
        draw(program, seeds, folder / "test")
        num_copies = remove_known(folder / "test", folder / "train")
    print(
        f"{output}: {num_train:,} and {num_test - num_copies:,} faces; "
        f"{num_copies:,} of the latter were removed, being among the former."
    )


if __name__ == "__main__":
    # Only here: whoever imports the functions has flags of his own.
    flags.DEFINE_string(
        "output", "data/cartoon_faces", "Folder to write to; a new one."
    )
    flags.DEFINE_integer(
        "num_train", 18000, "Faces to train with.", lower_bound=1
    )
    flags.DEFINE_integer("num_test", 2000, "Faces to test with.", lower_bound=1)
    flags.DEFINE_string(
        "hair",
        "",
        f"An .npz to write as well: the first {_NUM_TOLD:,} faces to train "
        f"with, {_SMALL}x{_SMALL}, and their kinds of hair.",
    )
    command_line.run(main)
