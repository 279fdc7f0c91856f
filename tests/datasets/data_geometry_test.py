import numpy as np
import pytest
from PIL import Image

from nvae_tf.core.errors import DataError
from nvae_tf.datasets.geometry import match_channels, match_size, resize


def picture(height, width, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    return rng.integers(0, top, (height, width, channels), dtype)


def box(image, factor):
    """Means of `factor` x `factor` squares."""
    h, w, c = image.shape
    squares = image.reshape(h // factor, factor, w // factor, factor, c)
    return squares.astype(float).mean((1, 3))


@pytest.mark.parametrize(
    ("policy", "height", "width", "expected"),
    [
        ("none", 8, 8, (8, 8)),
        ("resize", 20, 9, (8, 8)),
        ("crop", 20, 9, (8, 8)),
        ("crop", 5, 30, (8, 8)),
        ("random_crop", 20, 10, (16, 8)),
        ("random_crop", 5, 10, (8, 16)),
        ("celeba", 218, 178, (8, 8)),
    ],
)
def test_policies_give_the_models_size(policy, height, width, expected):
    for channels in (1, 3, 4):
        image = picture(height, width, channels)
        assert match_size(image, 8, policy).shape == (*expected, channels)


def test_centre_crop_takes_the_middle():
    image = np.zeros((8, 20, 1), np.uint8)
    image[:, 6:14] = 255
    assert (match_size(image, 8, "crop") == 255).all()


def test_celeba_crop_is_the_papers():
    image = np.zeros((218, 178, 3), np.uint8)
    image[40:188, 15:163] = 255
    assert (match_size(image, 148, "celeba") == 255).all()
    assert (match_size(image, 64, "celeba") == 255).all()
    # One pixel to each side there would be black.
    assert (match_size(255 - image, 64, "celeba") == 0).all()


def test_celeba_crop_refuses_other_images():
    with pytest.raises(DataError, match="178x218 images of CelebA"):
        match_size(picture(178, 218), 64, "celeba", where="x.jpg")


def test_shrinking_is_antialiased():
    fine = np.tile(np.array([0, 255], np.uint8), (64, 32))[..., None]
    small = resize(fine, 8, 8)
    assert 100 < small.min() <= small.max() < 155


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_resizing_agrees_with_pillow_for_every_kind(dtype, channels):
    image = picture(30, 20, channels, dtype)
    small = resize(image, 12, 10)
    assert small.dtype == dtype
    for c in range(channels):
        plane = Image.fromarray(image[..., c].astype(np.float32))
        plane = plane.resize((10, 12), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(small[..., c], np.asarray(plane), atol=1)


def test_smooth_images_keep_their_brightness():
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))[..., None]
    np.testing.assert_allclose(
        resize(ramp, 16, 16)[:, 2:-2], box(ramp, 4)[:, 2:-2], atol=1
    )


def test_resizing_to_the_same_size_changes_nothing():
    image = picture(8, 8)
    assert resize(image, 8, 8) is image


def test_gray_that_looks_like_colour_is_gray():
    gray = picture(4, 4, 1)
    assert (match_channels(np.repeat(gray, 3, -1), 1) == gray).all()


def test_opaque_is_the_greatest_value_of_the_bits():
    image = match_channels(
        picture(4, 4, 3, np.uint16) >> 4, 4, alpha="keep", bits=12
    )
    assert (image[..., 3] == 4095).all()


def test_any_number_of_channels_passes_where_the_model_has_it():
    assert match_channels(picture(4, 4, 7), 7).shape == (4, 4, 7)
    with pytest.raises(DataError, match="x has 7 channels"):
        match_channels(picture(4, 4, 7), 3, where="x")
    with pytest.raises(DataError, match="1 dimensions"):
        match_channels(np.zeros(3, np.uint8), 3)
