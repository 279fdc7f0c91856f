"""Makes VERSION.tar.xz beside it: a small run, and all that comes of one.

For a release whose files differ from those of the one before:

    python tests/data/runs/make_archive.py

`tests/runs/compatibility_test.py` then holds every later version to it.  0.1
was made by the commands that were there before `nvae`, of the same meaning.
"""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

import numpy as np
from PIL import Image

import nvae_tf
from nvae_tf.config import config_from_dict
from nvae_tf.datasets import pipeline

_FOLDER = pathlib.Path(__file__).parent
_SMALLER = {
    "model.num_channels_enc": 4,
    "model.num_channels_dec": 4,
    "model.num_latent_per_group": 2,
    "model.num_groups_per_scale": 2,
    "train.batch_size": 500,
    "train.epochs": 2,
    "train.ema_decay": 0.9,
    "train.log_every": 2,
    "evaluation.image_temperatures": (0.7,),
    "checkpoint.keep": 1,
}
# One epoch more, of which the records are kept.
_CONTINUED = {
    "train.epochs": 3,
    "train.log_every": 1,
    "evaluation.final_importance_samples": 2,
}


def _nvae(words: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "nvae_tf", *words.split(), *arguments]
    subprocess.run(command, check=True)


def _overrides(values: dict) -> list[str]:
    return [f"--config.{key}={value}" for key, value in values.items()]


def _write_pictures(folder: pathlib.Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:12, 0:10]
    for number in range(12):
        slopes = random.integers(5, 20, (2, 3))
        image = rows[..., None] * slopes[0] + columns[..., None] * slopes[1]
        Image.fromarray((image % 256).astype(np.uint8)).save(
            folder / f"{number:02d}.png"
        )


def _make(folder: pathlib.Path) -> None:
    run = folder / "run"
    model = f"--workdir={run}"
    _nvae("train", "--config=tiny", model, *_overrides(_SMALLER))
    _nvae(
        "eval likelihood",
        model,
        "--num=64",
        "--num_importance_samples=2",
        "--noplot",
    )
    drawn = ("--num=4", "--temperature=0.7")
    _nvae("sample", model, *drawn, f"--output={folder}/samples/")
    _nvae(
        "sample",
        model,
        *drawn,
        "--pixels=sample",
        "--ema",
        f"--output={folder}/samples_ema/",
    )
    _nvae("encode", model, "--indices=0,1,2", f"--output={folder}/latents.npz")
    _nvae("export savedmodel", model, f"--output={folder}/served")
    _nvae(
        "export onnx",
        model,
        f"--output={folder}/onnx/nvae.onnx",
        "--graphs=sample,score",
    )
    _nvae(
        "export checkpoint",
        model,
        f"--output={folder}/authors.pt",
        "--dataset=celeba_64",
    )
    pictures = folder / "pictures"
    _write_pictures(pictures)
    _nvae(
        "data prepare",
        "--config=image_folder",
        f"--config.data.path={pictures}",
        "--config.model.image_size=8",
        "--config.data.validation_fraction=0.25",
        f"--output={folder}/prepared",
    )
    _write_digest(folder, run)
    shutil.rmtree(pictures)
    shutil.rmtree(run / "tensorboard")
    # Holds the pictures' place.
    (folder / "prepared" / "preparation.json").unlink()
    _continue(folder, run)


def _write_digest(folder: pathlib.Path, run: pathlib.Path) -> None:
    values = json.loads((run / "config.json").read_text())
    values["data"] = {
        "source": "tfrecord",
        "path": str(folder / "prepared"),
        "resize": "crop",
    }
    digest = hashlib.sha256()
    for split in ("train", "validation"):
        source = pipeline.open_source(config_from_dict(values), split)
        for number in range(len(source)):
            digest.update(np.ascontiguousarray(source[number]))
    (folder / "prepared.sha256").write_text(digest.hexdigest() + "\n")


def _continue(folder: pathlib.Path, run: pathlib.Path) -> None:
    copy = folder / "copy"
    shutil.copytree(run, copy)
    before = (run / "metrics.jsonl").stat().st_size
    _nvae(
        "train",
        f"--config=workdir:{copy}",
        f"--workdir={copy}",
        *_overrides(_CONTINUED),
    )
    records = (copy / "metrics.jsonl").read_bytes()[before:]
    (folder / "continued.jsonl").write_bytes(records)
    shutil.rmtree(copy)


def _main() -> None:
    version = nvae_tf.__version__.rpartition(".")[0]
    with tempfile.TemporaryDirectory() as folder:
        _make(pathlib.Path(folder))
        with tarfile.open(_FOLDER / f"{version}.tar.xz", "w:xz") as archive:
            for path in sorted(pathlib.Path(folder).iterdir()):
                archive.add(path, path.name)


if __name__ == "__main__":
    _main()
