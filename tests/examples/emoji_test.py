"""Emoji: what shows one thing is in one split, and transparency is white."""

import numpy as np
import pytest
from PIL import Image

from examples import emoji

_CODES = [
    "1f3c3",
    "1f3c3-200d-2642-fe0f",
    "1f3c3-1f3fb-200d-2640-fe0f",
    "1f3c3-1f3ff",
]


def test_variants_of_one_thing_are_in_one_split():
    assert len({emoji.thing(code) for code in _CODES}) == 1
    assert len({emoji.split_of(code) for code in _CODES}) == 1


@pytest.mark.parametrize("person", ["1f6b6", "1f6b6-1f3fd-200d-2642-fe0f"])
def test_mirrored_person_is_in_the_split_of_the_other(person):
    mirrored = f"{person}-200d-27a1-fe0f"
    assert emoji.thing(mirrored) == emoji.thing(person) == "1f6b6"
    assert emoji.split_of(mirrored) == emoji.split_of(person)
    assert emoji.thing("27a1-fe0f") == "27a1"


@pytest.mark.parametrize("tone", ["", "-1f3fd"])
def test_man_and_woman_at_work_are_one_thing(tone):
    things = {
        emoji.thing(f"{adult}{tone}-200d-1f680")
        for adult in ("1f468", "1f469", "1f9d1")
    }
    assert len(things) == 1


def test_different_things_differ():
    codes = ["1f600", "1f1e9-1f1ea", "1f1ea-1f1e9", "0031-fe0f-20e3"]
    assert len({emoji.thing(code) for code in codes}) == len(codes)


def test_a_tenth_of_the_things_is_held_out():
    codes = [f"{0x1F300 + i:x}" for i in range(2000)]
    held_out = sum(emoji.split_of(code) == "test" for code in codes)
    # Binomial: 200 +- 13.
    assert 140 < held_out < 260


def test_transparent_pixels_become_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = 255, 0, 0, 255
    image = np.asarray(emoji.on_white(Image.fromarray(pixels)))
    np.testing.assert_array_equal(image[0, 0], [255, 0, 0])
    assert (image[1] == 255).all()


def test_pictures_of_all_vendors_get_names_of_their_own(tmp_path):
    (tmp_path / "in").mkdir()
    picture = Image.new("RGBA", (4, 4), "red")
    for code in _CODES:
        picture.save(tmp_path / "in" / f"{code}.png")
    out = tmp_path / "out"
    out.mkdir()
    counts = [emoji.write(tmp_path / "in", v, out) for v in ("google", "apple")]
    assert counts == [4, 4]
    assert len(list(out.rglob("*.png"))) == 8
    assert len(list(out.iterdir())) == 1
