"""Coefficients against values worked out from their formulas."""

import dataclasses
import math

import pytest

from nvae_tf.config import TrainConfig, schedules

# 20 epochs of 500 steps: T = 10,000, beta is constant for one step and then
# grows for 3,000.
_CONFIG = TrainConfig(epochs=20, warmup_epochs=5, learning_rate=1e-2)
_STEPS = 500


@pytest.mark.parametrize(
    ("step", "beta"),
    [
        (0, 1e-4),
        (1, 1e-4),
        (2, 1 / 3000),
        (31, 0.01),
        (1501, 0.5),
        (2998, 2997 / 3000),
        (3001, 1.0),
        (9999, 1.0),
    ],
)
def test_kl_coefficient_grows_linearly_after_a_pause(step, beta):
    assert schedules.kl_beta(_CONFIG, step, 10_000) == pytest.approx(beta)


def test_kl_warm_up_follows_its_options():
    config = dataclasses.replace(
        _CONFIG,
        kl_const_portion=0.1,
        kl_anneal_portion=0.5,
        kl_const_coeff=0.2,
    )
    betas = [schedules.kl_beta(config, s, 100) for s in (0, 10, 20, 35, 60, 99)]
    assert betas == pytest.approx([0.2, 0.2, 0.2, 0.5, 1.0, 1.0])


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (1, 1e-2 / 2500),
        (1250, 5e-3),
        (2499, 1e-2 * 2499 / 2500),
        # Epoch 5 is the first after the warm-up, 19 the last.
        (2500, 1e-2),
        (2999, 1e-2),
        (3000, 1e-4 + 9.9e-3 * (1 + math.cos(math.pi / 14)) / 2),
        (6000, (1e-2 + 1e-4) / 2),
        (6499, (1e-2 + 1e-4) / 2),
        (9500, 1e-4),
        (9999, 1e-4),
    ],
)
def test_learning_rate_warms_up_per_step_and_falls_per_epoch(step, rate):
    actual = schedules.learning_rate(_CONFIG, step, _STEPS)
    assert actual == pytest.approx(rate, rel=1e-9)


def test_learning_rate_follows_its_options():
    config = dataclasses.replace(
        _CONFIG,
        epochs=3,
        warmup_epochs=0,
        learning_rate=8e-3,
        min_learning_rate=2e-3,
    )
    rates = [schedules.learning_rate(config, step, 1) for step in range(3)]
    assert rates == pytest.approx([8e-3, 5e-3, 2e-3])


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (2, 1), (1, 1)])
def test_shortest_runs_have_a_learning_rate(epochs, warmup):
    config = TrainConfig(epochs=epochs, warmup_epochs=warmup)
    rates = [
        schedules.learning_rate(config, step, 4) for step in range(4 * epochs)
    ]
    assert all(0 <= rate <= 1e-2 for rate in rates)
    if warmup < epochs:
        assert rates[-1] == 1e-2


def test_regularization_is_constant_unless_annealed():
    for beta in (1e-4, 0.3, 1.0):
        assert schedules.regularization(_CONFIG, beta) == 1e-2


@pytest.mark.parametrize(
    ("beta", "exponent"), [(0.0, 1), (0.5, -0.5), (0.75, -1.25), (1, -2)]
)
def test_regularization_anneals_on_a_log_scale(beta, exponent):
    config = dataclasses.replace(
        _CONFIG, regularization_init=10.0, regularization=1e-2
    )
    actual = schedules.regularization(config, beta)
    assert actual == pytest.approx(10.0**exponent)


def test_annealing_may_go_up():
    config = dataclasses.replace(
        _CONFIG, regularization_init=0.1, regularization=10.0
    )
    assert schedules.regularization(config, 0.5) == pytest.approx(1.0)


def test_coefficients_of_a_step_belong_together():
    config = dataclasses.replace(_CONFIG, regularization_init=1.0)
    actual = schedules.coefficients(config, 1501, _STEPS)
    assert actual == pytest.approx((0.5, 0.1, 1e-2 * 1501 / 2500))
    assert actual._fields == ("beta", "regularization", "learning_rate")
