"""The estimator against a model whose log p(x) is known."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.core.errors import DataError
from nvae_tf.evaluation.importance import ImportanceEstimator, Progress
from tests.support import linear_gaussian


@pytest.fixture(scope="module")
def estimator():
    return ImportanceEstimator(linear_gaussian.terms, linear_gaussian.LATENTS)


@pytest.fixture(scope="module")
def x():
    return linear_gaussian.draw_images(100)


@pytest.fixture(scope="module")
def precise(estimator, x):
    """With draws enough for the bound to be tight."""
    return estimator(
        linear_gaussian.batches(x, 100), 1024, 2, draws_per_pass=256
    )


def test_nelbo_of_a_linear_gaussian_model_is_its_exact_value(precise, x):
    # The KL is exact: what is left of the noise is that of -log p(x|z).
    deviation = linear_gaussian.exact_nelbo_deviation(x)
    error = deviation / np.sqrt(1024 * len(x))
    assert (
        abs(precise.nelbo - linear_gaussian.exact_nelbo(x).mean()) < 4 * error
    )
    assert precise.kl.sum() == pytest.approx(
        linear_gaussian.exact_kl(x).mean(), rel=1e-5
    )


def test_nll_of_a_linear_gaussian_model_approaches_log_p_of_x(precise, x):
    exact = linear_gaussian.exact_nll(x)
    # Of the same images, so far below the spread between images.
    assert abs(precise.nll - exact.mean()) < 0.01
    assert precise.nelbo - exact.mean() > 0.3
    assert precise.nll_standard_error == pytest.approx(
        exact.std(ddof=1) / np.sqrt(len(x)), rel=0.02
    )


def test_nll_covers_the_entropy_of_the_model_with_its_standard_error(precise):
    distance = abs(precise.nll - linear_gaussian.entropy())
    assert distance < 3 * precise.nll_standard_error


def test_bound_falls_as_the_number_of_draws_grows(estimator, x):
    # The same images many times over, each with noise of its own.
    images = tf.tile(x, [10, 1])
    bounds = [
        estimator(linear_gaussian.batches(images, 1000), k, 4).nll
        for k in (1, 4, 16)
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] > linear_gaussian.exact_nll(x).mean()


def test_estimate_is_the_mean_over_what_is_told_of_the_images(estimator, x):
    told = []
    result = estimator(
        linear_gaussian.batches(x, 30),
        64,
        on_images=lambda nelbo, nll: told.append((nelbo, nll)),
    )
    nelbo, nll = (np.concatenate(part) for part in zip(*told, strict=True))
    assert result.nelbo == pytest.approx(nelbo.mean(), rel=1e-12)
    assert result.nll == pytest.approx(nll.mean(), rel=1e-12)
    # One for each image, in its place.
    exact = linear_gaussian.exact_nll(x)
    assert np.corrcoef(nll, exact)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("batch_size", "draws_per_pass"), [(7, 1), (40, 5), (16, 3), (16, 64)]
)
def test_result_depends_on_neither_batch_size_nor_draws_per_pass(
    estimator, x, batch_size, draws_per_pass
):
    expected = estimator(linear_gaussian.batches(x[:40], 20), 10, 5)
    actual = estimator(
        linear_gaussian.batches(x[:40], batch_size),
        10,
        5,
        draws_per_pass=draws_per_pass,
    )
    assert actual.num_images == expected.num_images == 40
    for name in ("nelbo", "nll", "kl", "nll_standard_error"):
        np.testing.assert_allclose(
            getattr(actual, name), getattr(expected, name), rtol=1e-5
        )


def test_seeds_images_and_draws_have_noise_of_their_own(estimator):
    same = tf.tile(linear_gaussian.draw_images(1), [6, 1])
    seen = []

    def terms(x, eps):
        seen.append(eps)
        return linear_gaussian.terms(x, eps)

    recorder = ImportanceEstimator(terms, linear_gaussian.LATENTS)
    tf.config.run_functions_eagerly(True)
    try:
        for seed in (0, 1):
            recorder(linear_gaussian.batches(same, 4), 3, seed)
    finally:
        tf.config.run_functions_eagerly(False)
    noise = np.concatenate(seen)
    assert len(noise) == 2 * 3 * 8
    assert len(np.unique(noise[:, 0])) == len(noise)


@pytest.mark.parametrize("passes", [1, 3, 4, 5])
def test_stopped_estimate_goes_on_to_the_same_numbers(estimator, x, passes):
    def batches(first=0):
        return [*linear_gaussian.batches(x[:30], 12)][first:]

    expected = estimator(batches(), 7, 6, draws_per_pass=2)
    progress, taken = Progress(), []
    stopped = estimator(
        batches(),
        7,
        6,
        draws_per_pass=2,
        progress=progress,
        should_stop=lambda: len(taken) == passes,
        on_pass=lambda _: taken.append(1),
    )
    assert stopped is None
    arrays = {k: v.copy() for k, v in progress.to_arrays().items()}
    again = Progress.from_arrays(arrays)
    assert (again.batch, again.draw) == divmod(passes, 4)[:1] + (
        2 * (passes % 4),
    )
    actual = estimator(
        batches(again.batch), 7, 6, draws_per_pass=2, progress=again
    )
    assert actual.nll == expected.nll
    assert actual.nelbo == expected.nelbo
    np.testing.assert_array_equal(actual.kl, expected.kl)


def test_images_of_weight_0_are_left_out(estimator, x):
    (full,) = linear_gaussian.batches(x[:8], 8)
    weights = tf.constant([1.0] * 5 + [0.0] * 3)
    some = estimator([(full[0], weights)], 4, 7)
    only = estimator(linear_gaussian.batches(x[:5], 5), 4, 7)
    assert some.num_images == 5
    assert some.nll == pytest.approx(only.nll)
    assert some.kl.sum() == pytest.approx(only.kl.sum())
    with pytest.raises(DataError, match="None of the images"):
        estimator([(full[0], tf.zeros([8]))], 1)


def test_standard_error_of_one_image_is_unknown(estimator, x):
    one = estimator(linear_gaussian.batches(x[:1], 1), 2)
    assert np.isnan(one.nll_standard_error)
    assert np.isfinite(one.nll)


@pytest.mark.long
def test_devices_and_processes_give_the_numbers_of_one_device():
    """Logical devices have to be made before TensorFlow starts."""
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.importance_devices_check"],
        cwd=root,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "linear-Gaussian model on 2 devices",
        "NVAE on 2 devices",
        "2 processes",
    ]
