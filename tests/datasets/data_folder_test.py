import os

import numpy as np
import pytest
from PIL import Image

from nvae_tf.core.errors import ConfigError, DataError
from nvae_tf.datasets.folder import decode_image
from nvae_tf.datasets.pipeline import batches, open_source
from nvae_tf.datasets.sources import CorruptImageError
from tests.support.data_helpers import make_config, write_picture


def open_folder(path, split="train", **data):
    data = {"validation_fraction": 1e-9} | data
    config = make_config(source="image_folder", path=str(path), **data)
    return open_source(config, split)


def test_all_formats_in_nested_folders_are_found_in_order(tmp_path):
    names = ["b.png", "a/z.JPG", "a/b/c.webp", "d.bmp", "a.jpeg"]
    for number, name in enumerate(names):
        write_picture(tmp_path / name, seed=number)
    write_picture(tmp_path / ".cache" / "hidden.png")
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_folder(tmp_path)
    found = [source.describe(i) for i in range(len(source))]
    assert found == [str(tmp_path / name) for name in sorted(names)]
    assert {source[i].shape for i in range(5)} == {(8, 8, 3)}


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    pixels = write_picture(tmp_path / f"x.{suffix}", **options)
    np.testing.assert_array_equal(open_folder(tmp_path)[0], pixels)


def test_hash_split_covers_all_files_and_is_stable(tmp_path):
    for number in range(60):
        write_picture(tmp_path / f"{number}.png", seed=number)

    def files(split):
        source = open_folder(tmp_path, split, validation_fraction=0.3)
        return {source.describe(i) for i in range(len(source))}

    train, held_out = files("train"), files("validation")
    assert not train & held_out
    assert len(train | held_out) == 60
    assert 8 < len(held_out) < 30
    assert files("test") == held_out
    for number in range(60, 90):
        write_picture(tmp_path / f"{number}.png", seed=number)
    assert train <= files("train")
    assert held_out <= files("validation")


def test_split_by_folder(tmp_path):
    for number, name in enumerate(("train", "val", "test")):
        write_picture(tmp_path / name / "x.png", seed=number)
    sources = [
        open_folder(tmp_path, split, split_by="folder")
        for split in ("train", "validation", "test")
    ]
    assert [os.path.dirname(s.describe(0)) for s in sources] == [
        str(tmp_path / name) for name in ("train", "val", "test")
    ]


def test_one_held_out_folder_serves_as_validation_and_test(tmp_path):
    for name in ("train", "test"):
        write_picture(tmp_path / name / "x.png")
    validation, test = (
        open_folder(tmp_path, split, split_by="folder")
        for split in ("validation", "test")
    )
    assert validation.name == test.name


def test_missing_split_folder_is_an_error(tmp_path):
    write_picture(tmp_path / "train" / "x.png")
    with pytest.raises(DataError, match="no sub-folder validation or test"):
        open_folder(tmp_path, "test", split_by="folder")


def composed(pixels, ground):
    """The image as a viewer shows it on a gray level, in exact arithmetic."""
    values = pixels.astype(np.float64)
    weight = values[..., -1:] / 255
    return np.rint(values[..., :-1] * weight + ground * (1 - weight))


@pytest.mark.parametrize(
    ("mode", "kind", "channels", "alpha", "expected"),
    [
        ("L", "png", 1, "drop", lambda x: x),
        ("L", "jpg", 3, "drop", None),
        ("L", "png", 3, "drop", lambda x: np.repeat(x, 3, -1)),
        ("LA", "png", 1, "drop", lambda x: x[..., :1]),
        ("LA", "png", 3, "drop", lambda x: np.repeat(x[..., :1], 3, -1)),
        ("RGBA", "png", 3, "drop", lambda x: x[..., :3]),
        ("RGBA", "png", 4, "keep", lambda x: x),
        ("RGBA", "png", 3, "white", lambda x: composed(x, 255)),
        ("RGBA", "png", 3, "black", lambda x: composed(x, 0)),
        ("LA", "png", 1, "white", lambda x: composed(x, 255)),
        ("LA", "png", 4, "keep", lambda x: x[..., [0, 0, 0, 1]]),
        (
            "RGB",
            "png",
            4,
            "keep",
            lambda x: np.pad(x, [(0, 0)] * 2 + [(0, 1)], constant_values=255),
        ),
    ],
)
def test_modes_become_the_models_channels(
    tmp_path, mode, kind, channels, alpha, expected
):
    pixels = write_picture(tmp_path / f"x.{kind}", mode=mode)
    model = {"image_channels": channels}
    image = open_folder(tmp_path, model=model, alpha=alpha)[0]
    assert image.shape == (8, 8, channels)
    assert image.dtype == np.uint8
    if expected:
        np.testing.assert_array_equal(image, expected(pixels))


def test_palettes_one_bit_cmyk_and_sixteen_bits_are_read(tmp_path):
    pixels = write_picture(tmp_path / "x.png")
    picture = Image.fromarray(pixels)
    picture.quantize(256).save(tmp_path / "palette.png")
    picture.convert("1").save(tmp_path / "bit.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    deep = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert decode_image(tmp_path / "palette.png").shape == (8, 8, 3)
    assert set(np.unique(decode_image(tmp_path / "bit.png"))) == {0, 255}
    assert decode_image(tmp_path / "cmyk.jpg").shape == (8, 8, 3)
    np.testing.assert_array_equal(
        decode_image(tmp_path / "deep.png")[..., 0], deep >> 8
    )


def test_transparent_palettes_have_alpha(tmp_path):
    picture = Image.fromarray(write_picture(tmp_path / "x.png"))
    picture.quantize(16).save(tmp_path / "clear.png", transparency=0)
    assert decode_image(tmp_path / "clear.png").shape == (8, 8, 4)


@pytest.mark.parametrize(
    ("mode", "clear", "other"),
    [("1", 0, 1), ("L", 7, 200), ("RGB", (0, 9, 0), (0, 9, 1))],
)
def test_colour_that_stands_for_transparency_is_transparent(
    tmp_path, mode, clear, other
):
    picture = Image.new(mode, (8, 8), other)
    picture.putpixel((0, 0), clear)
    picture.save(tmp_path / "x.png", transparency=clear)
    alpha = decode_image(tmp_path / "x.png")[..., -1]
    assert alpha[0, 0] == 0
    assert (alpha.ravel()[1:] == 255).all()
    white = open_folder(tmp_path, alpha="white")[0]
    assert white[0, 0].tolist() == [255, 255, 255]
    dropped = open_folder(tmp_path, alpha="drop")[0]
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(dropped, expected)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = write_picture(tmp_path / "x.png", size=(4, 8), exif=exif)
    np.testing.assert_array_equal(
        decode_image(tmp_path / "x.png"), np.rot90(pixels, -1)
    )


def test_colour_in_a_gray_model_is_an_error_unless_converted(tmp_path):
    pixels = write_picture(tmp_path / "x.png")
    model = {"image_channels": 1}
    with pytest.raises(DataError, match=r"x\.png is in colour.*convert_col"):
        open_folder(tmp_path, model=model)[0]
    image = open_folder(tmp_path, model=model, convert_colors=True)[0]
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(image[..., 0], luma, atol=0.51)


def test_mixed_sizes_are_an_error_that_names_the_file(tmp_path):
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png", size=(9, 5))
    with pytest.raises(DataError, match=r"b\.png is 9x5 pixels.*data.resize"):
        open_folder(tmp_path).read([0, 1])
    images = open_folder(tmp_path, resize="crop").read([0, 1])
    assert [image.shape for image in images] == [(8, 8, 3)] * 2


def corrupt(path):
    write_picture(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_cut_off_pictures_are_errors_that_name_the_file(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    corrupt(path)
    with pytest.raises(CorruptImageError, match="skip_corrupt") as caught:
        decode_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n"])
def test_things_that_are_no_pictures_are_errors(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(CorruptImageError, match=r"x\.png cannot be read"):
        decode_image(tmp_path / "x.png")


def test_deleted_files_are_errors(tmp_path):
    write_picture(tmp_path / "x.png")
    source = open_folder(tmp_path)
    (tmp_path / "x.png").unlink()
    with pytest.raises(DataError, match=r"x\.png does not exist"):
        source[0]


def test_skip_corrupt_goes_on_and_counts(tmp_path):
    for number in range(6):
        write_picture(tmp_path / f"{number}.png", seed=number)
    corrupt(tmp_path / "3.png")
    config = make_config(
        source="image_folder",
        path=str(tmp_path),
        validation_fraction=1e-9,
        skip_corrupt=True,
    )
    source = open_source(config, "train")
    iterator = batches(source, config, training=True, batch_size=3, seed=0)
    for _ in range(4):
        assert next(iterator).images.shape == (3, 8, 8, 3)
    assert source.corrupt == {3}


def test_empty_and_missing_folders_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"no images in .*\.png"):
        open_folder(tmp_path)
    with pytest.raises(DataError, match=r"not a folder.*config.data.path"):
        open_folder(tmp_path / "none")
    write_picture(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"validation split.*validation_frac"):
        open_folder(tmp_path, "validation")


def test_alpha_and_channels_must_agree(tmp_path):
    write_picture(tmp_path / "x.png")
    with pytest.raises(ConfigError, match=r"data.alpha is 'keep'"):
        open_folder(tmp_path, alpha="keep")
    with pytest.raises(DataError, match=r"has 3 channels.*image_channels is 4"):
        open_folder(tmp_path, model={"image_channels": 4})[0]
