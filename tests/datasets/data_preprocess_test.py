import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.datasets.preprocess import make_preprocess, preprocess
from tests.support.data_helpers import binary_model, make_config


def run(images, **arguments):
    images = np.asarray(images)
    keys = np.stack([np.full(len(images), 3), np.arange(len(images))], -1)
    defaults = {"bits_in": 8, "bits_out": 8}
    return preprocess(
        tf.constant(images), tf.constant(keys), **(defaults | arguments)
    ).numpy()


def every_value(bits):
    dtype = np.uint8 if bits <= 8 else np.uint16
    return np.arange(2**bits, dtype=dtype).reshape(1, -1, 1, 1)


@pytest.mark.parametrize("bits", range(1, 9))
def test_quantisation_is_the_papers(bits):
    levels = np.floor(np.arange(256) / 2 ** (8 - bits)) / (2**bits - 1)
    out = run(every_value(8), bits_out=bits)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.ravel(), levels, rtol=1e-6)


@pytest.mark.parametrize("bits", range(1, 17))
def test_every_depth_fills_the_range_evenly(bits):
    out = run(every_value(bits), bits_in=bits).ravel()
    assert out[0] == 0.0
    assert out[-1] == 1.0
    assert (np.diff(out) >= 0).all()
    ideal = np.arange(2**bits) / (2**bits - 1)
    np.testing.assert_allclose(out, ideal, atol=1 / 255)


@pytest.mark.parametrize("bits", range(9, 17))
def test_deep_images_keep_their_upper_bits(bits):
    out = run(every_value(bits), bits_in=bits)
    upper = every_value(bits) >> (bits - 8)
    np.testing.assert_array_equal(out, run(upper.astype(np.uint8)))


def test_padding_is_black_and_symmetric():
    out = run(np.full((1, 3, 3, 2), 255, np.uint8), padding=2)
    assert out.shape == (1, 7, 7, 2)
    assert out.sum() == 18
    assert (out[:, 2:5, 2:5] == 1).all()


def test_padding_stays_black_when_binarised():
    out = run(np.full((2, 4, 4, 1), 255, np.uint8), padding=1, binarize=True)
    assert out.sum() == 32


def test_black_and_white_survive_binarisation():
    images = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    assert run(np.repeat(images, 64, 0), binarize=True).sum() == 64


def test_a_draw_depends_on_its_key_alone():
    images = np.full((5, 8, 8, 1), 128, np.uint8)
    keys = np.stack([np.full(5, 9), np.arange(5)], -1)
    arguments = {"bits_in": 8, "bits_out": 1, "binarize": True}
    whole = preprocess(images, keys, **arguments).numpy()
    part = preprocess(images[:2], keys[3:], **arguments).numpy()
    np.testing.assert_array_equal(whole[3:], part)
    assert len(np.unique(whole.reshape(5, -1), axis=0)) == 5


def test_compiled_and_plain_agree():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    keys = np.stack([np.full(3, 3), np.arange(3)], -1)
    config = make_config(model=binary_model(padding=2), binarize=True)
    compiled = make_preprocess(config, 8, training=True)
    np.testing.assert_array_equal(
        compiled(tf.constant(images), tf.constant(keys)),
        run(images, bits_out=1, padding=2, binarize=True),
    )
