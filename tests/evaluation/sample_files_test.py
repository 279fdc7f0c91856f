"""Sets of images written and read back, and features that are kept."""

import dataclasses
import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from nvae_tf.core import files
from nvae_tf.core.errors import ConfigError, DataError
from nvae_tf.datasets import pipeline
from nvae_tf.datasets.sources import ArraySource
from nvae_tf.evaluation.features import FeatureNetwork
from nvae_tf.evaluation.importance import Progress
from nvae_tf.evaluation.partial_results import PartialResult
from nvae_tf.evaluation.reference_features import reference_features
from nvae_tf.evaluation.sample_files import (
    check_output,
    in_batches,
    open_samples,
    write_samples,
)
from tests.support import faults
from tests.support.run_helpers import make_config, write_images


def _images(count=7, channels=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 6, 5, channels), dtype=np.uint8)


def _all(source, num=100, **kwargs):
    return np.concatenate([*in_batches(source, num, 3, **kwargs)])


@pytest.mark.parametrize("name", ["folder", "s.npz", "s.tfrecord"])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_come_back_as_they_were_written(tmp_path, name, channels):
    images = _images(channels=channels)
    path = str(tmp_path / name)
    check_output(path)
    write_samples(path, [images[:4], images[4:]])
    source = open_samples(path)
    np.testing.assert_array_equal(_all(source), images)
    np.testing.assert_array_equal(_all(source, num=5), images[:5])


@pytest.mark.parametrize("name", ["folder", "s.npz", "s.tfrecord"])
def test_samples_are_written_where_they_are_read_from(
    tmp_path, monkeypatch, name
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = f"~/{name}"
    check_output(path)
    write_samples(path, [_images(2)])
    np.testing.assert_array_equal(_all(open_samples(path)), _images(2))
    assert (tmp_path / name).exists()
    assert not (tmp_path / "~").exists()
    if name == "folder":
        with pytest.raises(ConfigError, match="exists"):
            check_output(path)


def test_folder_of_samples_is_whole_or_not_there(tmp_path):
    def broken():
        yield _images(2)
        raise RuntimeError("out of memory")

    path = tmp_path / "samples"
    with pytest.raises(RuntimeError):
        write_samples(str(path), broken())
    assert not [*tmp_path.iterdir()]
    write_samples(str(path), [_images(2)])
    assert [p.name for p in sorted(path.iterdir())] == [
        "000000.png",
        "000001.png",
    ]
    with pytest.raises(ConfigError, match="exists"):
        check_output(str(path))
    with pytest.raises(ConfigError, match="must end in"):
        check_output("samples.zip")


@pytest.mark.long
def test_two_commands_that_write_one_folder_do_not_mix(tmp_path):
    """The slower one is told; the other's images stay as they are."""
    path, images = tmp_path / "samples", _images(4)
    early = f"""
import numpy as np
from nvae_tf.evaluation.sample_files import write_samples
write_samples({str(path)!r}, [np.zeros((2, 6, 5, 3), np.uint8)])
"""

    def late():
        yield images[:2]
        subprocess.run([sys.executable, "-c", early], check=True)
        yield images[2:]

    with pytest.raises(DataError, match="exists already"):
        write_samples(str(path), late())
    assert [p.name for p in tmp_path.iterdir()] == ["samples"]
    source = open_samples(str(path))
    np.testing.assert_array_equal(_all(source), np.zeros((2, 6, 5, 3)))


@pytest.mark.parametrize("name", ["folder", "s.npz"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_samples_are_whole_or_absent_wherever_the_disk_fails(
    tmp_path, name, number
):
    path = tmp_path / name
    calls = faults.numbers_of_calls(
        lambda: write_samples(str(path), [_images(2)])
    )
    for call in calls:
        files.remove(path)
        with faults.disk(call, number):
            with pytest.raises(DataError, match="Cannot write"):
                write_samples(str(path), [_images(2)])
        if path.exists():
            np.testing.assert_array_equal(
                _all(open_samples(str(path))), _images(2)
            )
        assert {p.name for p in tmp_path.iterdir()} <= {name}


def test_half_done_evaluation_is_the_old_or_the_new(tmp_path):
    settings = {"split": "test", "num_importance_samples": 2}

    def save(done):
        PartialResult(tmp_path, settings).save(Progress(batch=done))

    assert PartialResult(tmp_path, settings).load().batch == 0
    save(0)  # Its folder is there from now on.
    for call in faults.numbers_of_calls(lambda: save(2)):
        save(1)
        with faults.disk(call, errno.ENOSPC):
            with pytest.raises(DataError, match="No space left"):
                save(2)
        assert PartialResult(tmp_path, settings).load().batch in (1, 2)
        assert len([*(tmp_path / "partial_evaluations").iterdir()]) == 1


def test_array_without_channels_is_gray(tmp_path):
    np.save(tmp_path / "a.npy", _images(channels=1)[..., 0])
    source = open_samples(str(tmp_path / "a.npy"))
    np.testing.assert_array_equal(_all(source), _images(channels=1))


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("a.npz", {"a": _images(), "b": _images()}, "name the images arr_0"),
        ("a.npz", {"a": _images() / 255}, "uint8"),
        ("a.npz", None, "cannot be read"),
        ("a.tfrecord", None, "no whole index"),
        ("a.txt", None, "neither a folder nor"),
        ("missing", (), "does not exist"),
    ],
)
def test_what_holds_no_samples_is_named(tmp_path, name, arrays, message):
    path = tmp_path / name
    if arrays is None:
        path.write_text("text")
    elif arrays:
        np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        open_samples(str(path))
    assert str(path) in str(caught.value)


def test_samples_of_different_sizes_are_refused(tmp_path):
    for size in (4, 5):
        image = Image.fromarray(np.zeros((size, size), np.uint8))
        image.save(tmp_path / f"{size}.png")
    with pytest.raises(DataError, match="differ in size"):
        _all(open_samples(str(tmp_path)))


def test_real_images_are_at_8_bits_and_cropped_at_the_centre(tmp_path):
    config = make_config(write_images(tmp_path / "i.npy"))
    levels = np.arange(2 * 10 * 12, dtype=np.uint16).reshape(2, 10, 12, 1) * 60
    source = ArraySource("levels", levels, bits=16)
    actual = _all(source, config=config)
    expected = np.rint(levels[:, 1:9, 2:10] / 65535 * 255)
    np.testing.assert_array_equal(actual, expected)


def test_values_of_more_bits_than_the_data_has_are_refused():
    levels = np.full((1, 2, 2, 1), 31, np.uint16)
    (batch,) = in_batches(ArraySource("levels", levels, bits=5), 1, 1)
    assert batch.dtype == np.uint8
    assert (batch == 255).all()
    with pytest.raises(DataError, match=r"the value 31.*data\.bits=4"):
        next(in_batches(ArraySource("levels", levels, bits=4), 1, 1))
    wide = np.full((1, 2, 2, 1), 255, np.uint16)
    (batch,) = in_batches(ArraySource("wide", wide, bits=8), 1, 1)
    assert batch.dtype == np.uint8


def test_features_of_real_images_are_taken_once(tmp_path):
    config = make_config(write_images(tmp_path / "i.npy"))
    source = pipeline.open_source(config, "train")
    calls = []

    def function(images):
        calls.append(1)
        return tf.reduce_mean(images, axis=[1, 2])

    def features(config=config, num=8, fingerprint="a"):
        before = len(calls)
        result = reference_features(
            FeatureNetwork("test", fingerprint, function),
            source,
            config,
            split="train",
            num=num,
            batch_size=4,
            folder=tmp_path / "cache",
        )
        return result, len(calls) > before

    first, is_new = features()
    assert is_new
    assert first.shape == (8, 1)
    # Real images as they are stored, not binarised.
    assert len(np.unique(first)) == 8
    again, is_new = features()
    assert not is_new
    np.testing.assert_array_equal(again, first)
    other = dataclasses.replace(config.data, validation_fraction=0.2)
    for changes in (
        {"num": 6},
        {"fingerprint": "b"},
        {"config": dataclasses.replace(config, data=other)},
    ):
        assert features(**changes)[1]
    # Other images in the place of these, as many.
    write_images(tmp_path / "i.npy")
    os.utime(tmp_path / "i.npy", ns=(0, 0))
    assert features()[1]
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(b"damaged")
    repaired, is_new = features()
    assert is_new
    np.testing.assert_array_equal(repaired, first)
