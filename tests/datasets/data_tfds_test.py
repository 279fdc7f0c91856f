import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from nvae_tf.core.errors import DataError
from nvae_tf.datasets.pipeline import batches, open_source, with_classes
from nvae_tf.datasets.tfds_source import DATASETS, StackedSource, TfdsSource
from tests.support.data_helpers import make_config, write_picture

tfds = pytest.importorskip("tensorflow_datasets")

# Nothing listens there, so that it is refused at once.
UNREACHABLE = "http://127.0.0.1:9/digits.zip"


class TinyDigits(tfds.core.GeneratorBasedBuilder):
    """A dataset of the tests' own: images constant at their number."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 3)),
                    "label": tfds.features.ClassLabel(num_classes=2),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(20),
            "test": self._generate_examples(6),
        }

    def _generate_examples(self, count):
        for number in range(count):
            image = np.full((8, 8, 3), number, np.uint8)
            yield number, {"image": image, "label": number % 2}


class TinyDownload(TinyDigits):
    """One that must be downloaded, and cannot be."""

    VERSION = tfds.core.Version("1.0.0")

    def _split_generators(self, dl_manager):
        dl_manager.download(UNREACHABLE)


class TinyRace(TinyDigits):
    """One that another process prepares while this one does."""

    VERSION = tfds.core.Version("1.0.0")
    meanwhile = None

    def _split_generators(self, dl_manager):
        meanwhile, TinyRace.meanwhile = TinyRace.meanwhile, None
        if meanwhile:
            meanwhile()
        return super()._split_generators(dl_manager)


class TinyWords(tfds.core.GeneratorBasedBuilder):
    """One without images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"word": np.int64}),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(),
            "test": self._generate_examples(),
        }

    def _generate_examples(self):
        yield 0, {"word": 1}


def tfds_config(name, data_dir, **arguments):
    return make_config(
        source="tfds", name=name, data_dir=str(data_dir), **arguments
    )


SIZES = {
    "mnist": (28, 1, "none"),
    "fashion_mnist": (28, 1, "none"),
    "stacked_mnist": (28, 3, "none"),
    "omniglot": (28, 1, "resize"),
    "cifar10": (32, 3, "none"),
    "downsampled_imagenet/32x32": (32, 3, "crop"),
    "downsampled_imagenet/64x64": (64, 3, "crop"),
    "celeb_a": (64, 3, "celeba"),
    "celeb_a_hq/256": (256, 3, "none"),
    "ffhq/256": (256, 3, "none"),
    "lsun/bedroom": (128, 3, "random_crop"),
    "lsun/church": (64, 3, "random_crop"),
}


def test_every_dataset_of_the_paper_is_covered():
    assert set(SIZES) == set(DATASETS)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_datasets_give_batches(tmp_path, name, split):
    size, channels, policy = SIZES[name]
    config = tfds_config(
        name,
        tmp_path,
        resize=policy,
        convert_colors=name == "omniglot",
        flip=channels == 3,
        model={"image_size": size, "image_channels": channels},
    )
    with tfds.testing.mock_data(num_examples=5):
        source = open_source(config, split)
        assert len(source) == 5
        batch = next(
            batches(
                source,
                config,
                training=split == "train",
                batch_size=2,
                seed=0,
            )
        )
    assert batch.images.shape == (2, size, size, channels)
    assert 0 <= np.min(batch.images) < np.max(batch.images) <= 1


def test_dark_ink_becomes_bright():
    assert DATASETS["omniglot"].invert
    examples = [{"image": np.array([[[0, 255, 9]]], np.uint8)}]
    source = TfdsSource("ink", examples, invert=True)
    assert source[0].tolist() == [[[255, 0, 246]]]


def test_stacks_use_each_digit_once_per_channel():
    from tests.support.data_helpers import NumberedSource

    digits = NumberedSource(30, shape=(2, 2, 1))
    stacked = StackedSource(digits)
    assert len(stacked) == 30
    images = np.stack([stacked[i] for i in range(30)])
    assert images.shape == (30, 2, 2, 3)
    for channel in range(3):
        assert sorted(images[:, 0, 0, channel]) == list(range(30))
    assert not np.array_equal(images[..., 0], images[..., 1])
    np.testing.assert_array_equal(
        np.stack(stacked.read([3, 1])), images[[3, 1]]
    )
    np.testing.assert_array_equal(StackedSource(digits)[7], images[7])
    assert stacked.describe(0).count("of numbered") == 3


def test_a_local_dataset_is_prepared_read_at_random_and_read_again(tmp_path):
    config = tfds_config("tiny_digits", tmp_path)
    for _ in range(2):  # The second time it is there already.
        train = open_source(config, "train")
        seen = sorted(int(train[i][0, 0, 0]) for i in range(len(train)))
        assert seen == list(range(20))
        assert len(open_source(config, "validation")) == 6
        assert len(open_source(config, "test")) == 6
    iterator = batches(train, config, training=True, batch_size=10, seed=0)
    assert next(iterator).images.shape == (10, 8, 8, 3)
    files = [path.suffixes for path in tmp_path.rglob("*array_record*")]
    assert files


def test_two_processes_may_prepare_one_dataset(tmp_path, monkeypatch):
    config = tfds_config("tiny_race", tmp_path)
    others = []
    monkeypatch.setattr(
        TinyRace,
        "meanwhile",
        lambda: others.append(open_source(config, "train")),
    )
    source = open_source(config, "train")
    assert [len(s) for s in (source, *others)] == [20, 20]
    for i in range(20):
        np.testing.assert_array_equal(source[i], others[0][i])


def test_another_format_says_to_prepare_it_elsewhere(tmp_path):
    TinyDigits(data_dir=tmp_path, file_format="tfrecord").download_and_prepare()
    with pytest.raises(DataError, match=r"another data.data_dir"):
        open_source(tfds_config("tiny_digits", tmp_path), "train")


def test_cut_off_dataset_files_are_errors(tmp_path):
    config = tfds_config("tiny_digits", tmp_path)
    open_source(config, "train")
    (shard,) = tmp_path.rglob("*train.array_record*")
    shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"tiny_digits.*prepare it again"):
        open_source(config, "train")[0]


def test_unknown_datasets_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"knows no dataset 'no_such'.*mnist"):
        open_source(tfds_config("no_such", tmp_path), "train")
    with pytest.raises(DataError, match=r"needs data.name"):
        open_source(tfds_config("", tmp_path), "train")


def test_datasets_without_images_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"tiny_words.*no feature 'image'"):
        open_source(tfds_config("tiny_words", tmp_path), "train")


def test_without_network_the_message_says_where_to_put_the_files(
    tmp_path, monkeypatch
):
    # TFDS would try for minutes.
    monkeypatch.setattr(
        "tensorflow_datasets.core.download.downloader.MAX_RETRIES", 1
    )
    with pytest.raises(DataError) as caught:
        open_source(tfds_config("tiny_download", tmp_path), "train")
    message = str(caught.value)
    assert "tiny_download" in message
    assert "Without a network" in message
    assert str(tmp_path / "downloads" / "manual") in message


def test_datasets_to_be_downloaded_by_hand_say_so(tmp_path):
    config = tfds_config("celeb_a_hq/256", tmp_path, model={"image_size": 256})
    with pytest.raises(DataError) as caught:
        open_source(config, "train")
    assert "downloaded by hand" in str(caught.value)
    assert str(tmp_path / "downloads" / "manual") in str(caught.value)
    assert "data1024x1024.tar" in str(caught.value)


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    for package in ("array_record", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(DataError, match=rf"{package}.*\[data\]"):
            open_source(tfds_config("mnist", tmp_path), "train")


@pytest.fixture
def few_faces(tmp_path, monkeypatch):
    """FFHQ with 5 images, of which 3 are for training."""
    from nvae_tf.datasets.ffhq import Ffhq256

    monkeypatch.setattr(Ffhq256, "NUM_IMAGES", 5)
    monkeypatch.setattr(Ffhq256, "NUM_TRAIN", 3)
    return tmp_path / "downloads" / "manual" / "ffhq"


def ffhq_config(tmp_path):
    return tfds_config("ffhq/256", tmp_path, model={"image_size": 256})


@pytest.mark.parametrize("size", [256, 512])
def test_ffhq_is_built_from_manual_files_of_any_size(tmp_path, few_faces, size):
    for number in range(5):
        path = few_faces / "00000" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (number, 100, 200)).save(path)
    write_picture(few_faces / "thumbnail.png")
    config = ffhq_config(tmp_path)
    train, test = (open_source(config, s) for s in ("train", "test"))
    assert sorted(train[i][0, 0, 0] for i in range(len(train))) == [0, 1, 2]
    assert sorted(test[i][9, 9, 0] for i in range(len(test))) == [3, 4]
    assert train[0].shape == (256, 256, 3)
    assert train[0][0, 0, 1:].tolist() == [100, 200]


def test_ffhq_without_its_files_says_what_to_download(tmp_path):
    with pytest.raises(DataError, match=r"70,000 files 00000.png") as caught:
        open_source(ffhq_config(tmp_path), "train")
    assert str(tmp_path) in str(caught.value)


def test_incomplete_ffhq_names_the_first_missing_image(tmp_path, few_faces):
    write_picture(few_faces / "00000.png", size=(256, 256))
    with pytest.raises(DataError, match=r"lacks 4 .* first of them 00001.png"):
        open_source(ffhq_config(tmp_path), "train")


def test_two_sizes_of_ffhq_are_an_error(tmp_path, few_faces):
    for folder in ("a", "b"):
        write_picture(few_faces / folder / "00000.png", size=(256, 256))
    with pytest.raises(DataError, match="same image"):
        open_source(ffhq_config(tmp_path), "train")


def test_tests_build_nothing_outside_their_folder():
    assert not (pathlib.Path.home() / "tensorflow_datasets").exists()


def test_labels_are_read_beside_the_images(tmp_path):
    config = tfds_config("tiny_digits", tmp_path, labels=True)
    source = open_source(config, "train")
    assert source.num_classes == 2
    given = source.read_labels(range(len(source)))
    shown = [int(source[i].flat[0]) for i in range(len(source))]
    np.testing.assert_array_equal(given, np.array(shown) % 2)
    assert with_classes(config).model.num_classes == 2


@pytest.mark.parametrize("name", ["stacked_mnist", "tiny_words"])
def test_datasets_without_a_label_are_refused(tmp_path, name):
    config = tfds_config(name, tmp_path, labels=True)
    with pytest.raises(DataError, match=r"data\.labels is True"):
        with_classes(config)


def test_classes_of_known_datasets_are_those_of_tfds(tmp_path):
    for name, dataset in DATASETS.items():
        if dataset.num_classes:
            label = tfds.builder(
                dataset.builder, data_dir=tmp_path
            ).info.features["label"]
            assert label.num_classes == dataset.num_classes, name
