import json
import os
import shutil
import socket
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.core.errors import ConfigError, DataError
from nvae_tf.datasets import preparation
from nvae_tf.datasets.pipeline import batches, open_source
from nvae_tf.datasets.records import MANIFEST, write_shard
from tests.support.data_helpers import binary_model, make_config, write_picture


@pytest.fixture
def pictures(tmp_path):
    """20 pictures of mixed sizes in three split folders."""
    root = tmp_path / "pictures"
    for number in range(20):
        kind = "train" if number < 14 else "val" if number < 17 else "test"
        write_picture(
            root / kind / f"{number:02d}.png",
            size=(20 + number, 30),
            seed=number,
        )
    return root


def folder_config(root, **data):
    return make_config(
        **{
            "source": "image_folder",
            "path": str(root),
            "split_by": "folder",
            "resize": "crop",
        }
        | data
    )


def prepared_config(output, **data):
    return make_config(source="tfrecord", path=str(output), **data)


def everything(config, split):
    source = open_source(config, split)
    return [source[i] for i in range(len(source))]


def contents(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.tfrecord")}


def test_prepared_images_are_those_of_the_source(tmp_path, pictures):
    config = folder_config(pictures)
    output = tmp_path / "out"
    prepared = preparation.prepare(config, output, images_per_shard=4)
    assert prepared.counts == {"train": 14, "validation": 3, "test": 3}
    assert prepared.skipped == 0
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(
            everything(prepared_config(output), split),
            everything(config, split),
        )
    assert len(list(output.glob("train-*-of-00004.tfrecord"))) == 4
    assert not list(output.glob(".*"))


def test_tensorflow_reads_the_shards(tmp_path, pictures):
    output = tmp_path / "out"
    preparation.prepare(folder_config(pictures), output)
    files = sorted(str(path) for path in output.glob("train-*.tfrecord"))
    examples = [
        tf.train.Example.FromString(data.numpy())
        for data in tf.data.TFRecordDataset(files)
    ]
    assert len(examples) == 14
    shape = examples[0].features.feature["shape"].int64_list.value
    assert list(shape) == [8, 8, 3]


def test_shards_are_the_same_bytes_in_every_process(tmp_path):
    path = tmp_path / "x.tfrecord"
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    index = write_shard(path, [image, None, image])
    assert (len(index.offsets), index.skipped) == (2, 1)
    assert index.file_size == path.stat().st_size
    assert zlib.crc32(path.read_bytes()) == 475370687


def test_training_may_keep_the_resize_policy_it_prepared_with(
    tmp_path, pictures
):
    output = tmp_path / "out"
    preparation.prepare(folder_config(pictures), output)
    assert len(open_source(prepared_config(output, resize="crop"), "train"))
    with pytest.raises(DataError, match=r"prepared with data.resize 'crop'"):
        open_source(prepared_config(output, resize="resize"), "train")


def test_random_crops_are_drawn_from_prepared_images_too(tmp_path, pictures):
    config = folder_config(pictures, resize="random_crop", flip=True)
    output = tmp_path / "out"
    preparation.prepare(config, output)
    later = prepared_config(output, resize="random_crop", flip=True)
    first, second = (
        next(
            batches(
                open_source(c, "train"),
                c,
                training=True,
                batch_size=14,
                seed=0,
            )
        )
        for c in (config, later)
    )
    np.testing.assert_array_equal(first.images, second.images)
    with pytest.raises(DataError, match=r"data.resize 'random_crop'"):
        open_source(prepared_config(output), "train")


def test_sets_that_are_the_same_are_written_once(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((50, 8, 8, 3), np.uint16))
    output = tmp_path / "out"
    config = make_config(source="array", path=str(path), bits=10)
    prepared = preparation.prepare(config, output)
    assert set(prepared.counts) == {"train", "validation"}
    test = open_source(prepared_config(output), "test")
    assert len(test) == prepared.counts["validation"]
    assert (test.bits, test[0].dtype) == (10, np.uint16)


class InterruptError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 9, 15, 19])
def test_interrupted_preparation_resumes(
    tmp_path, pictures, monkeypatch, after
):
    config = folder_config(pictures)
    whole, output = tmp_path / "whole", tmp_path / "out"
    preparation.prepare(config, whole, images_per_shard=4)

    real, count = preparation.map_ahead, 0

    def interrupted(*args, **kwargs):
        nonlocal count
        for image in real(*args, **kwargs):
            if count == after:
                raise InterruptError
            count += 1
            yield image

    with monkeypatch.context() as patched:
        patched.setattr(preparation, "map_ahead", interrupted)
        with pytest.raises(InterruptError):
            preparation.prepare(config, output, images_per_shard=4)
    assert not list(output.glob(".*"))
    with pytest.raises(DataError, match="interrupted or never begun"):
        open_source(prepared_config(output), "train")
    before = contents(output)
    name = f".train-00000-of-00004.tfrecord.{socket.gethostname()}"
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    (output / f"{name}-{ended.pid}.tmp").write_bytes(b"killed")
    preparation.prepare(config, output, images_per_shard=4)
    assert not list(output.glob(".*"))
    after_resume = contents(output)
    assert {k: after_resume[k] for k in before} == before
    for path in whole.glob("*.tfrecord"):
        assert (output / path.name).read_bytes() == path.read_bytes()
    assert (output / MANIFEST).read_text() == (whole / MANIFEST).read_text()


def test_what_another_preparation_is_writing_stays(tmp_path, pictures):
    output = tmp_path / "out"
    name = f"train-00000-of-00001.tfrecord.{socket.gethostname()}"
    path = output / f".{name}-{os.getppid()}.tmp"
    output.mkdir()
    path.write_bytes(b"half")
    preparation.prepare(folder_config(pictures), output)
    assert path.read_bytes() == b"half"


def test_only_damaged_shards_are_written_again(tmp_path, pictures):
    config, output = folder_config(pictures), tmp_path / "out"
    preparation.prepare(config, output, images_per_shard=4)
    before = contents(output)
    damaged = output / "train-00001-of-00004.tfrecord"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"train-00001.* cut off"):
        open_source(prepared_config(output), "train")
    preparation.prepare(config, output, images_per_shard=4)
    changed = {
        name
        for name, stamp in contents(output).items()
        if stamp != before[name]
    }
    assert changed == {damaged.name}
    assert len(everything(prepared_config(output), "train")) == 14


def test_preparations_of_before_are_gone_on_with(tmp_path):
    images, output = tmp_path / "x.npy", tmp_path / "out"
    np.save(images, np.zeros((50, 8, 8, 3), np.uint8))
    config = make_config(source="array", path=str(images))
    preparation.prepare(config, output)
    path = output / "preparation.json"
    # Of arrays, which nothing but a hash parts.
    settings = {**json.loads(path.read_text()), "split_by": "hash"}
    # Nothing was known of the files.
    del settings["files"]
    path.write_text(json.dumps(settings))
    os.utime(images, (0, 0))
    assert preparation.prepare(config, output).counts["train"] > 0


def test_other_settings_are_refused(tmp_path, pictures):
    output = tmp_path / "out"
    preparation.prepare(folder_config(pictures), output)
    with pytest.raises(DataError, match=r"resize \('crop' then, 'resize'"):
        preparation.prepare(folder_config(pictures, resize="resize"), output)
    with pytest.raises(DataError, match="another images_per_shard"):
        preparation.prepare(folder_config(pictures), output, images_per_shard=3)


def test_pictures_that_have_changed_are_not_mixed_with_those_of_before(
    tmp_path, pictures
):
    config, output = folder_config(pictures), tmp_path / "out"
    preparation.prepare(config, output, images_per_shard=4)
    # As many as before, but in another order.
    (pictures / "train" / "00.png").rename(pictures / "train" / "99.png")
    (output / "train-00003-of-00004.tfrecord").unlink()
    with pytest.raises(DataError, match="another state of the files"):
        preparation.prepare(config, output, images_per_shard=4)


def test_splits_of_different_bits_are_refused(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "train.npy", np.zeros((5, 8, 8, 3), np.uint8))
    np.save(data / "test.npy", np.ones((5, 8, 8, 3), bool))
    config = make_config(source="array", path=str(data))
    with pytest.raises(
        DataError, match=r"test\.npy has values of 1 bits.*have 8"
    ):
        preparation.prepare(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wide_arrays_of_few_bits_are_prepared(tmp_path):
    path, output = tmp_path / "x.npy", tmp_path / "out"
    images = np.arange(50 * 8 * 8 * 3).reshape(50, 8, 8, 3) % 32
    np.save(path, images.astype(np.uint16))
    config = make_config(source="array", path=str(path), bits=5)
    preparation.prepare(config, output)
    np.testing.assert_array_equal(
        everything(prepared_config(output), "train"),
        everything(config, "train"),
    )
    config = make_config(source="array", path=str(path), bits=4)
    with pytest.raises(DataError, match=r"the value 31.*data\.bits=4"):
        preparation.prepare(config, tmp_path / "other")


def test_another_model_geometry_is_refused(tmp_path, pictures):
    output = tmp_path / "out"
    preparation.prepare(folder_config(pictures), output)
    with pytest.raises(DataError, match=r"model.image_size 8, not 16"):
        open_source(prepared_config(output, model={"image_size": 16}), "train")
    with pytest.raises(DataError, match="image_channels 3, not 1"):
        open_source(
            prepared_config(output, model=binary_model(), binarize=True),
            "train",
        )


def test_a_flipped_bit_is_found(tmp_path, pictures):
    output = tmp_path / "out"
    preparation.prepare(folder_config(pictures), output)
    (shard,) = output.glob("train-*.tfrecord")
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    source = open_source(prepared_config(output), "train")
    with pytest.raises(DataError, match=r"record 0 of .*tfrecord is damaged"):
        source[0]
    assert source[1].shape == (8, 8, 3)


def test_missing_pieces_are_errors_that_name_them(tmp_path, pictures):
    output = tmp_path / "out"
    preparation.prepare(folder_config(pictures), output)
    config = prepared_config(output)
    index = next(output.glob("train-*.npz"))
    content = index.read_bytes()
    for damage in (content[:100], b""):
        index.write_bytes(damage)
        with pytest.raises(DataError, match="without its index"):
            open_source(config, "train")
    index.unlink()
    with pytest.raises(DataError, match="without its index"):
        open_source(config, "train")
    (output / MANIFEST).write_text("{")
    with pytest.raises(DataError, match=MANIFEST):
        open_source(config, "train")
    (output / MANIFEST).write_text('{"format": 99}')
    with pytest.raises(DataError, match="format 99, not 1"):
        open_source(config, "train")
    with pytest.raises(DataError, match=r"not a folder.*nvae data prepare"):
        open_source(prepared_config(tmp_path / "none"), "train")


def test_corrupt_pictures_stop_or_are_counted(tmp_path, pictures):
    bad = pictures / "train" / "03.png"
    bad.write_bytes(bad.read_bytes()[:100])
    output = tmp_path / "out"
    with pytest.raises(DataError, match=r"03\.png.*skip_corrupt"):
        preparation.prepare(folder_config(pictures), output)
    shutil.rmtree(output)
    prepared = preparation.prepare(
        folder_config(pictures, skip_corrupt=True), output
    )
    assert prepared.counts["train"] == 13
    assert prepared.skipped == 1
    assert len(everything(prepared_config(output), "train")) == 13


def test_nothing_readable_is_an_error(tmp_path, pictures):
    for path in (pictures / "val").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"nothing to prepare.*validation"):
        preparation.prepare(
            folder_config(pictures, skip_corrupt=True), tmp_path / "out"
        )


def test_prepared_sources_are_not_prepared_again(tmp_path):
    with pytest.raises(ConfigError, match="prepared already"):
        preparation.prepare(prepared_config(tmp_path), tmp_path / "out")


def test_unwritable_output_is_an_error(tmp_path, pictures):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        preparation.prepare(folder_config(pictures), tmp_path / "file" / "out")
