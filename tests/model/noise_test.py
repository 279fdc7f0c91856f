"""Noise per row: TensorFlow and NumPy draw the same, whatever the batch."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.export import onnx_sampler
from nvae_tf.model import noise
from tests.support.arrays import assert_rounded_alike

SEEDS = np.array([0, 1, -3, 2**40 + 5, np.iinfo(np.int64).min])
SHAPES = [(4, 4, 3), (5,), (1, 1, 1)]


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_numpy_draws_what_tensorflow_draws(kind):
    rows = noise.normal_rows if kind == "normal" else noise.uniform_rows
    drawn = rows(tf.constant(SEEDS), SHAPES, first_stream=3)
    for i, (tensor, shape) in enumerate(zip(drawn, SHAPES, strict=True)):
        other = onnx_sampler.noise_rows(SEEDS, kind, 3 + i, shape)
        assert other.dtype == np.float32
        if kind == "uniform":
            np.testing.assert_array_equal(tensor, other)
        else:
            # Logarithm, root, an angle and its cosine; no draw is over 7.
            assert_rounded_alike(tensor, other, 8, size=7)


def test_row_does_not_depend_on_its_batch():
    together = noise.normal_rows(tf.constant(SEEDS), SHAPES)
    order = np.array([3, 0, 4, 1, 2])
    shuffled = noise.normal_rows(tf.constant(SEEDS[order]), SHAPES)
    for i, (a, b) in enumerate(zip(together, shuffled, strict=True)):
        np.testing.assert_array_equal(np.asarray(a)[order], b)
        alone = noise.normal_rows(tf.constant(SEEDS[2:3]), SHAPES)[i]
        np.testing.assert_array_equal(a[2:3], alone)


def test_seeds_and_streams_draw_apart():
    a, b = noise.normal_rows(tf.constant([5, 6]), [(8,), (8,)])
    rows = np.concatenate([a, b])
    assert len(np.unique(rows)) == rows.size


def test_normal_noise_is_standard_normal():
    rows = onnx_sampler.noise_rows(range(100), "normal", 0, (1000,))
    assert abs(rows.mean()) < 0.01
    assert abs(rows.std() - 1) < 0.01
    assert abs((rows**3).mean()) < 0.03
    assert abs((rows**4).mean() - 3) < 0.1


def test_uniform_noise_fills_the_unit_interval():
    rows = onnx_sampler.noise_rows(range(100), "uniform", 0, (1000,))
    counts, _ = np.histogram(rows, bins=10, range=(0, 1))
    assert rows.min() >= 0
    assert rows.max() < 1
    np.testing.assert_allclose(counts, 10_000, rtol=0.05)


def test_no_rows_are_no_rows():
    draw = tf.function(lambda seeds: noise.normal_rows(seeds, [(3, 2)]))
    assert draw(tf.zeros([0], tf.int64))[0].shape == (0, 3, 2)
    assert draw.get_concrete_function(
        tf.TensorSpec([None], tf.int64)
    ).structured_outputs[0].shape.as_list() == [None, 3, 2]
    empty = onnx_sampler.noise_rows([], "normal", 0, (3, 2))
    assert empty.shape == (0, 3, 2)
