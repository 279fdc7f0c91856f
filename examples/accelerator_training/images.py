"""The images of a run, as they travel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from nvae_tf.config import Config
from nvae_tf.core.errors import UserError
from nvae_tf.datasets import pipeline
from nvae_tf.datasets.preprocess import preprocess

__all__ = ["Packed", "pack"]

_BATCH = 1000


class Packed(NamedTuple):
    """Images, and what is to be known of them.

    Attributes:
      arrays: "train", uint8 `[N, H, W, C]`, and "test", bits of uint8 where
        images are binary; without padding.
      description: plain values.
    """

    arrays: dict[str, np.ndarray]
    description: dict[str, Any]


def pack(config: Config) -> Packed:
    """Reads the images of a run.

    Those to train with are what is left to do at random: intensities where
    pixels are drawn, else levels.  Those to test with are what an evaluation
    of the run sees, drawn pixels included.

    Raises:
      UserError: if they cannot be had, or are of a kind that is not supported.
    """
    if config.data.resize == "random_crop":
        raise UserError("data.resize 'random_crop' is not supported here.")
    source = pipeline.open_source(config, "train")
    if source.bits > 8:
        raise UserError("Images of more than 8 bits are not supported here.")
    train = np.stack([source[i] for i in range(len(source))])
    levels = 2**config.model.num_bits - 1
    if not config.data.binarize:
        train = _levels(train, source.bits, config.model.num_bits)
    test = _test_images(config, levels)
    arrays = {
        "train": train,
        "test": np.packbits(test, axis=None) if levels == 1 else test,
    }
    description = {
        "top": 2**source.bits - 1 if config.data.binarize else levels,
        "levels": levels,
        "test_shape": list(test.shape),
    }
    return Packed(arrays, description)


def _levels(images: np.ndarray, bits_in: int, bits_out: int) -> np.ndarray:
    parts = []
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        keys = tf.zeros([len(part), 2], tf.int64)
        parts.append(
            preprocess(
                tf.constant(part), keys, bits_in=bits_in, bits_out=bits_out
            ).numpy()
        )
    values = np.concatenate(parts) * (2**bits_out - 1)
    return np.round(values).astype(np.uint8)


def _test_images(config: Config, levels: int) -> np.ndarray:
    """uint8 `[N, H, W, C]`, levels."""
    source = pipeline.open_source(config, "test")
    padding = config.model.padding
    inside = slice(padding, padding + config.model.image_size)
    parts = []
    for batch in pipeline.batches(
        source,
        config,
        training=False,
        batch_size=_BATCH,
        seed=config.train.seed,
    ):
        good = batch.weights.numpy() > 0
        parts.append(batch.images.numpy()[good][:, inside, inside])
    return np.round(np.concatenate(parts) * levels).astype(np.uint8)
