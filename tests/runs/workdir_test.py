"""A run's folder: what may change between two starts of it."""

import dataclasses

import numpy as np
import pytest

from nvae_tf.config import Config, DataConfig
from nvae_tf.core.errors import UserError
from nvae_tf.runs.workdir import Workdir


def _config(source, split_by, **data):
    return Config(
        data=DataConfig(source=source, split_by=split_by, path="d", **data)
    )


@pytest.fixture
def workdir(tmp_path):
    """Of a run on a folder of images, split by their paths."""
    folder = Workdir(tmp_path)
    folder.write_config(_config("image_folder", "hash"))
    folder.checkpoints().save(1, {"x": np.zeros(1)}, {})
    return folder


def test_run_goes_on_with_the_split_that_it_began_with(workdir):
    old = workdir.read_config()
    assert workdir.check_config(old) == []
    # Else images that it has learned from would be held out.
    expected = r"data\.split_by \('hash' there"
    with pytest.raises(UserError, match=expected) as error:
        workdir.check_config(_config("image_folder", "content"))
    assert "--config.data.split_by=hash" in str(error.value)


@pytest.mark.parametrize("source", ["mnist_5k", "tfds", "array"])
def test_split_of_folders_does_not_matter_to_other_sources(tmp_path, source):
    folder = Workdir(tmp_path)
    folder.write_config(_config(source, "hash"))
    folder.checkpoints().save(1, {"x": np.zeros(1)}, {})
    assert folder.check_config(_config(source, "content")) == []


def test_what_cannot_change_is_named_with_its_flag(workdir):
    old = workdir.read_config()
    data = dataclasses.replace(old.data, validation_fraction=0.5)
    new = dataclasses.replace(old, data=data, precision="mixed_float16")
    with pytest.raises(UserError, match="another configuration") as error:
        workdir.check_config(new)
    for flag in (
        "--config.data.validation_fraction=0.1",
        "--config.precision=float32",
    ):
        assert flag in str(error.value)


def test_what_can_change_is_told(workdir):
    old = workdir.read_config()
    train = dataclasses.replace(old.train, epochs=7)
    assert workdir.check_config(dataclasses.replace(old, train=train)) == [
        f"train.epochs ({old.train.epochs} there, 7 now)"
    ]
