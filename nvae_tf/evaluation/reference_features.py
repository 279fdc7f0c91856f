"""Features of a run's images, kept so that they are taken once."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from nvae_tf.config import Config
from nvae_tf.core.errors import DataError
from nvae_tf.core.npz_files import read_npz, write_npz
from nvae_tf.datasets.data_state import data_state
from nvae_tf.datasets.sources import Source
from nvae_tf.evaluation.features import FeatureNetwork
from nvae_tf.evaluation.sample_files import in_batches

__all__ = ["FOLDER", "reference_features"]

FOLDER = "reference_features"
_MOST_BYTES = 2**34
# Keys of `data` that do not change what an image is.
_IRRELEVANT = (
    "binarize",
    "flip",
    "num_workers",
    "labels",
    "max_pixels",
    "max_unpacked_mb",
)


def reference_features(
    network: FeatureNetwork,
    source: Source,
    config: Config,
    *,
    split: str,
    num: int,
    batch_size: int,
    folder: str | os.PathLike | None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> np.ndarray:
    """Features of the first images of a split.

    Args:
      network: whose features they are.
      source: the split's images, from `datasets.open_source`.
      config: of the run.
      split: its name.
      num: how many images.
      batch_size: images at once.
      folder: where features are kept; a file is used again for the same data
        settings, unchanged files, split, number and network. None for nowhere.
      progress: wraps the batches.

    Returns:
      float32 `[N, F]`.

    Raises:
      DataError: if the images do not fit the network or cannot be read.
    """

    def extracted() -> np.ndarray:
        batches = in_batches(source, num, batch_size, config)
        return network.extract(progress(batches))

    if folder is None:
        return extracted()
    data = dataclasses.asdict(config.data)
    key = {
        "data": {k: v for k, v in data.items() if k not in _IRRELEVANT},
        "shape": [config.model.image_size, config.model.image_channels],
        "files": data_state(config.data),
        "available": len(source),
        "split": split,
        "num": num,
        "network": network.fingerprint,
    }
    text = json.dumps(key, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = pathlib.Path(folder) / f"{split}_{num}_{digest}.npz"
    features = _read(path, text)
    if features is None:
        features = extracted()
        write_npz(path, features=features, key=text)
    return features


def _read(path: pathlib.Path, key: str) -> np.ndarray | None:
    """What is kept; None if there is nothing whole."""
    try:
        stored = read_npz(path, _MOST_BYTES)
    except DataError:
        return None
    features = stored.get("features")
    if features is None or str(stored.get("key")) != key:
        return None
    is_whole = features.dtype == np.float32 and features.ndim == 2
    return features if is_whole and np.isfinite(features).all() else None
