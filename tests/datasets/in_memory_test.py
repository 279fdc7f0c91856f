"""Images in memory reach the model as stored ones do."""

import numpy as np
import pytest

from nvae_tf.config import Config, DataConfig, ModelConfig
from nvae_tf.core.errors import DataError
from nvae_tf.datasets import image_input
from nvae_tf.datasets.in_memory import source_of
from tests.support.model_cases import small

_GRAY = small()
_RGB = small(image_channels=3, num_bits=5, likelihood="mixture")


def _as_seen(images, model: ModelConfig, seed: int = 0) -> np.ndarray:
    config = Config(
        model=model,
        data=DataConfig(binarize=model.likelihood == "bernoulli"),
    )
    return image_input.read(source_of(images, model), config, seed)[0]


@pytest.mark.parametrize("num_bits", range(1, 9))
def test_images_at_the_levels_of_the_model_stay_as_they_are(num_bits):
    model = small(image_channels=3, num_bits=num_bits, likelihood="mixture")
    levels = 2**num_bits
    values = np.arange(8 * 8 * 3 * 2).reshape(2, 8, 8, 3) % levels
    images = (values / (levels - 1)).astype(np.float32)
    # Far closer than levels are to each other.
    np.testing.assert_allclose(_as_seen(images, model), images, atol=1e-6)


def test_floats_mean_what_bytes_mean():
    images = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(
            _as_seen(images.astype(dtype) / 255, _RGB), _as_seen(images, _RGB)
        )


def test_gray_images_need_no_axis_for_it_and_black_and_white_may_be_bool():
    random = np.random.default_rng(0)
    black = random.integers(0, 2, (3, 8, 8)).astype(bool)
    expected = black[..., None].astype(np.float32)
    for images in (black, black[..., None], 255 * black.astype(np.uint8)):
        np.testing.assert_array_equal(_as_seen(images, _GRAY), expected)
    np.testing.assert_array_equal(_as_seen([*black], _GRAY), expected)


def test_binarisation_draws_anew_with_the_seed():
    gray = np.full((1, 8, 8), 0.5, np.float32)
    first, again, other = (_as_seen(gray, _GRAY, seed) for seed in (0, 0, 1))
    assert set(np.unique(first)) == {0.0, 1.0}
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("images", "model", "words"),
    [
        (np.zeros((1, 8, 8, 3), np.int64), _RGB, "int64; give uint8"),
        (np.zeros((1, 8, 8, 3), "U1"), _RGB, "give uint8"),
        (np.full((1, 8, 8, 3), 255.0), _RGB, r"from 255 to 255.*\[0, 1\]"),
        (np.full((1, 8, 8, 3), -0.1), _RGB, r"\[0, 1\]"),
        # Not "from 1 to 1".
        (np.full((1, 8, 8, 3), 1.000001), _RGB, r"to 1\.000001;"),
        (np.full((1, 8, 8, 3), np.nan), _RGB, r"nan.*\[0, 1\]"),
        (np.zeros((1, 8, 8), np.uint8), _RGB, r"takes \[N, 8, 8, 3\]\.$"),
        (np.zeros((1, 8, 8, 4), np.uint8), _RGB, r"shape \[1, 8, 8, 4\]"),
        (np.zeros((1, 9, 8, 3), np.uint8), _RGB, r"shape \[1, 9, 8, 3\]"),
        (np.zeros((8, 8, 3), np.uint8), _RGB, r"single image as images\[None"),
        (np.zeros((8, 8), np.uint8), _GRAY, r"single image as images\[None"),
        (np.zeros((1, 8, 8, 3), np.uint8), _GRAY, r"or \[N, 8, 8\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), _RGB, "no images"),
        (np.uint8(3), _RGB, r"shape \[\]"),
        ([np.zeros((8, 8)), np.zeros((9, 9))], _GRAY, "one size"),
    ],
)
def test_images_of_another_kind_are_refused_in_a_sentence(images, model, words):
    with pytest.raises(DataError, match=words) as caught:
        source_of(images, model)
    assert "\n" not in str(caught.value)
