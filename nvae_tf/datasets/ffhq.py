"""A TFDS builder for FFHQ at 256 pixels, from images downloaded by hand.

Importing this module registers the builder `ffhq256`; it needs the extra
`data`.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from nvae_tf.core.errors import DataError
from nvae_tf.datasets.folder import decode_image
from nvae_tf.datasets.geometry import match_channels, match_size
from nvae_tf.datasets.image_files import list_images

__all__ = ["Ffhq256"]


class Ffhq256(tfds.core.GeneratorBasedBuilder):
    """70,000 faces: 00000 to 62999 for training, the rest held out."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download FFHQ (https://github.com/NVlabs/ffhq-dataset), either the "
        "folder images1024x1024 or a copy already resized to 256 pixels, and "
        "put the 70,000 files 00000.png to 69999.png (nested folders are "
        "fine) into the folder ffhq in there."
    )
    SIZE = 256
    NUM_IMAGES = 70_000
    NUM_TRAIN = 63_000

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Flickr-Faces-HQ at 256x256 pixels, resized with antialiased "
                "bilinear sampling."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(self.SIZE, self.SIZE, 3)
                    ),
                    "number": np.int64,
                }
            ),
            homepage="https://github.com/NVlabs/ffhq-dataset",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root = pathlib.Path(dl_manager.manual_dir) / "ffhq"
        if not root.is_dir():
            raise DataError(
                f"There is no folder {root}. "
                f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        files = self._numbered(list_images(root))
        missing = self.NUM_IMAGES - len(files)
        if missing:
            first = next(i for i in range(self.NUM_IMAGES) if i not in files)
            raise DataError(
                f"{root} lacks {missing:,} of FFHQ's {self.NUM_IMAGES:,} "
                f"images, the first of them {first:05d}.png; complete the "
                "download and start again."
            )
        train = range(self.NUM_TRAIN)
        test = range(self.NUM_TRAIN, self.NUM_IMAGES)
        return {
            "train": self._generate_examples({i: files[i] for i in train}),
            "test": self._generate_examples({i: files[i] for i in test}),
        }

    def _numbered(self, paths: list[pathlib.Path]) -> dict[int, pathlib.Path]:
        files: dict[int, pathlib.Path] = {}
        for path in paths:
            if not path.stem.isdigit() or int(path.stem) >= self.NUM_IMAGES:
                continue
            if int(path.stem) in files:
                raise DataError(
                    f"{path} and {files[int(path.stem)]} are the same image; "
                    "keep one size of FFHQ only."
                )
            files[int(path.stem)] = path
        return files

    def _generate_examples(
        self, files: dict[int, pathlib.Path]
    ) -> Iterator[tuple[int, dict]]:
        for number, path in files.items():
            image = match_channels(decode_image(path), 3, where=str(path))
            image = match_size(image, self.SIZE, "resize", where=str(path))
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "PNG")
            encoded.seek(0)
            yield number, {"image": encoded, "number": number}
