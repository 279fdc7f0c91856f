"""One training step: its loss, who gets a gradient, what it changes."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config.schedules import Coefficients
from nvae_tf.model import losses
from nvae_tf.model.layers import BatchNorm
from nvae_tf.model.pure_layer import Mode
from nvae_tf.model.regularizers import SpectralRegularizer, batch_norm_loss
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep
from tests.support import model_cases

pytestmark = pytest.mark.early

_SEED = tf.constant([1, 2])


def _step(config, decay=3e-4, **kwargs):
    model = model_cases.random_model(config, **kwargs)
    optimizer = Adamax(model.trainable_variables, decay)
    return TrainStep(model, optimizer, SpectralRegularizer(model))


def _coefficients(beta=0.4, regularization=1e-2, learning_rate=1e-2):
    return Coefficients(
        *map(tf.constant, (beta, regularization, learning_rate))
    )


def _pieces(step, flat):
    sizes = [int(np.prod(v.shape)) for v in step.optimizer.parameters]
    pieces = np.split(np.asarray(flat), np.cumsum(sizes)[:-1])
    for variable, piece in zip(step.optimizer.parameters, pieces, strict=True):
        yield variable, piece.reshape(variable.shape)


@functools.cache
def _gradient(name):
    config = model_cases.CONFIGS[name]
    step = _step(config)
    x, eps = model_cases.images(config, 4), model_cases.noise(config, 4)
    flat = step.gradients(x, _coefficients(), eps=eps)[2]
    return step, list(_pieces(step, flat))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long)
        if name in model_cases.ALIKE
        else name
        for name in model_cases.CONFIGS
    ],
)
def test_gradients_reach_every_variable_of_every_group(name):
    step, gradients = _gradient(name)
    stacked = {
        id(v): layer.stack
        for _, layer in step.model.leaves()
        for v in layer.variables
    }
    assert len(gradients) == len(step.model.trainable_variables)
    for variable, gradient in gradients:
        assert np.isfinite(gradient).all(), variable.path
        members = gradient if stacked.get(id(variable)) else [gradient]
        for member in members:
            assert np.any(member), variable.path


@pytest.mark.parametrize("name", ["plain_vae", "two_flows", "mbconv_den"])
def test_gradient_agrees_with_differences_of_the_loss(name):
    """Along a random direction of all parameters at once."""
    step = _gradient(name)[0]
    config = step.model.config
    x, eps = model_cases.images(config, 4), model_cases.noise(config, 4)
    # The regularisation's iteration lags: its gradient is tested elsewhere.
    without = _coefficients(regularization=0.0)
    gradients = list(_pieces(step, step.gradients(x, without, eps=eps)[2]))
    rng = np.random.default_rng(3)
    directions = [rng.normal(size=g.shape) for _, g in gradients]
    slope = sum(
        np.sum(g * d) for (_, g), d in zip(gradients, directions, strict=True)
    )
    start = [v.numpy() for v, _ in gradients]
    gamma = losses.balance_coefficients(
        losses.kl_sizes(step.model(x, eps=eps, training=True).kl_per_group),
        losses.balance_alphas(config),
    )

    def loss(size):
        for (variable, _), value, direction in zip(
            gradients, start, directions, strict=True
        ):
            variable.assign(value + size * direction)
        out = step.model(x, eps=eps, training=True)
        nll = losses.reconstruction_nll(step.model.likelihood(out.logits), x)
        kl = 0.4 * tf.linalg.matvec(out.kl_per_group, gamma)
        return float(tf.reduce_mean(nll + kl))

    size = 3e-4
    difference = (loss(size) - loss(-size)) / (2 * size)
    loss(0.0)
    assert slope == pytest.approx(difference, rel=0.02)


@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_loss_is_reconstruction_kl_and_regularisation(beta):
    config = model_cases.CONFIGS["mixture"]
    step = _step(config)
    x, eps = model_cases.images(config, 3), model_cases.noise(config, 3)
    out, terms, _, _ = step.gradients(
        x, _coefficients(beta, regularization=0.1), eps=eps
    )
    model = step.model
    params = model.read_params(Mode.TRAINING)
    nll = -model.likelihood(out.logits).log_prob(x)
    kl, gamma = losses.balanced_kl(
        out.kl_per_group, losses.balance_alphas(config), beta
    )
    spectral, norm = step.spectral(params)[0], batch_norm_loss(model, params)
    for actual, expected in (
        (terms.reconstruction_nll, nll),
        (terms.balanced_kl, kl),
        (terms.balance_coefficients, gamma),
        (terms.spectral, spectral),
        (terms.batch_norm, norm),
        (terms.total, np.mean(nll + kl) + 0.1 * (spectral + norm)),
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.long
def test_gradient_of_the_penalties_waits_for_that_of_the_pass():
    """It is as large as all kernels, and would be kept all the while."""
    config = model_cases.CONFIGS["two_flows"]
    step = _step(config)
    graph = step.__call__.get_concrete_function(
        model_cases.images(config), _coefficients(), seed=_SEED
    ).graph
    products = [
        op
        for op in graph.get_operations()
        # Of two rows: a singular vector's with another.
        if op.type == "BatchMatMulV2"
        and op.get_attr("adj_x")
        and op.inputs[0].shape[-2] == op.inputs[1].shape[-2] == 1
    ]
    assert len(products) >= len(step.spectral.groups)
    kernels = [v for v in step.optimizer.parameters if v.name == "v"]
    for op in products:
        # Their seed waits for the gradient to every leaf of the parameters.
        most = max(len(o.control_inputs) for o in _before(op))
        assert most >= len(kernels)


def _before(op):
    """All operations that one waits for."""
    found, ahead = set(), [op]
    while ahead:
        op = ahead.pop()
        if op not in found:
            found.add(op)
            ahead += [*op.control_inputs, *(t.op for t in op.inputs)]
    return found


def test_looking_at_the_gradient_changes_nothing():
    config = model_cases.CONFIGS["two_flows"]
    step = _step(config)
    state = step.named_variables().values()
    before = [v.numpy() for v in state]
    x = model_cases.images(config)
    first = step.gradients(x, _coefficients(), seed=_SEED)
    second = step.gradients(x, _coefficients(), seed=_SEED)
    np.testing.assert_array_equal(first[2], second[2])
    for variable, value in zip(state, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.fixture(scope="module")
def stepped():
    """`(step, output, gradient, before, metrics)` of one step."""
    config = dataclasses.replace(
        model_cases.CONFIGS["plain_vae"], architecture="res_mbconv"
    )
    step = _step(config)
    x = model_cases.images(config)
    state = step.named_variables().values()
    before = {id(v): v.numpy() for v in state}
    output, _, gradient, vectors = step.gradients(
        x, _coefficients(), seed=_SEED
    )
    metrics = step(x, _coefficients(), seed=_SEED)
    return step, output, gradient, before, vectors, metrics


def test_step_moves_every_parameter_and_counts(stepped):
    step, _, gradient, before, vectors, _ = stepped
    assert int(step.scalars["updates"]) == 1
    for variable, g in _pieces(step, gradient):
        old = before[id(variable)]
        g = g + 3e-4 * old
        expected = old - 1e-2 * g / (np.abs(g) + 1e-3)
        np.testing.assert_allclose(variable, expected, rtol=1e-3, atol=1e-4)
    for variable, value in zip(step.spectral.variables, vectors, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-3, atol=1e-4)


def test_step_moves_the_moving_averages_once(stepped):
    step, output, _, before, _, _ = stepped
    count = 0
    for path, layer in step.model.leaves():
        if isinstance(layer, BatchNorm):
            update = output.updates
            for name in path:
                update = update[name]
            for name in ("mean", "variance"):
                variable = getattr(layer, name)
                np.testing.assert_allclose(
                    variable,
                    0.95 * before[id(variable)] + 0.05 * update[name],
                    rtol=1e-3,
                    atol=1e-4,
                )
            count += 1
    assert count > 5


def test_unused_state_of_the_plain_vae_stays(stepped):
    step, _, _, before, _, _ = stepped
    h = step.model.parts["decoder"].prior_h0
    assert not any(v is h for v in step.optimizer.parameters)
    np.testing.assert_array_equal(h, before[id(h)])


def test_reported_bound_is_without_balancing(stepped):
    *_, metrics = stepped
    nll, kl = metrics.reconstruction_nll, metrics.kl
    assert float(metrics.nelbo) == pytest.approx(float(nll + kl), rel=1e-6)
    assert float(kl) == pytest.approx(float(sum(metrics.kl_per_group)))
    np.testing.assert_allclose(
        np.sum(metrics.kl_per_channel, axis=-1),
        metrics.kl_per_group,
        rtol=1e-5,
    )
    assert metrics.gradient_norm > 0


@pytest.mark.long
def test_steps_lower_the_loss():
    config = model_cases.CONFIGS["plain_vae"]
    step = _step(config)
    x, eps = model_cases.images(config, 4), model_cases.noise(config, 4)
    totals = [
        float(step(x, _coefficients(), eps=eps).total_loss) for _ in range(100)
    ]
    assert np.isfinite(totals).all()
    assert totals[-1] < 0.8 * totals[0]


# --- overflows ---------------------------------------------------------------


def _values(step):
    return {k: v.numpy() for k, v in step.named_variables().items()}


def test_step_without_a_finite_gradient_changes_nothing():
    config = model_cases.CONFIGS["plain_vae"]
    step = _step(config)
    x = model_cases.images(config)
    good = step(x, _coefficients(), seed=_SEED)
    before = _values(step)
    x[0, 0, 0] = np.nan
    bad = step(x, _coefficients(), seed=_SEED)
    assert (float(good.skipped), float(bad.skipped)) == (0, 1)
    after = _values(step)
    counters = {
        name: (before.pop(name), after[name])
        for name in list(before)
        if name.endswith(("good_steps", "skipped", "skipped_in_a_row"))
    }
    assert counters == {
        "training/good_steps": (1, 0),
        "training/skipped": (0, 1),
        "training/skipped_in_a_row": (0, 1),
    }
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    again = step(model_cases.images(config), _coefficients(), seed=_SEED)
    assert (int(again.skipped), int(again.skipped_in_a_row)) == (1, 0)
    assert int(step.scalars["updates"]) == 2


def test_loss_is_scaled_in_float16_only():
    config = model_cases.CONFIGS["plain_vae"]
    x, eps = model_cases.images(config), model_cases.noise(config)
    scales, gradients = [], []
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        step = _step(config, dtype=precision)
        scales.append(float(step.scalars["loss_scale"]))
        gradients.append(step.gradients(x, _coefficients(), eps=eps)[2])
    assert scales == [1, 1, 2**10]
    for gradient in gradients[1:]:
        error = np.linalg.norm(gradient - gradients[0])
        assert error < 0.1 * np.linalg.norm(gradients[0])


def test_loss_scale_halves_on_overflow_and_grows_when_all_is_well():
    config = model_cases.CONFIGS["plain_vae"]
    step = _step(config, dtype="mixed_float16")
    x = model_cases.images(config)
    # Scaled by 2^24, a loss of dozens of nats is no float16.
    step.scalars["loss_scale"].assign(2.0**24)
    metrics = step(x, _coefficients(), seed=_SEED)
    assert (float(metrics.skipped), float(metrics.loss_scale)) == (1, 2**24)
    assert float(step.scalars["loss_scale"]) == 2**23
    step.scalars["loss_scale"].assign(2.0**8)
    step.scalars["good_steps"].assign(1998)
    scales = []
    for _ in range(3):
        assert not step(x, _coefficients(), seed=_SEED).skipped_in_a_row
        scales.append(float(step.scalars["loss_scale"]))
    assert scales == [2**8, 2**9, 2**9]


# --- several passes per step -------------------------------------------------


def test_accumulated_passes_are_one_step_with_the_large_batch():
    """Without batch normalisation, which sees each pass apart."""
    config = dataclasses.replace(
        model_cases.CONFIGS["plain_vae"], architecture="res_elu"
    )
    x, eps = model_cases.images(config, 4), model_cases.noise(config, 4)
    large, small = _step(config), _step(config)
    parts = [slice(0, 2), slice(2, 4)]
    # Passes draw their noise from seeds; here it is given.
    noise = {i: [e[part] for e in eps] for i, part in enumerate(parts)}
    forward = small.objective._forward
    small.objective._forward = lambda x, seed, eps, params: forward(
        x, None, [tf.gather(e, seed) for e in stacked], params
    )
    stacked = [tf.stack(e) for e in zip(*noise.values(), strict=True)]
    small.strategy.run(lambda: None)
    expected = large(x, _coefficients(), eps=eps)
    actual = small.accumulated(
        [x[part] for part in parts], _coefficients(), seeds=[0, 1]
    )
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(
            getattr(actual, name), value, rtol=1e-4, atol=1e-6, err_msg=name
        )
    for name, value in _values(large).items():
        np.testing.assert_allclose(
            _values(small)[name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.long
@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_accumulated_passes_move_the_statistics_once(beta):
    config = model_cases.CONFIGS["plain_vae"]
    step = _step(config)
    x = model_cases.images(config, 4)
    before = _values(step)
    step.accumulated(
        [x[:2], x[2:]], _coefficients(beta), seeds=[_SEED, _SEED + 1]
    )
    assert int(step.scalars["updates"]) == 1
    after = _values(step)
    moments = []
    fresh = _step(config)
    for seed, images in ((_SEED, x[:2]), (_SEED + 1, x[2:])):
        for name, variable in fresh.named_variables().items():
            variable.assign(before[name])
        fresh(images, _coefficients(beta), seed=seed)
        moments.append(_values(fresh))
    for name in before:
        if name.endswith(("/mean", "/variance")):
            mean = (moments[0][name] + moments[1][name]) / 2
            np.testing.assert_allclose(after[name], mean, rtol=1e-4, atol=1e-5)
            assert np.any(after[name] != before[name])


# --- exploding steps ---------------------------------------------------------


@pytest.mark.long
def test_step_with_too_long_a_gradient_changes_nothing(stepped):
    config = stepped[0].model.config
    x = model_cases.images(config)
    norm = float(stepped[-1].gradient_norm)
    for limit, skips in ((norm * 1.01, 0), (norm * 0.99, 1)):
        step = _step(config)
        step.max_gradient_norm = limit
        before = _values(step)
        metrics = step(x, _coefficients(), seed=_SEED)
        assert int(metrics.skipped) == skips
        moved = [
            name
            for name, value in _values(step).items()
            if not name.startswith("training/")
            and np.any(value != before[name])
        ]
        assert bool(moved) != bool(skips)
