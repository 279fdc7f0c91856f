"""Tests of arrays, IDX files and prepared images that were made to hurt."""

import gzip
import json
import os
import resource
import struct
import zlib

import numpy as np
import pytest

from nvae_tf.config import DataConfig
from nvae_tf.core.errors import DataError
from nvae_tf.datasets import records
from nvae_tf.datasets.arrays import open_array, open_idx
from nvae_tf.datasets.records import open_records, read_shard_index
from nvae_tf.datasets.sources import CorruptImageError
from tests.support.data_helpers import make_config
from tests.support.refusals import refused


def _refused(call, path, *parts):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with refused(DataError, *parts, path=path, cpu_seconds=10):
        call(path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 2**17  # KiB


def _array(path, **data):
    return open_array(
        DataConfig(source="array", path=str(path), **data), "train"
    )


def _idx(path, **data):
    return open_idx(DataConfig(source="idx", path=str(path), **data), "train")


# Arrays


@pytest.mark.parametrize(
    "shape", [(2**40, 0, 0), (2**60, 8, 0), (5, 0, 8, 3), (0, 2**40, 1)]
)
def test_images_without_pixels_are_refused_at_once(tmp_path, shape):
    path = tmp_path / "x.npy"
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n"
    text = header.encode()
    path.write_bytes(
        b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(9)
    )
    _refused(_array, path)


def test_more_images_than_can_be_parted_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (2**24 + 1, 1, 1))
    _refused(_array, path, "at most 16,777,216")


def test_large_images_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((3, 100, 100), np.uint8))
    assert len(_array(path, max_pixels=10_000))
    with pytest.raises(DataError, match="max_pixels=9999"):
        _array(path, max_pixels=9999)


def test_packed_arrays_are_bounded_by_the_configuration(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, np.zeros((1000, 64, 64), np.uint8))
    assert path.stat().st_size < 2**14
    assert len(_array(path, max_unpacked_mb=4)) > 500
    _refused(lambda p: _array(p, max_unpacked_mb=3), path, "unpacks to")


def test_arrays_that_are_not_asked_for_are_not_unpacked(tmp_path):
    path = tmp_path / "x.npz"
    images = np.zeros((3, 8, 8), np.uint8)
    large = np.zeros((2**22, 8), np.uint8)
    np.savez_compressed(path, x_train=images, x_test=images, labels=large)
    assert len(_array(path, max_unpacked_mb=1)) == 3


def test_pipes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    os.mkfifo(tmp_path / "x.npz")
    for name in ("x.npy", "x.npz"):
        _refused(_array, tmp_path / name, "a pipe")


# IDX


def _idx_header(*shape):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


@pytest.mark.parametrize(
    "content",
    [
        bytes([0, 0, 8, 65]) + struct.pack(">65I", *[1] * 65) + b"\0",
        bytes([0, 0, 8, 255]) + struct.pack(">255I", *[2**32 - 1] * 255),
        bytes([0, 0, 8, 0]) + b"\0",
        _idx_header(2**32 - 1, 2**32 - 1, 2**32 - 1),
        _idx_header(2**32 - 1, 0, 1),
        _idx_header(5, 8, 0),
        _idx_header(1, 2**31, 1),
        b"\x1f\x8b",
        b"\x1f\x8b\x08\x08\0\0\0\0\0\0" + b"x" * 9000,
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_shapes_that_are_none_are_refused(tmp_path, content, packed):
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(content) if packed else content)
    _refused(_idx, path)


def test_gzip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "x.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(_idx_header(2**20, 16, 16))
        for _ in range(256):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**21
    _refused(lambda p: _idx(p, max_unpacked_mb=255), path, "max_unpacked_mb")


def test_bomb_behind_the_images_is_not_unpacked(tmp_path):
    path = tmp_path / "x.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(_idx_header(2, 8, 8))
        for _ in range(256):
            file.write(bytes(2**20))
    _refused(_idx, path, "holds more")


# Prepared images


def _config(folder, **data):
    return make_config(source="tfrecord", path=str(folder), **data)


@pytest.fixture
def prepared(tmp_path):
    """`(folder, manifest)`: good ones, to be spoiled."""
    images = np.zeros((3, 8, 8, 3), np.uint8)
    records.write_shard(records.shard_path(tmp_path, "train", 0, 1), images)
    names = ("train", "validation", "test")
    manifest = {
        "format": 1,
        "image_size": 8,
        "image_channels": 3,
        "bits": 8,
        "resize": "none",
        "splits": dict.fromkeys(names, "train"),
        "num_shards": {"train": 1},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    return tmp_path, manifest


def test_prepared_images_are_read(prepared):
    folder, _ = prepared
    source = open_records(_config(folder), "train")
    assert [image.shape for image in source.read(range(3))] == [(8, 8, 3)] * 3


def test_what_more_a_manifest_says_does_not_matter(prepared):
    folder, manifest = prepared
    more = {"splits": {**manifest["splits"], "": [], "x": {}}, "y": [[]]}
    (folder / "dataset.json").write_text(json.dumps({**manifest, **more}))
    assert len(open_records(_config(folder), "train")) == 3


@pytest.mark.parametrize("value", [None, 0, -1, 17, "x", [], {}, [1], 2.5])
@pytest.mark.parametrize(
    "name",
    ["format", "image_size", "image_channels", "bits", "resize", "splits"]
    + ["num_shards"],
)
def test_manifest_of_other_kinds_is_refused(prepared, name, value):
    folder, manifest = prepared
    if (name, value) != ("resize", "x"):  # Another policy was none at all.
        changed = json.dumps({**manifest, name: value})
        (folder / "dataset.json").write_text(changed)
        _refused(lambda p: open_records(_config(p), "train"), folder)
    del manifest[name]
    (folder / "dataset.json").write_text(json.dumps(manifest))
    _refused(lambda p: open_records(_config(p), "train"), folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": {"train": "../x", "validation": "x", "test": "x"}},
        {"splits": {"train": "train"}},
        {"num_shards": {"test": 1}},
        {"num_shards": {"train": True}},
        {"num_shards": {"train": 10**15}},
        {"num_classes": -1},
        {"num_classes": 10**9},
        {"num_classes": "3"},
    ],
)
def test_manifest_that_does_not_hang_together_is_refused(prepared, changes):
    folder, manifest = prepared
    (folder / "dataset.json").write_text(json.dumps({**manifest, **changes}))
    _refused(lambda p: open_records(_config(p), "train"), folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offsets", np.array([-5, 300, 600])),
        ("offsets", np.array([12, 12, 12])),
        ("offsets", np.zeros((3, 1), np.int64)),
        ("lengths", np.array([2**62, 2**62, 5])),
        ("lengths", np.array([-1, 0, 1])),
        ("lengths", np.zeros(3)),
        ("checksums", np.zeros(3, np.int64)),
        ("checksums", np.zeros(2, np.uint32)),
        ("skipped", np.zeros(2)),
        ("skipped", np.array("x")),
        ("more", np.zeros(2)),
        ("labels", np.zeros(99, np.int64)),
        ("labels", np.zeros(3)),
        ("labels", np.array([0, 1, -1])),
    ],
)
def test_index_of_other_kinds_is_none(prepared, name, value):
    path = records.shard_path(prepared[0], "train", 0, 1)
    index = read_shard_index(path)
    place = path.with_suffix(".index.npz")
    np.savez(place, **{**_arrays(index), name: value})
    assert read_shard_index(path) is None
    _refused(lambda p: open_records(_config(p), "train"), prepared[0])


def _arrays(index):
    """What the file of an index holds."""
    return {k: v for k, v in index._asdict().items() if v is not None}


def test_index_that_unpacks_to_more_than_the_images_is_none(prepared):
    path = records.shard_path(prepared[0], "train", 0, 1)
    index = _arrays(read_shard_index(path))
    place = path.with_suffix(".index.npz")
    np.savez_compressed(place, **{**index, "offsets": np.zeros(2**20)})
    assert read_shard_index(path) is None


def _record(folder, data, bits=8):
    path = folder / "x.tfrecord"
    path.write_bytes(bytes(12) + data + bytes(4))
    crc = zlib.crc32(data)
    index = records.Index(
        np.array([12]), np.array([len(data)]), np.array([crc], np.uint32), 0
    )
    return records.RecordSource("x", [(path, index)], bits)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"\xff" * 99,
        lambda data: data.replace(b"uint8", b"int64"),
        lambda data: data.replace(b"uint8", b"\xff" * 5),
        lambda data: data.replace(b"dtype", b"dtypf"),
        lambda data: data.replace(b"shape", b"shapf"),
        lambda data: data.replace(b"image", b"imagf"),
        lambda data: data.replace(b"\x08\x08\x03", b"\x08\x08\x04"),
        lambda data: data.replace(b"\x08\x08\x03", b"\x08\x00\x03"),
    ],
)
def test_record_whose_checksum_is_right_but_that_is_none(tmp_path, change):
    example = records._example(np.ones((8, 8, 3), np.uint8))
    data = example.SerializeToString(deterministic=True)
    assert _record(tmp_path, data)[0].shape == (8, 8, 3)
    with pytest.raises(CorruptImageError, match="record 0 of"):
        _record(tmp_path, change(data))[0]


def test_record_of_other_bits_than_the_folder_is_refused(tmp_path):
    for dtype, bits in ((np.uint16, 8), (np.uint8, 16)):
        example = records._example(np.ones((8, 8, 3), dtype))
        data = example.SerializeToString()
        with pytest.raises(CorruptImageError, match="bits"):
            _record(tmp_path, data, bits)[0]
