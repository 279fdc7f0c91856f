import gzip
import struct

import numpy as np
import pytest

from nvae_tf.core.errors import DataError
from nvae_tf.datasets.arrays import labelled_mnist_5k
from nvae_tf.datasets.idx_files import read_idx
from nvae_tf.datasets.pipeline import batches, open_source
from tests.support.data_helpers import make_config


def some_images(count=40, shape=(8, 8, 3), dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    rng = np.random.default_rng(seed)
    return rng.integers(0, top, (count, *shape), dtype, endpoint=True)


def saved(path, images):
    np.save(path, images)
    return path


def open_array(path, split="train", **data):
    return open_source(
        make_config(source="array", path=str(path), **data), split
    )


def idx_bytes(images, kind=8):
    header = struct.pack(">BBBB", 0, 0, kind, images.ndim)
    header += struct.pack(f">{images.ndim}I", *images.shape)
    return header + images.tobytes()


def open_idx(path, split="train", size=8):
    model = {"image_channels": 1, "image_size": size}
    config = make_config(source="idx", path=str(path), model=model)
    return open_source(config, split)


def everything(source):
    return np.stack([source[i] for i in range(len(source))])


def test_one_array_is_split_without_overlap(tmp_path):
    images = some_images(200)
    path = saved(tmp_path / "x.npy", images)
    train, held_out = open_array(path), open_array(path, "validation")
    assert len(train) + len(held_out) == 200
    assert 5 < len(held_out) < 40
    both = np.concatenate([everything(train), everything(held_out)])
    assert len(np.unique(both.reshape(200, -1), axis=0)) == 200
    np.testing.assert_array_equal(
        everything(open_array(path, "test")), everything(held_out)
    )


def test_images_without_a_channel_axis_have_one_channel(tmp_path):
    path = saved(tmp_path / "x.npy", some_images(shape=(8, 8)))
    source = open_array(path, model={"image_channels": 1})
    assert source[0].shape == (8, 8, 1)


@pytest.mark.parametrize("bits", [0, 12])
def test_sixteen_bit_arrays_keep_their_upper_bits(tmp_path, bits):
    images = some_images(dtype=np.uint16) >> (16 - (bits or 16))
    path = saved(tmp_path / "x.npy", images)
    config = make_config(source="array", path=str(path), bits=bits)
    source = open_source(config, "train")
    assert source.bits == (bits or 16)
    batch = next(batches(source, config, training=False, batch_size=4, seed=0))
    expected = source.read(range(4)) >> ((bits or 16) - 8)
    np.testing.assert_allclose(batch.images, expected / 255, rtol=1e-6)


def test_booleans_are_one_bit(tmp_path):
    path = saved(tmp_path / "x.npy", some_images() > 127)
    source = open_array(path)
    assert source.bits == 1
    assert set(np.unique(everything(source))) == {0, 1}


def test_bytes_of_0_and_1_are_told_of(tmp_path, caplog):
    path = saved(tmp_path / "x.npy", (some_images() > 127).astype(np.uint8))
    open_array(path)
    assert "x.npy seems to hold 0 and 1 alone, of 256 levels" in caplog.text
    caplog.clear()
    config = make_config(source="array", path=str(path), bits=1)
    assert open_source(config, "train").bits == 1
    open_array(saved(tmp_path / "y.npy", np.zeros((40, 8, 8, 3), np.uint8)))
    open_array(saved(tmp_path / "z.npy", some_images() > 127))
    assert not caplog.text


@pytest.mark.parametrize("names", [("train", "test"), ("x_train", "x_test")])
def test_npz_with_named_splits(tmp_path, names):
    train, test = some_images(9), some_images(5, seed=1)
    path = tmp_path / "x.npz"
    np.savez(path, **dict(zip(names, (train, test), strict=True)), y=[1, 2])
    np.testing.assert_array_equal(everything(open_array(path)), train)
    for split in ("validation", "test"):
        np.testing.assert_array_equal(everything(open_array(path, split)), test)


def test_folder_of_arrays(tmp_path):
    for number, split in enumerate(("train", "validation", "test")):
        saved(tmp_path / f"{split}.npy", some_images(5, seed=number))
    for number, split in enumerate(("train", "validation", "test")):
        np.testing.assert_array_equal(
            everything(open_array(tmp_path, split)),
            some_images(5, seed=number),
        )


def test_arrays_are_resized_when_asked(tmp_path):
    path = saved(tmp_path / "x.npy", some_images(shape=(20, 16, 3)))
    assert open_array(path, resize="crop")[0].shape == (8, 8, 3)
    with pytest.raises(DataError, match=r"16x20 pixels.*data.resize"):
        open_array(path)[0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), r"float32.*255 \* x"),
        (np.full((4, 8, 8, 3), np.nan), "float64.*NaN"),
        (np.zeros((4, 8, 8, 3), np.int64), "int64.*uint8"),
        (np.zeros((4, 8, 8, 3), ">u2"), r"exceed 255 with.*numpy\.uint16"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), r"as one image.*image\[None\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), "None of the 0 images"),
    ],
)
def test_wrong_arrays_are_errors_that_name_the_file(tmp_path, images, message):
    path = saved(tmp_path / "x.npy", images)
    with pytest.raises(DataError, match=message) as caught:
        open_array(path)
    assert str(path) in str(caught.value)


def test_too_many_bits_for_the_dtype_is_an_error(tmp_path):
    path = saved(tmp_path / "x.npy", some_images())
    with pytest.raises(DataError, match=r"uint8, but data.bits is 12"):
        open_array(path, bits=12)


def test_python_objects_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match="holds Python objects"):
        open_array(path)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("keep", [0, 60, 2000])
def test_cut_off_numpy_files_are_errors(tmp_path, name, keep):
    path = tmp_path / name
    np.savez(path, some_images()) if name.endswith("z") else saved(
        path, some_images()
    )
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="cannot be read"):
        open_array(path)


def test_missing_and_foreign_paths_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"does not exist.*config.data.path"):
        open_array(tmp_path / "none.npy")
    with pytest.raises(DataError, match=r"data.path is ''"):
        open_array("")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"neither .npy nor .npz"):
        open_array(tmp_path / "x.csv")
    with pytest.raises(DataError, match="no file of images named train"):
        open_array(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("separator", ["-", "."])
def test_mnists_four_files(tmp_path, suffix, separator):
    sets = {"train": some_images(7, (8, 8)), "t10k": some_images(3, (8, 8))}
    for prefix, images in sets.items():
        content = idx_bytes(images)
        if suffix:
            content = gzip.compress(content)
        name = f"{prefix}-images{separator}idx3-ubyte{suffix}"
        (tmp_path / name).write_bytes(content)
    train = everything(open_idx(tmp_path))
    np.testing.assert_array_equal(train[..., 0], sets["train"])
    for split in ("validation", "test"):
        held_out = everything(open_idx(tmp_path, split))
        np.testing.assert_array_equal(held_out[..., 0], sets["t10k"])


def test_a_single_idx_file_is_split(tmp_path):
    path = tmp_path / "mine"
    path.write_bytes(idx_bytes(some_images(100, (8, 8))))
    counts = [len(open_idx(path, split)) for split in ("train", "test")]
    assert sum(counts) == 100
    assert min(counts) > 0


@pytest.mark.parametrize("keep", [2, 6, 30])
def test_cut_off_idx_files_are_errors(tmp_path, keep):
    path = tmp_path / "x"
    path.write_bytes(idx_bytes(some_images(2, (8, 8)))[:keep])
    with pytest.raises(DataError, match=r"cut off|not an IDX") as caught:
        read_idx(path, 1)
    assert str(path) in str(caught.value)
    assert "download it again" in str(caught.value)


def test_damaged_gzip_is_an_error(tmp_path):
    whole = gzip.compress(idx_bytes(some_images(2, (8, 8))))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (whole[:-20], whole[:15], bytes(flipped)):
        (tmp_path / "x.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.gz"):
            read_idx(tmp_path / "x.gz", 1)


def test_other_idx_types_are_errors(tmp_path):
    (tmp_path / "x").write_bytes(idx_bytes(np.zeros((2, 8, 8), "u1"), 13))
    with pytest.raises(DataError, match=r"IDX type 0x0d"):
        read_idx(tmp_path / "x", 1)


def test_labels_are_not_images(tmp_path):
    (tmp_path / "labels").write_bytes(idx_bytes(np.zeros(5, np.uint8)))
    with pytest.raises(DataError, match="labels states 1 dimensions"):
        open_idx(tmp_path / "labels")


def test_missing_idx_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="no train-images-idx3-ubyte"):
        open_idx(tmp_path)
    with pytest.raises(DataError, match="no t10k-images-idx3-ubyte"):
        open_idx(tmp_path / "none", "test")


def test_demo_digits_split_without_overlap():
    config = make_config(
        source="mnist_5k", model={"image_size": 28, "image_channels": 1}
    )
    train, test = (open_source(config, s) for s in ("train", "test"))
    assert (len(train), len(test)) == (4500, 500)
    assert train.bits == 8
    both = np.concatenate(
        [train.read(range(4500)), test.read(range(500))]
    ).reshape(5000, -1)
    digits, labels = labelled_mnist_5k()
    digits = digits.reshape(5000, -1)
    order = np.lexsort(both.T)
    np.testing.assert_array_equal(both[order], digits[np.lexsort(digits.T)])
    # The fixed split, held by where its first images lie.
    held_out = {row.tobytes() for row in both[4500:]}
    chosen = [i for i, row in enumerate(digits) if row.tobytes() in held_out]
    assert chosen[:5] == [9, 12, 21, 24, 33]
    assert np.bincount(labels[chosen], minlength=10).min() > 30


@pytest.mark.parametrize("name", ["images.npz", "images-ubyte.gz"])
def test_files_that_unpack_to_too_much_are_refused(tmp_path, name):
    path = tmp_path / name
    images = np.zeros((3, 1024, 1024), np.uint8)
    if name.endswith(".npz"):
        np.savez_compressed(path, images=images)
    else:
        header = struct.pack(">HBB3I", 0, 8, 3, *images.shape)
        path.write_bytes(gzip.compress(header + images.tobytes()))
    assert path.stat().st_size < 20_000
    kind = "array" if name.endswith(".npz") else "idx"
    given = {"source": kind, "path": str(path), "validation_fraction": 0.5}
    model = {"image_size": 1024, "image_channels": 1}
    assert len(open_source(make_config(**given, model=model), "train")) > 0
    config = make_config(**given, max_unpacked_mb=2, model=model)
    with pytest.raises(DataError, match="max_unpacked_mb=2"):
        open_source(config, "train")


@pytest.mark.parametrize("header", [b"{", b"(((", b"{'descr': 1}", b"'a" * 40])
def test_damaged_headers_are_one_sentence(tmp_path, header):
    path = tmp_path / "images.npy"
    size = len(header).to_bytes(2, "little")
    path.write_bytes(b"\x93NUMPY\x01\x00" + size + header)
    with pytest.raises(DataError, match="cannot be read as a NumPy file"):
        open_source(make_config(source="array", path=str(path)), "train")


def test_idx_file_of_many_dimensions_is_refused(tmp_path):
    path = tmp_path / "images-ubyte"
    path.write_bytes(bytes([0, 0, 8, 65]) + bytes(4 * 65))
    with pytest.raises(DataError, match="65 dimensions"):
        open_source(make_config(source="idx", path=str(path)), "train")
