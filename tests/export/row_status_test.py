"""Rows that cannot be served, among those that can."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.served.png_rows import decode_rows
from nvae_tf.export.served.row_status import (
    MEANINGS,
    OUTPUT,
    RowStatus,
    explain,
)
from nvae_tf.export.warmup import example_inputs
from nvae_tf.sampling.images import encode_png
from tests.support.shared_exports import saved_model

_SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return SavedModelRunner(saved_model("served", tmp_path_factory))


def _png(size=(8, 8), mode="RGB", kind="PNG", **options):
    image = Image.new(mode, size)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def _claiming(width, height):
    """A small file that says it is large, with a right checksum."""
    content = _png()
    head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    check = struct.pack(">I", zlib.crc32(head))
    return content[:12] + head + check + content[33:]


def _damaged():
    """What a decoder refuses, after a header that is right."""
    content = bytearray(_png())
    start = content.index(b"IDAT")
    content[start + 8] ^= 0xFF
    return bytes(content)


_GOOD = encode_png(np.arange(192, dtype=np.uint8).reshape(_SHAPE))
_PNGS = {
    "empty": (b"", RowStatus.NOT_PNG),
    "text": (b"no image", RowStatus.NOT_PNG),
    "another format": (_png(kind="JPEG"), RowStatus.NOT_PNG),
    "animation": (_png(kind="GIF"), RowStatus.NOT_PNG),
    "header alone": (_png()[:33], RowStatus.NOT_PNG),
    "half a header": (_png()[:20], RowStatus.NOT_PNG),
    "cut off": (_png()[:-20], RowStatus.NOT_PNG),
    "damaged": (_damaged(), RowStatus.NOT_PNG),
    "too high": (_png((8, 9)), RowStatus.WRONG_SIZE),
    "too small": (_png((4, 8)), RowStatus.WRONG_SIZE),
    "huge": (_claiming(2**31 - 1, 2**31 - 1), RowStatus.WRONG_SIZE),
    "no area": (_claiming(0, 8), RowStatus.WRONG_SIZE),
    "grey": (_png(mode="L"), RowStatus.WRONG_CHANNELS),
    "transparent": (_png(mode="RGBA"), RowStatus.WRONG_CHANNELS),
    "16 bits": (_png(mode="I;16"), RowStatus.WRONG_CHANNELS),
}


@pytest.mark.parametrize("name", _PNGS)
def test_png_that_cannot_be_served_is_told_of_its_row(name):
    content, expected = _PNGS[name]
    images, status = decode_rows(tf.constant([content, _GOOD]), _SHAPE)
    assert status.numpy().tolist() == [expected, RowStatus.SERVED]
    assert not np.any(images[0])
    np.testing.assert_array_equal(images[1], np.arange(192).reshape(_SHAPE))


def test_no_damage_to_a_file_reaches_another():
    random = np.random.default_rng(0)
    contents = []
    for i in range(600):
        content = bytearray(_GOOD)
        for place in random.integers(0, len(content), 1 + i % 4):
            content[place] = random.integers(256)
        if i % 3 == 0:
            del content[random.integers(len(content)) :]
        contents += [bytes(content), _GOOD]
    images, status = decode_rows(tf.constant(contents), _SHAPE)
    assert not np.any(status[1::2])
    expected = np.arange(192).reshape(_SHAPE)
    assert np.all(images.numpy()[1::2] == expected)
    codes = {
        RowStatus.NOT_PNG,
        RowStatus.WRONG_SIZE,
        RowStatus.WRONG_CHANNELS,
    }
    assert set(status[::2].numpy().tolist()) - {RowStatus.SERVED} == codes


def test_nothing_is_decoded_whose_header_is_wrong(monkeypatch):
    decode, decoded = tf.io.decode_png, []

    def note(content, channels):
        decoded.append(content)
        return decode(content, channels)

    def noting(content, channels):
        return tf.numpy_function(
            note, [content, channels], tf.uint8, stateful=True
        )

    monkeypatch.setattr(tf.io, "decode_png", noting)
    contents = [_claiming(2**14, 2**14), _GOOD, _png(mode="L"), b"no image"]
    _, status = decode_rows(tf.constant(contents), _SHAPE)
    assert status[1] == RowStatus.SERVED
    assert decoded == [_GOOD]


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("RGBA", 4)]
)
def test_png_with_the_models_channels_is_read(mode, channels):
    shape = (8, 8, channels)
    images, status = decode_rows(tf.constant([_png(mode=mode)]), shape)
    assert status.numpy().tolist() == [RowStatus.SERVED]
    assert images.shape == (1, *shape)


def test_no_rows_are_no_rows():
    images, status = decode_rows(tf.zeros([0], tf.string), _SHAPE)
    assert images.shape == (0, *_SHAPE)
    assert status.shape == (0,)


def _bad(name, key):
    """What a row cannot hold, and its status."""
    if key == "temperature":
        values = (-1.0, np.nan, np.inf, -np.inf)
        return [(value, RowStatus.BAD_TEMPERATURE) for value in values] + [
            (3e38, RowStatus.OVERFLOW)
        ]
    if key == "png_bytes":
        return list(_PNGS.values())
    return [
        (value, RowStatus.NOT_FINITE) for value in (np.nan, np.inf, -np.inf)
    ]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sample", "temperature"),
        ("sample_float", "temperature"),
        ("sample_png", "temperature"),
        ("decode_noise", "temperature"),
        ("interpolate", "temperature"),
        ("interpolate", "t"),
        ("decode", "z_0"),
        ("decode_noise", "eps_1"),
        ("encode_png", "png_bytes"),
    ],
)
def test_good_rows_are_the_same_beside_bad_ones(runner, name, key):
    bad = _bad(name, key)
    rows = 2 * len(bad) + 1
    inputs = example_inputs(runner.inputs(name), rows, _SHAPE)
    expected = runner.run(name, inputs)
    assert not np.any(expected[OUTPUT])
    for i, (value, _) in enumerate(bad):
        # Every other row, and of that one number.
        inputs[key][2 * i + 1 : 2 * i + 2].reshape(-1)[-1:] = value
    outputs = runner.run(name, inputs)
    status = outputs.pop(OUTPUT)
    assert status[1::2].tolist() == [code for _, code in bad]
    assert not np.any(status[::2])
    for output, value in outputs.items():
        np.testing.assert_array_equal(value[::2], expected[output][::2])
        for row in value[1::2]:
            if value.dtype == object:
                assert row == b""
            elif value.dtype.kind == "f":
                assert np.all(np.isnan(row))
            else:
                assert not np.any(row)


def test_signatures_without_numbers_serve_every_row(runner):
    inputs = example_inputs(runner.inputs("score"), 3, _SHAPE)
    inputs["seed"] = np.array([-(2**63), 2**63 - 1, 0])
    for name in ("score", "reconstruct"):
        outputs = runner.run(name, inputs)
        assert outputs[OUTPUT].tolist() == [0, 0, 0]


def test_codes_are_explained():
    assert set(MEANINGS) == set(RowStatus)
    assert explain(np.zeros(3, np.int32)) == ""
    assert explain(np.zeros(0, np.int32)) == ""
    text = explain(np.int32([0, 1, 3]), first=16)
    assert text.startswith("row 17 (status 1, and 1 more): the temperature")
    assert "status 99" in explain(np.int32([99]))
