"""Distances of sets against other implementations of them."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from nvae_tf.evaluation.sample_quality import (
    frechet_distance,
    kernel_distance,
    precision_recall,
)

_WIDTH = 12


def _features(count, seed, offset=0.0, spread=1.0, width=_WIDTH):
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(width, width))
    values = offset + spread * rng.normal(size=(count, width)) @ mix
    return np.maximum(values, -1.0).astype(np.float32)


def _fid_by_definition(x, y):
    covariances = [np.cov(part.astype(float), rowvar=False) for part in (x, y)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    shift = x.astype(float).mean(axis=0) - y.astype(float).mean(axis=0)
    return shift @ shift + np.trace(sum(covariances) - 2 * root.real)


def test_fid_is_the_formula_with_a_matrix_root():
    x, y = _features(3000, 0), _features(1500, 1, offset=0.3, spread=1.2)
    expected = _fid_by_definition(x, y)
    assert expected > 1
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-6)


def test_fid_of_two_normals_on_a_line_is_known():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (200_000, 1))
    y = rng.normal(3, 2, (200_000, 1))
    assert frechet_distance(x, y) == pytest.approx(9 + 1, rel=0.02)


def test_fid_of_a_set_and_itself_is_0_even_with_few_images():
    x = _features(5, 0)  # Covariances of rank 4 in 12 dimensions.
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-3)
    assert frechet_distance(x, _features(5, 1)) > 0.1


def _kid_by_definition(x, y):
    def gram(a, b):
        return polynomial_kernel(
            a.astype(float), b.astype(float), 3, 1 / _WIDTH, 1
        )

    def pairs(a):
        k = gram(a, a)
        np.fill_diagonal(k, 0)
        return k.sum() / (len(a) * (len(a) - 1))

    return pairs(x) + pairs(y) - 2 * gram(x, y).mean()


def test_kid_is_the_mean_of_unbiased_estimates():
    x, y = _features(40, 0), _features(40, 1, offset=0.5)
    result = kernel_distance(x, y, seed=3)
    assert (result.num_blocks, result.block_size) == (10, 4)
    rng = np.random.default_rng(3)
    first, second = (rng.permutation(40).reshape(10, 4) for _ in "xy")
    expected = [
        _kid_by_definition(x[a], y[b])
        for a, b in zip(first, second, strict=True)
    ]
    assert result.value == pytest.approx(np.mean(expected))
    error = np.std(expected, ddof=1) / np.sqrt(10)
    assert result.standard_error == pytest.approx(error)


def test_error_bar_of_kid_is_the_spread_of_repetitions():
    results = [
        kernel_distance(
            _features(200, 2 * i), _features(200, 2 * i + 1, offset=0.2)
        )
        for i in range(60)
    ]
    spread = np.std([result.value for result in results], ddof=1)
    errors = [result.standard_error for result in results]
    assert np.mean(errors) == pytest.approx(spread, rel=0.35)


def test_kid_of_two_halves_of_a_set_is_0_within_its_error_bar():
    x = _features(2000, 0)
    result = kernel_distance(x[:1000], x[1000:])
    assert abs(result.value) < 4 * result.standard_error
    moved = kernel_distance(x[:1000], x[1000:] + 2.0)
    assert moved.value > 5 * moved.standard_error


@pytest.mark.parametrize("chunk", [7, 1000])
def test_precision_and_recall_are_those_of_nearest_neighbours(chunk):
    x = _features(90, 0, width=3)
    y = _features(60, 1, offset=0.5, spread=0.7, width=3)

    def share_within(points, manifold, k):
        neighbours = NearestNeighbors(n_neighbors=k + 1).fit(manifold)
        radii = neighbours.kneighbors(manifold)[0][:, -1]
        distances = np.linalg.norm(
            points[:, None].astype(float) - manifold[None], axis=-1
        )
        return (distances <= radii).any(axis=1).mean()

    result = precision_recall(x, y, num_neighbours=3, chunk=chunk)
    assert result.precision == pytest.approx(share_within(y, x, 3))
    assert result.recall == pytest.approx(share_within(x, y, 3))
    assert 0.1 < result.recall < result.precision < 1


def test_samples_of_a_part_of_the_data_are_precise_but_recall_little():
    rng = np.random.default_rng(0)
    real = rng.uniform(0, 1, (400, 2))
    part = rng.uniform(0, 1, (400, 2)) * [0.3, 1.0]
    result = precision_recall(real, part)
    assert result.precision > 0.9
    assert result.recall < 0.5
    with pytest.raises(ValueError, match="more images than 3"):
        precision_recall(real[:3], part)
