"""Tests of image files that were made to hurt, or are merely unusual."""

import contextlib
import functools
import io
import os
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from nvae_tf.core.errors import ConfigError, DataError
from nvae_tf.datasets.folder import decode_image
from nvae_tf.datasets.geometry import match_size
from nvae_tf.datasets.sources import CorruptImageError
from tests.support.data_helpers import make_config, write_picture
from tests.support.refusals import refused


def _refused(path, *parts):
    with refused(CorruptImageError, *parts, path=path):
        decode_image(path)


def _chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", checksum)
    )


def _png(width, height, *, mode=6, packed=None, extra=b""):
    """A PNG of zeros; its header says what it is told to."""
    header = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    if packed is None:
        packed = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + extra
        + _chunk(b"IDAT", packed)
        + _chunk(b"IEND", b"")
    )


@functools.cache
def _bomb():
    return zlib.compress(bytes(2**27), 1)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _jpeg(size, scans=0, **options):
    """A progressive JPEG whose last scan comes again and again."""
    encoded = io.BytesIO()
    Image.new("L", (size, size)).save(
        encoded, "JPEG", progressive=True, **options
    )
    content = encoded.getvalue()
    last = content.rindex(b"\xff\xda")
    end = content.rindex(b"\xff\xd9")
    return content[:end] + content[last:end] * scans + content[end:]


# What is no picture


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_formats_that_start_programs_are_not_looked_at(tmp_path, suffix):
    # A program that Pillow would start is found by the path alone.
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        b"showpage\n%%EOF\n"
    )
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{tmp_path}:{before}"
    try:
        _refused(path, "none of PNG")
    finally:
        os.environ["PATH"] = before
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO", "TGA", "PCX"])
def test_only_the_promised_formats_are_decoded(tmp_path, kind):
    path = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(path, kind)
    _refused(path, "none of PNG")


def test_pipes_devices_and_loops_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dead.png").symlink_to("nothing")
    (tmp_path / "folder.png").mkdir()
    start = time.perf_counter()
    for name in ("pipe", "zero", "loop", "dead", "folder"):
        _refused(tmp_path / f"{name}.png")
    assert time.perf_counter() - start < 5


# What is too large


@pytest.mark.parametrize(
    "content",
    [
        _png(30_000, 30_000),
        _png(2**31 - 1, 1),
        _png(2**31 - 1, 2**31 - 1),
        _png(8193, 8192),
        b"BM"
        + struct.pack("<III", 0, 0, 54)
        + struct.pack("<IiiHH", 40, 20_000, 20_000, 1, 24)
        + bytes(24),
        b"RIFF\x80\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0\xff\x3f\0",
        _jpeg(64).replace(b"\0\x40\0\x40", b"\x27\x10\x27\x10", 1),
    ],
)
def test_image_that_is_large_by_its_header_is_not_decoded(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    before = _peak()
    _refused(path)
    assert _peak() - before < 2**26


def test_limit_is_of_the_configuration(tmp_path):
    write_picture(tmp_path / "x.png", (30, 20))
    assert decode_image(tmp_path / "x.png", 600).shape == (20, 30, 3)
    with pytest.raises(CorruptImageError, match="max_pixels=599"):
        decode_image(tmp_path / "x.png", 599)
    with pytest.raises(ConfigError, match="max_pixels"):
        make_config(max_pixels=0)


@pytest.mark.parametrize("kind", [b"iTXt", b"zTXt", b"iCCP"])
def test_metadata_that_unpacks_to_much_is_not_unpacked(tmp_path, kind):
    packed = _bomb()
    content = {
        b"iTXt": b"a\0\1\0\0\0",
        b"zTXt": b"a\0\0",
        b"iCCP": b"a\0\0",
    }[kind] + packed
    path = tmp_path / "x.png"
    path.write_bytes(_png(8, 8, extra=_chunk(kind, content)))
    before = _peak()
    with contextlib.suppress(CorruptImageError):
        decode_image(path)
    assert _peak() - before < 2**26


def test_pixels_that_unpack_to_more_than_the_header_says_are_not(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(_png(8, 8, packed=_bomb()))
    before = _peak()
    assert decode_image(path).shape == (8, 8, 4)
    assert _peak() - before < 2**26


def test_jpeg_of_many_scans_is_refused(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(_jpeg(64, scans=200))
    _refused(path, "scans")


def test_scans_are_those_of_the_picture_alone(tmp_path):
    # Of what follows the picture, such as a film, or lies within a profile,
    # nothing is a scan of it.
    marks = b"\xff\xda\0\2" * 200
    path = tmp_path / "x.jpg"
    path.write_bytes(_jpeg(64, scans=3, icc_profile=marks) + marks)
    assert decode_image(path).shape == (64, 64, 1)


@pytest.mark.parametrize("policy", ["crop", "random_crop"])
def test_long_image_is_not_enlarged_beyond_measure(policy):
    image = np.zeros((1, 2**20, 3), np.uint8)
    with pytest.raises(DataError, match="resize=resize"):
        match_size(image, 256, policy)
    assert match_size(image, 8, "resize").shape == (8, 8, 3)
    small = np.zeros((1, 2**16, 2), np.uint8)
    with pytest.raises(DataError, match="resize=resize"):
        match_size(small, 33, policy)
    # What is large already becomes no larger.
    large = np.zeros((1024, 2**14, 1), np.uint8)
    assert match_size(large, 1024, policy).shape[0] == 1024


# What is unusual


def test_animation_counts_as_its_first_picture(tmp_path):
    first, second = (Image.new("RGB", (8, 8), c) for c in ("red", "blue"))
    for name in ("a.png", "a.webp"):
        first.save(
            tmp_path / name,
            save_all=True,
            append_images=[second] * 9,
            **({"lossless": True} if name == "a.webp" else {}),
        )
        assert (decode_image(tmp_path / name)[..., :3] == [255, 0, 0]).all()


def test_picture_with_more_pictures_behind_it_is_decoded(tmp_path):
    first, second = (Image.new("RGB", (16, 16), c) for c in ("white", "black"))
    path = tmp_path / "x.jpg"
    first.save(path, "MPO", save_all=True, append_images=[second])
    assert decode_image(path).min() > 250


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_reduced_to_their_upper_eight(tmp_path, channels):
    # Pillow writes no such file but gray.
    values = (np.arange(64 * channels) * 250).astype(">u2")
    rows = values.reshape(8, -1)
    packed = zlib.compress(b"".join(b"\0" + r.tobytes() for r in rows))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0)
    path = tmp_path / "x.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", packed)
        + _chunk(b"IEND", b"")
    )
    expected = (values >> 8).astype(np.uint8).reshape(8, 8, channels)
    decoded = decode_image(path)
    if channels == 2:
        decoded = decoded[..., [0, -1]]
    np.testing.assert_array_equal(decoded, expected)


def test_inks_and_palettes_become_colours(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "inks.jpg")
    pixel = decode_image(tmp_path / "inks.jpg")[0, 0]
    assert pixel[0] < 10
    assert min(pixel[1:]) > 245
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert decode_image(tmp_path / "p.png")[0, 0].tolist() == [0, 255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_the_camera(tmp_path, orientation):
    path = tmp_path / "x.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_picture(path, size=(16, 8), exif=exif)
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    assert expected.shape == ((16, 8, 3) if orientation > 4 else (8, 16, 3))
    np.testing.assert_array_equal(decode_image(path), expected)


@pytest.mark.parametrize(
    "odd",
    [
        (0x011A, 10, 1, struct.pack("<I", 38)),  # -5/3 pixels per inch.
        (0x0100, 2, 4, b"abc\0"),  # A width in letters.
        (0x0100, 11, 1, struct.pack("<f", 1.5)),
    ],
)
def test_odd_entry_of_exif_is_not_in_the_way(tmp_path, odd):
    turned = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
    entries = b"".join(
        struct.pack("<HHI", *entry[:3]) + entry[3]
        for entry in sorted([turned, odd])
    )
    exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + entries + bytes(4)
    path = tmp_path / "x.jpg"
    Image.new("RGB", (16, 8)).save(path, exif=exif + struct.pack("<ii", -5, 3))
    assert decode_image(path).shape == (16, 8, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_damaged_exif_raises_nothing_else(tmp_path, keep):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "description" * 9
    content = exif.tobytes()
    path = tmp_path / "x.jpg"
    Image.new("RGB", (8, 8)).save(
        path, exif=content[: int(keep * len(content))]
    )
    with contextlib.suppress(CorruptImageError):
        assert decode_image(path).shape == (8, 8, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_truncated_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    write_picture(path, (32, 32))
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        _refused(path)


def test_name_that_is_no_utf8_is_read_and_named(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    name = tmp_path / os.fsdecode(b"\xff\xfe.png")
    Image.new("RGB", (8, 8)).save(path.decode("utf-8", "surrogateescape"))
    assert decode_image(name).shape == (8, 8, 3)
    name.write_bytes(b"nothing")
    _refused(name)
