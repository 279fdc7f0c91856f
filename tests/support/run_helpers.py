"""A run small enough for a test: 8-pixel binary images from an array."""

import pathlib

import numpy as np

from nvae_tf.config import Config, config_from_dict

# A model that is built in a moment, for tests of what is around it.
SMALLEST = {"num_latent_scales": 1, "num_groups_per_scale": 1}


def write_images(path: pathlib.Path, count: int = 40) -> pathlib.Path:
    """Writes blurry blobs, uint8 `[count, 8, 8]`."""
    random = np.random.default_rng(0)
    centre = random.uniform(2, 6, (count, 2, 1, 1))
    rows, columns = np.mgrid[0:8, 0:8]
    square = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2
    np.save(path, (255 * np.exp(-square / 4)).astype(np.uint8))
    return path


def make_config(
    images: pathlib.Path, precision: str = "float32", **groups: dict
) -> Config:
    """Two scales, three groups, three steps per epoch, two epochs.

    The cells are the plainest, since tracing takes most of a run's time.
    """
    values = {
        "name": "blobs",
        "precision": precision,
        "model": {
            "image_size": 8,
            "image_channels": 1,
            "num_bits": 1,
            "likelihood": "bernoulli",
            "num_latent_scales": 2,
            "num_groups_per_scale": 2,
            "adaptive_groups": True,
            "num_latent_per_group": 2,
            "num_channels_enc": 4,
            "num_channels_dec": 4,
            "num_preprocess_cells": 1,
            "num_postprocess_cells": 1,
            "num_cells_enc": 1,
            "num_cells_dec": 1,
            "use_se": False,
            "architecture": "res_bnswish",
        },
        "data": {
            "source": "array",
            "path": str(images),
            "binarize": True,
            "num_workers": 0,
        },
        "train": {
            "epochs": 2,
            "batch_size": 12,
            "warmup_epochs": 1,
            "log_every": 1,
        },
        "evaluation": {
            "num_importance_samples": 1,
            "final_importance_samples": 2,
            "image_temperatures": (0.7,),
        },
    }
    for name, group in groups.items():
        values[name] = {**values.get(name, {}), **group}
    return config_from_dict(values)


def assert_ended_alike(
    whole: pathlib.Path, resumed: pathlib.Path, *, step: int
) -> None:
    """Both runs are at this step, with the same state bit for bit."""
    # With TensorFlow, which not all that use this module load.
    from nvae_tf.runs.workdir import Workdir

    expected, actual = (
        Workdir(path).checkpoints().restore_latest()
        for path in (whole, resumed)
    )
    assert actual.step == expected.step == step
    assert actual.tensors.keys() == expected.tensors.keys()
    for name, value in expected.tensors.items():
        np.testing.assert_array_equal(actual.tensors[name], value, err_msg=name)
