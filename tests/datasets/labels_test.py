"""Labels: where they are read, that they stay with their images, refusals."""

import contextlib
import dataclasses
import gzip

import numpy as np
import pytest

from nvae_tf.core.errors import ConfigError, DataError, UserError
from nvae_tf.datasets import image_input
from nvae_tf.datasets.arrays import labelled_mnist_5k
from nvae_tf.datasets.labels import LabelledSource
from nvae_tf.datasets.pipeline import (
    Position,
    batches,
    open_source,
    with_classes,
)
from nvae_tf.datasets.preparation import prepare
from nvae_tf.datasets.preview import preview
from tests.support.data_helpers import (
    NumberedSource,
    make_config,
    numbers,
    write_picture,
)
from tests.support.refusals import refused

_COUNT = 30
_GRAY = {"image_channels": 1}


def _images(count=_COUNT):
    """Gray images constant at their number."""
    rows = np.arange(count, dtype=np.uint8)[:, None, None]
    return np.tile(rows, (1, 8, 8))


def _labels(count=_COUNT, classes=5):
    return (np.arange(count) * 3 % classes).astype(np.uint8)


def _write_idx(path, values):
    sizes = b"".join(n.to_bytes(4) for n in values.shape)
    content = bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()
    packed = path.suffix == ".gz"
    path.write_bytes(gzip.compress(content) if packed else content)


def _write_idx_folder(folder, suffix=""):
    for split, count in (("train", _COUNT), ("t10k", 6)):
        name = f"{split}-images-idx3-ubyte{suffix}"
        _write_idx(folder / name, _images(count))
        name = f"{split}-labels-idx1-ubyte{suffix}"
        _write_idx(folder / name, _labels(count))


def _idx_config(folder, **data):
    return make_config(
        source="idx", path=str(folder), labels=True, model=_GRAY, **data
    )


def _assert_labelled(source):
    """Every image has the label that its number has."""
    assert source.num_classes == 5
    found = [int(source[i].flat[0]) for i in range(len(source))]
    given = source.read_labels(np.arange(len(source)))
    np.testing.assert_array_equal(given, _labels()[found])


# --- where they are read ----------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_labels_lie_beside_their_images(tmp_path, suffix):
    _write_idx_folder(tmp_path, suffix)
    for split, count in (("train", _COUNT), ("test", 6)):
        source = open_source(_idx_config(tmp_path), split)
        assert len(source) == count
        _assert_labelled(source)
    single = tmp_path / f"train-images-idx3-ubyte{suffix}"
    for split in ("train", "validation"):
        _assert_labelled(open_source(_idx_config(single), split))


@pytest.mark.parametrize("kind", ["folder", "npy", "npz", "x_npz", "one_npz"])
def test_labels_of_arrays_have_names_of_their_own(tmp_path, kind):
    images, labels = _images(), _labels().astype(np.int32)
    path = tmp_path / f"data.{kind.removeprefix('x_').removeprefix('one_')}"
    match kind:
        case "folder":
            path = tmp_path
            for split in ("train", "test"):
                np.save(path / f"{split}.npy", images)
                np.save(path / f"{split}_labels.npy", labels)
        case "npy":
            np.save(path, images)
            np.save(tmp_path / "data_labels.npy", labels)
        case "npz":
            np.savez(
                path,
                train=images,
                train_labels=labels,
                test=images[:9],
                test_labels=labels[:9],
            )
        case "x_npz":
            np.savez(
                path,
                x_train=images,
                y_train=labels,
                x_test=images[:9],
                y_test=labels[:9],
            )
        case "one_npz":
            np.savez(path, images=images, labels=labels)
    config = make_config(
        source="array", path=str(path), labels=True, model=_GRAY
    )
    for split in ("train", "test"):
        _assert_labelled(open_source(config, split))


def test_labels_of_the_5000_digits_are_theirs():
    config = make_config(source="mnist_5k", labels=True, resize="resize")
    digits, labels = labelled_mnist_5k()
    of_image = {d.tobytes(): n for d, n in zip(digits, labels, strict=True)}
    whole = make_config(
        source="mnist_5k", labels=True, model={**_GRAY, "image_size": 28}
    )
    source = open_source(whole, "test")
    given = source.read_labels(range(len(source)))
    expected = [of_image[source[i].tobytes()] for i in range(len(source))]
    assert given.tolist() == expected
    assert len(set(expected)) == 10
    assert with_classes(config).model.num_classes == 10


@pytest.mark.parametrize("split_by", ["content", "hash", "folder"])
def test_sub_folders_are_classes_in_the_order_of_their_names(
    tmp_path, split_by
):
    roots = [tmp_path]
    if split_by == "folder":
        roots = [tmp_path / "train", tmp_path / "test"]
    seed = 0
    for root in roots:
        for name in ("dog", "ant", "cat/small", "cat/big"):
            for number in range(8):
                seed += 1
                write_picture(root / name / f"{number}.png", seed=seed)
    config = make_config(
        source="image_folder",
        path=str(tmp_path),
        split_by=split_by,
        validation_fraction=0.4,
        labels=True,
    )
    assert with_classes(config).model.num_classes == 3
    for split in ("train", "validation"):
        source = open_source(config, split)
        labels = source.read_labels(range(len(source)))
        for i, label in enumerate(labels):
            assert f"/{['ant', 'cat', 'dog'][label]}/" in source.describe(i)


def test_prepared_images_keep_their_labels(tmp_path):
    np.savez(tmp_path / "x.npz", images=_images(), labels=_labels())
    config = make_config(
        source="array",
        path=str(tmp_path / "x.npz"),
        labels=True,
        model=_GRAY,
        validation_fraction=0.3,
    )
    prepare(config, tmp_path / "out", images_per_shard=4)
    ready = make_config(
        source="tfrecord",
        path=str(tmp_path / "out"),
        labels=True,
        model=_GRAY,
    )
    assert with_classes(ready).model.num_classes == 5
    # Without them it would be another one.
    data = dataclasses.replace(config.data, labels=False)
    with pytest.raises(DataError, match=r"num_classes \(5 then, None now\)"):
        prepare(
            dataclasses.replace(config, data=data),
            tmp_path / "out",
            images_per_shard=4,
        )
    for split in ("train", "test"):
        _assert_labelled(open_source(ready, split))


def test_prepared_classes_are_those_of_all_splits(tmp_path):
    path = tmp_path / "x.npz"
    images, labels = _images()[:6], np.array([0, 1, 2, 0, 1, 2])
    np.savez(
        path,
        x_train=images,
        x_test=images,
        y_train=labels,
        y_test=labels + 1,
    )
    config = {"labels": True, "model": _GRAY | {"num_classes": 4}}
    plain = make_config(source="array", path=str(path), **config)
    prepare(plain, tmp_path / "out")
    ready = make_config(source="tfrecord", path=str(tmp_path / "out"), **config)
    for split in ("train", "test"):
        found = open_source(ready, split).read_labels(range(6))
        expected = open_source(plain, split).read_labels(range(6))
        np.testing.assert_array_equal(found, expected)


def test_preparation_without_labels_is_what_it_was(tmp_path):
    np.savez(tmp_path / "x.npz", images=_images(), labels=_labels())
    data = {"source": "array", "path": str(tmp_path / "x.npz")}
    plain = make_config(**data, model=_GRAY)
    prepare(plain, tmp_path / "out")
    for index in (tmp_path / "out").glob("*.npz"):
        with np.load(index) as arrays:
            assert "labels" not in arrays
    with pytest.raises(DataError, match="num_classes"):
        prepare(make_config(**data, model=_GRAY, labels=True), tmp_path / "out")
    ready = make_config(
        source="tfrecord",
        path=str(tmp_path / "out"),
        labels=True,
        model=_GRAY,
    )
    with pytest.raises(DataError, match="has no labels"):
        open_source(ready, "train")


# --- that they stay with their images ---------------------------------------


def _numbered(count=24, classes=7, bad=()):
    source = NumberedSource(count, bad=bad)
    labels = np.arange(count) * 5 % classes
    return LabelledSource(source, labels), labels


def _config(**data):
    return make_config(labels=True, model={"num_classes": 7}, flip=True, **data)


def _training(config, source, count, **options):
    options = {"batch_size": 4, "seed": 7} | options
    iterator = batches(source, config, training=True, **options)
    with contextlib.closing(iterator):
        return [next(iterator) for _ in range(count)]


def test_label_travels_with_its_image():
    source, labels = _numbered()
    for batch in _training(_config(), source, 14):
        assert batch.labels.dtype == np.int32
        np.testing.assert_array_equal(
            batch.labels, labels[numbers(batch.images)]
        )


def test_images_are_the_same_with_and_without_labels():
    source, _ = _numbered()
    plain = make_config(flip=True)
    for told, untold in zip(
        _training(_config(), source, 9),
        _training(plain, NumberedSource(24), 9),
        strict=True,
    ):
        np.testing.assert_array_equal(told.images, untold.images)
        assert told.position == untold.position
        assert untold.labels is None
        assert untold.inputs is untold.images
        assert told.inputs == (told.images, told.labels)


def test_any_position_has_the_labels_that_it_had():
    source, _ = _numbered()
    whole = _training(_config(), source, 9)
    resumed = _training(_config(), source, 5, position=whole[3].position)
    for a, b in zip(whole[4:], resumed, strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)
    epoch = _training(_config(), source, 1, position=Position(2, 1))
    np.testing.assert_array_equal(
        epoch[0].labels, _training(_config(), source, 14)[13].labels
    )


def test_shards_share_the_labels_of_a_batch():
    source, _ = _numbered()
    whole = _training(_config(), source, 3, batch_size=8)
    parts = [
        _training(_config(), source, 3, shard_index=i, num_shards=2)
        for i in range(2)
    ]
    for batch, *shards in zip(whole, *parts, strict=True):
        joined = np.concatenate([shard.labels for shard in shards])
        np.testing.assert_array_equal(batch.labels, joined)


def test_image_in_place_of_a_damaged_one_brings_its_label():
    source, labels = _numbered(bad={3, 4, 11})
    for batch in _training(_config(skip_corrupt=True), source, 12):
        shown = numbers(batch.images)
        assert not {3, 4, 11} & set(shown)
        np.testing.assert_array_equal(batch.labels, labels[shown])


def test_filling_of_the_last_batch_has_a_label_of_the_model():
    source, labels = _numbered(count=10)
    found = list(
        batches(source, _config(), training=False, batch_size=4, seed=0)
    )
    given = np.concatenate([batch.labels for batch in found])
    np.testing.assert_array_equal(given, [*labels, 0, 0])


def test_own_images_need_no_labels_to_be_read(tmp_path):
    config = image_input.fit_own(
        make_config(
            labels=True,
            model={
                "num_classes": 3,
                **_GRAY,
            },
        )
    )
    np.save(tmp_path / "x.npy", _images())
    source = image_input.open_images(config, [str(tmp_path / "x.npy")])
    batch = image_input.read(source, config)
    assert batch.labels is None
    labels = np.arange(_COUNT) % 3
    batch = image_input.read(LabelledSource(source, labels), config)
    np.testing.assert_array_equal(batch.labels, labels)


def test_preview_shows_labels(tmp_path):
    _write_idx_folder(tmp_path)
    shown = preview(_idx_config(tmp_path), "test", 4)
    assert shown.labels.tolist() == _labels()[:4].tolist()


# --- refusals ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.unlink(), "no train-labels-idx1-ubyte"),
        (lambda p: p.write_bytes(p.read_bytes()[:-3]), "cut off or damaged"),
        (lambda p: p.write_bytes(p.read_bytes()[:6]), "cut off in its header"),
        (lambda p: _write_idx(p, _labels(7)), "7 labels for 30 images"),
        (lambda p: _write_idx(p, _images()), "labels are"),
        (lambda p: p.write_bytes(b"nothing of the kind"), "not an IDX file"),
    ],
)
def test_damaged_label_files_are_refused_by_name(tmp_path, damage, words):
    _write_idx_folder(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    damage(path)
    with refused(DataError, words, "labels", path=tmp_path):
        open_source(_idx_config(tmp_path), "train")
    # Without labels nobody looks at it.
    open_source(
        make_config(source="idx", path=str(tmp_path), model=_GRAY), "train"
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(_COUNT), "integers"),
        (np.zeros((_COUNT, 1), int), "integers"),
        (np.arange(_COUNT) - 1, "from -1 to 28"),
        (np.arange(_COUNT) + 2**40, "must be 0 to"),
        (np.zeros(4, int), "4 labels for 30 images"),
    ],
)
def test_arrays_that_are_no_labels_are_refused(tmp_path, labels, words):
    path = tmp_path / "x.npz"
    np.savez(path, images=_images(), labels=labels)
    config = make_config(
        source="array", path=str(path), labels=True, model=_GRAY
    )
    with refused(DataError, words, "x.npz:labels", path=path):
        open_source(config, "train")


def test_sources_without_labels_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", _images())
    np.savez(tmp_path / "x.npz", _images())
    write_picture(tmp_path / "pictures" / "a.png")
    for data in (
        {"source": "array", "path": str(tmp_path / "x.npy")},
        {"source": "array", "path": str(tmp_path / "x.npz")},
        {"source": "image_folder", "path": str(tmp_path / "pictures")},
    ):
        config = make_config(**data, labels=True, model=_GRAY)
        for refuse in (with_classes, lambda c: open_source(c, "train")):
            with refused(DataError, "data.labels", path=data["path"]):
                refuse(config)


def test_held_out_class_that_training_lacks_is_refused(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/c"):
        write_picture(tmp_path / name / "0.png")
    config = make_config(
        source="image_folder",
        path=str(tmp_path),
        split_by="folder",
        labels=True,
    )
    open_source(config, "train")
    with refused(DataError, "test/c", path=tmp_path):
        open_source(config, "test")


def test_more_classes_than_the_model_knows_are_refused(tmp_path):
    _write_idx_folder(tmp_path)
    few = make_config(
        source="idx",
        path=str(tmp_path),
        labels=True,
        model={**_GRAY, "num_classes": 4},
    )
    with refused(DataError, "5 classes", "num_classes is 4", path=tmp_path):
        open_source(few, "train")
    source, _ = _numbered()
    config = make_config(labels=True, model={"num_classes": 3})
    with refused(DataError, "the classes are 0 to 2"):
        _training(config, source, 6)


def test_classes_without_labels_contradict_each_other():
    with pytest.raises(ConfigError, match=r"data\.labels is False"):
        make_config(model={"num_classes": 3})
    with pytest.raises(ConfigError, match=r"model\.num_classes is -1"):
        make_config(model={"num_classes": -1}, labels=True)


def test_number_of_classes_that_is_given_stays(tmp_path):
    _write_idx_folder(tmp_path)
    config = make_config(
        source="idx",
        path=str(tmp_path),
        labels=True,
        model={**_GRAY, "num_classes": 9},
    )
    assert with_classes(config) == config
    plain = make_config(source="idx", path="nowhere", model=_GRAY)
    assert with_classes(plain) == plain
    with pytest.raises(UserError):
        with_classes(make_config(source="idx", path="nowhere", labels=True))
