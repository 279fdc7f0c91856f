"""Small configurations and pictures for the tests of the data modules."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nvae_tf.config import Config, config_from_dict
from nvae_tf.datasets.sources import CorruptImageError, Source


def make_config(*, train=None, **data) -> Config:
    """A configuration of 8-pixel images; `model` fields by `model=dict()`."""
    model = {
        "image_size": 8,
        "image_channels": 3,
        "num_bits": 8,
        "num_latent_scales": 1,
        "num_groups_per_scale": 1,
    } | data.pop("model", {})
    return config_from_dict(
        {
            "model": model,
            "data": {"num_workers": 0} | data,
            "train": train or {},
        }
    )


def binary_model(size: int = 8, padding: int = 0) -> dict:
    """Model fields for binary images of one channel."""
    return {
        "image_size": size,
        "image_channels": 1,
        "padding": padding,
        "num_bits": 1,
        "likelihood": "bernoulli",
    }


class NumberedSource(Source):
    """Images that are constant at their own number."""

    def __init__(self, count: int, shape=(8, 8, 3), bad=(), bits: int = 8):
        super().__init__("numbered", bits)
        self.count = count
        self.shape = shape
        self.bad = set(bad)
        self.reads: list[int] = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.bad:
            raise CorruptImageError(f"{self.describe(index)} is corrupt")
        return np.full(self.shape, index, np.uint8)


def numbers(images) -> list[int]:
    """The numbers that the images of a `NumberedSource` show."""
    return np.rint(np.asarray(images)[:, 0, 0, 0] * 255).astype(int).tolist()


def write_picture(path, size=(8, 8), mode="RGB", seed=0, **options):
    """Writes a picture of random pixels; returns them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    shape = (size[1], size[0], channels)
    pixels = rng.integers(0, 256, shape, np.uint8)
    picture = pixels[..., 0] if channels == 1 else pixels
    Image.fromarray(picture).save(path, **options)
    return pixels
