"""The page's scripts compute what the commands compute."""

import numpy as np
import pytest

from nvae_tf.core.errors import DataError
from nvae_tf.datasets import geometry
from nvae_tf.sampling import exploration
from tests.support.node import CHECKS, call, needs_node

pytestmark = needs_node

_RANDOM = np.random.default_rng(0)


def _noise(*shape):
    return _RANDOM.standard_normal(shape).astype(np.float32)


def test_way_between_two_rows_is_that_of_interpolate():
    shapes = [(2, 2, 3), (4, 4, 3)]
    eps = [_noise(2, *shape) for shape in shapes]
    # A group without length has no direction: there the way is straight.
    eps.append(np.stack([np.zeros((2, 2, 1)), np.ones((2, 2, 1))]))
    eps = [e.astype(np.float32) for e in eps]
    expected = exploration.interpolated(eps, steps=5)
    rows = [[e[i].ravel() for e in eps] for i in (0, 1)]
    ways = call(
        "latents.js",
        "between",
        *[(*rows, t) for t in np.linspace(0, 1, 5).tolist()],
    )
    for step, way in enumerate(ways):
        for group, values in zip(expected, way, strict=True):
            np.testing.assert_allclose(
                values, group[step].ravel(), rtol=1e-6, atol=1e-6
            )
    for end, row in ((0, rows[0]), (-1, rows[1])):
        for ours, theirs in zip(ways[end], row, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_shifted_channel_is_that_of_traverse():
    eps = [_noise(1, 2, 2, 3), _noise(1, 4, 4, 3)]
    expected = exploration.shifted(eps, group=1, distance=3.0, steps=3)
    row = [e.ravel() for e in eps]
    moved = call(
        "latents.js",
        "shifted",
        *[(row, 1, c, 3, a) for c in range(3) for a in (-3, 0, 3)],
    )
    for i, groups in enumerate(moved):
        for ours, theirs in zip(groups, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs[i].ravel())


def test_upper_groups_are_kept():
    upper, lower = [_noise(4), _noise(8)], [_noise(4), _noise(8)]
    (joined,) = call("latents.js", "joined", (upper, lower, 1))
    np.testing.assert_array_equal(joined[0], upper[0])
    np.testing.assert_array_equal(joined[1], lower[1])
    (alone,) = call("latents.js", "upperOnly", (upper, 1))
    np.testing.assert_array_equal(alone[0], upper[0])
    np.testing.assert_array_equal(alone[1], np.zeros(8))


def test_levels_are_rounded_as_exports_round():
    # All halves, which rounding to even decides, and their neighbours.
    halves = (np.arange(255, dtype=np.float32) + np.float32(0.5)) / 255
    values = np.concatenate(
        [
            halves,
            np.nextafter(halves, np.float32(0)),
            np.nextafter(halves, np.float32(1)),
            _RANDOM.random(1000, np.float32),
            np.float32([0, 1]),
        ]
    )
    (levels,) = call("model.js", "toBytes", (values,))
    expected = np.rint(np.float32(255) * values).astype(np.uint8)
    np.testing.assert_array_equal(levels, expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("old", "new"),
    [((50, 31), (7, 5)), ((5, 7), (12, 16)), ((9, 40), (9, 8))],
    ids=str,
)
def test_pictures_are_resampled_as_the_commands_do(channels, old, new):
    image = _RANDOM.integers(0, 256, (*old, channels)).astype(np.uint8)
    expected = geometry.resize(image, *new)
    (resized,) = call(
        "photo.js",
        "resize",
        (image.ravel(), channels, list(old), list(new), channels == 3),
    )
    np.testing.assert_array_equal(resized.reshape(expected.shape), expected)


@pytest.mark.parametrize("alpha", ["white", "black", "drop"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["color", "gray", "transparent"])
def test_pictures_are_fitted_as_the_commands_do(alpha, channels, kind):
    size = 6
    image = _RANDOM.integers(0, 256, (20, 13, 4)).astype(np.uint8)
    if kind == "gray":
        image[..., 1:3] = image[..., :1]
    if kind != "transparent":
        image[..., 3] = 255
    expected = geometry.match_size(
        geometry.match_channels(
            image, channels, alpha=alpha, convert_colors=True
        ),
        size,
        "crop",
    )
    picture = {"width": 13, "height": 20, "pixels": image.ravel()}
    model = {"image_shape": [size, size, channels], "alpha": alpha}
    (fitted,) = call("photo.js", "fit", (picture, model))
    np.testing.assert_array_equal(fitted, expected.ravel())


def test_picture_too_long_to_be_scaled_is_refused_as_the_commands_do():
    # The last fits exactly.
    for height, width, size in ((2, 20_000, 256), (1, 4096, 64), (1, 128, 256)):
        (told,) = call(CHECKS, "refused", (width, height, size))
        try:
            image = np.zeros((height, width, 3), np.uint8)
            geometry.match_size(image, size, "crop")
        except DataError:
            assert str(width) in told
            assert told.endswith("crop it first.")
        else:
            assert told is None


def test_ink_covers_the_line_and_nothing_far_from_it():
    size = 28
    ends = [{"x": 4, "y": 5}, {"x": 20, "y": 5}]
    empty = np.zeros(size * size, np.uint8)
    (pixels,) = call(CHECKS, "drawn", (empty, size, *ends, 1.5))
    image = pixels.reshape(size, size)
    assert (image[4:6, 5:19] == 255).all()
    assert not image[9:].any()
    assert not image[:, 23:].any()
    (erased,) = call(CHECKS, "drawn", (pixels, size, *ends, 3.0, True))
    assert not erased.any()


def test_centred_drawing_has_its_mass_in_the_middle():
    size = 9
    image = np.zeros((size, size), np.uint8)
    image[0:2, 1:4] = 200
    (moved,) = call("ink.js", "centred", (image.ravel(), size))
    moved = moved.reshape(size, size)
    assert (
        np.sort(moved, axis=None).tolist() == np.sort(image, axis=None).tolist()
    )
    rows, columns = np.nonzero(moved)
    assert abs(rows.mean() - 4) <= 0.5
    assert abs(columns.mean() - 4) <= 0.5


@pytest.mark.parametrize("is_binary", [True, False])
def test_link_gives_back_what_went_in(is_binary):
    pixels = _RANDOM.integers(0, 256, 28 * 28).astype(np.uint8)
    if is_binary:
        pixels = np.where(pixels < 128, 0, 255).astype(np.uint8)
    (result,) = call(
        CHECKS,
        "roundTrip",
        ({"view": "image", "t": [0.7, 1]}, "own", pixels, is_binary),
    )
    assert result["values"] == {
        "view": "image",
        "t": "0.7,1",
        "own": "image.key",
    }
    np.testing.assert_array_equal(result["pixels"], pixels)
    assert result["isComplete"]
    # Chat programs and mail cut longer ones.
    assert len(result["text"]) < (300 if is_binary else 1500)


def test_damaged_picture_in_a_link_is_left_out():
    for text in ("image.key=%%%", "image.key=AAAA", "image.key="):
        (result,) = call(CHECKS, "images", (text, 784, True))
        assert result == []


_MODEL = {
    "image_shape": [4, 4, 1],
    "likelihood": "bernoulli",
    "latent_shapes": [[1, 1, 5], [2, 2, 5], [2, 2, 5]],
    "temperature": 0.7,
}


def _followed(text):
    (result,) = call(CHECKS, "followed", (_MODEL, text))
    return result


def test_link_changes_what_the_model_has_and_nothing_else():
    before = _followed("")["state"]
    good = "seed=7&count=9&temperature=0.5,1&keep=fine&group=2&channel=4&a=3"
    state = _followed(good)["state"]
    assert state["seed"] == 7
    assert state["temperature"] == [0.5, 1]
    assert state["a"] == {"seed": 3}
    assert (state["group"], state["channel"]) == (2, 4)
    for bad in (
        "seed=-1",
        "seed=2147483648",
        "seed=1.5",
        "seed=",
        "temperature=0.5",
        "temperature=0.5,9",
        "temperature=a,b",
        "group=3",
        "channel=5",
        "level=0",
        "t=2",
        "amount=nan",
        "view=secret",
        "keep=all",
        "own=4",
        "a=image.absent",
        "constructor=1",
        "__proto__=1",
    ):
        assert _followed(bad)["state"] == before, bad


def test_link_names_a_class_of_a_model_that_has_any():
    def followed(model, text):
        (result,) = call(CHECKS, "followed", (model, text))
        return result["state"]["label"]

    told = {**_MODEL, "num_classes": 3}
    assert followed(told, "label=2") == 2
    for text in ("label=3", "label=-1", "label=1.5", "label=", "seed=1"):
        assert followed(told, text) is None, text
    assert followed(_MODEL, "label=2") is None


def test_link_shows_the_same_whatever_was_seen_before():
    model = {**_MODEL, "num_classes": 4}
    texts = {
        "view=samples&seed=5": "view=samples&label=3&count=4&keep=fine&from=8",
        "view=between&a=3": "view=between&b=9&t=0.1&label=1",
        "view=latent": "view=latent&group=1&channel=2&amount=1&base=7",
        "": "label=2&temperature=0.1,0.2",
    }
    for text, other in texts.items():
        fresh, again = call(
            CHECKS, "followed", (model, text), (model, other, text)
        )
        assert again["state"] == fresh["state"], text


def test_link_keeps_no_part_of_a_model_that_has_one():
    model = {**_MODEL, "latent_shapes": [[1, 1, 5]]}
    (result,) = call(CHECKS, "followed", (model, "keep=coarse&level=1"))
    assert result["state"]["keep"] == "none"
    assert _followed("keep=coarse&level=1")["state"]["keep"] == "coarse"


def test_link_with_more_pictures_than_are_kept_names_none_that_is_gone():
    pictures = [np.uint8(255) * (np.arange(16) == i) for i in range(9)]
    links = call(
        CHECKS,
        "roundTrip",
        *[({}, "a", pixels.astype(np.uint8), True) for pixels in pictures],
    )
    packed = [link["text"].split("image.key=")[1] for link in links]
    text = "&".join(f"image.p{i}={data}" for i, data in enumerate(packed))
    result = _followed(f"{text}&a=image.p0&b=image.p8")
    assert result["state"]["a"] == {"seed": 0}
    (source,) = result["sources"]
    np.testing.assert_array_equal(source["pixels"], pictures[8])


def test_noise_is_kept_by_its_bytes():
    small, large, newest = call(
        CHECKS,
        "recent",
        (100, [(key, 1) for key in "abcd"], "a"),
        (100, [(key, 40) for key in "abcd"], "a"),
        (100, [("a", 40), ("b", 140)], "a"),
    )
    assert small == [*"abcd"]
    # What is used again stays.
    assert large == ["a", "d"]
    assert newest == ["b"]
