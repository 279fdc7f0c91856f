"""Spectral and batch-norm regularisation against singular values."""

import math

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model.cells import FlowCell, ResidualCell
from nvae_tf.model.layers import (
    BatchNorm,
    Conv2D,
    SqueezeExcite,
    autoregressive_mask,
)
from nvae_tf.model.pure_layer import Mode, PureLayer
from nvae_tf.model.regularizers import SpectralRegularizer, batch_norm_loss
from tests.support import numpy_reference
from tests.support.model_cases import randomize

pytestmark = pytest.mark.numerics


class _Box(PureLayer):
    """Some layers side by side."""

    def __init__(self, *parts, stack=None, **kwargs):
        super().__init__(stack=stack, **kwargs)
        self.parts = {f"part_{i}": part for i, part in enumerate(parts)}

    def build(self, input_shape):
        for part in self.parts.values():
            part.build(input_shape)
        self.built = True


def _box(*parts, channels=4, seed=0):
    box = _Box(*parts)
    box.build((None, None, None, channels))
    box.initialize(seed)
    randomize(box, seed)
    return box


def _mixed_box():
    """Stacked and single, masked, depthwise, with weight norm and without."""
    return _box(
        ResidualCell(["mconv_e3k5g0", "res_bnswish"], 4, stack=2),
        ResidualCell(["res_elu"], 8, "down"),
        FlowCell(),
        FlowCell(mirrored=True, stack=2),
        Conv2D(6, 3),
    )


def _values(box):
    return {v.path: v.numpy().astype(np.float64) for v in box.variables}


def _kernels(box, values=None):
    """Every normalised kernel as a matrix [C_out, fan_in], in float64."""
    values = values or _values(box)
    for _, layer in box.leaves():
        if not isinstance(layer, Conv2D):
            continue
        for i in range(layer.stack) if layer.stack else [()]:
            kernel = values[layer.v.path][i]
            if layer.mask:
                kernel = kernel * autoregressive_mask(
                    kernel.shape,
                    depthwise=layer.groups > 1,
                    strict=layer.mask == "strictly_causal",
                    mirrored=layer.mirrored,
                )
            if layer.weight_norm:
                gain = values[layer.g.path][i]
                kernel = numpy_reference.weight_norm(kernel, gain)
            yield kernel.reshape(-1, kernel.shape[-1]).T


def _true_loss(box, values=None):
    return sum(
        np.linalg.svd(kernel, compute_uv=False)[0]
        for kernel in _kernels(box, values)
    )


def _l2norm(t):
    return t / max(np.linalg.norm(t), 1e-3)


def test_every_kernel_has_a_vector_by_its_shape():
    box = _mixed_box()
    spectral = SpectralRegularizer(box)
    counts = {shape: g.u.shape[0] for shape, g in spectral.groups.items()}
    expected = {}
    for kernel in _kernels(box):
        expected[kernel.shape] = expected.get(kernel.shape, 0) + 1
    assert counts == expected
    # 12 depthwise kernels of 5x5 each, twice; the flows' three are 24 wide.
    assert counts[12, 25] == 2
    assert counts[24, 25] == 3
    assert [v.shape[0] for v in spectral.variables] == list(counts.values())


def test_dense_layers_are_not_regularised():
    assert SpectralRegularizer(_box(SqueezeExcite())).groups == {}


def test_first_vectors_are_normalised_and_follow_from_the_seed():
    box = _mixed_box()
    first, again, other = (SpectralRegularizer(box, s) for s in (0, 0, 1))
    for a, b, c in zip(
        first.variables, again.variables, other.variables, strict=True
    ):
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(a, b)
        assert (a.numpy() != c.numpy()).any()
        assert len(np.unique(a.numpy(), axis=0)) == a.shape[0]
    # Nor do vectors of two shapes start alike.
    ratios = [float(v[0, 0] / v[0, 1]) for v in first.variables]
    assert len(set(np.round(ratios, 4))) == len(ratios)


def test_sigma_converges_to_the_largest_singular_value():
    box = _mixed_box()
    spectral = SpectralRegularizer(box)
    params = box.read_params(Mode.TRAINING)
    spectral.warm_up(params, 400)
    loss, _ = spectral(params)
    assert float(loss) == pytest.approx(_true_loss(box), rel=1e-4)


@pytest.mark.parametrize("rounds", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_rounds_follow_their_definition(rounds, scale):
    """Also where the norms fall below their floor of 1e-3."""
    box = _box(Conv2D(5, 3, weight_norm=False), channels=2)
    layer = box.parts["part_0"]
    layer.v.assign(scale * layer.v)
    (kernel,) = _kernels(box)
    spectral = SpectralRegularizer(box)
    u = spectral.variables[0].numpy()[0].astype(np.float64)
    for _ in range(rounds):
        v = _l2norm(u @ kernel)
        u = _l2norm(kernel @ v)
    loss, vectors = spectral(box.read_params(), rounds)
    np.testing.assert_allclose(vectors[0][0], u, rtol=1e-4)
    np.testing.assert_allclose(loss, u @ kernel @ v, rtol=1e-4)


def test_step_takes_four_rounds():
    box = _box(Conv2D(5, 3), channels=2)
    spectral, params = SpectralRegularizer(box), box.read_params()
    assert spectral(params)[0] == spectral(params, 4)[0]
    assert spectral(params)[0] != spectral(params, 3)[0]


def test_warm_up_takes_the_same_rounds_as_a_step():
    box = _mixed_box()
    params = box.read_params(Mode.TRAINING)
    warmed, stepped = SpectralRegularizer(box), SpectralRegularizer(box)
    warmed.warm_up(params, 36)
    loss, vectors = warmed(params, 4)
    expected_loss, expected = stepped(params, 40)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for actual, vector in zip(vectors, expected, strict=True):
        np.testing.assert_allclose(actual, vector, rtol=1e-3, atol=1e-4)


def test_vectors_are_kept_between_steps_when_stored():
    box = _mixed_box()
    params = box.read_params(Mode.TRAINING)
    spectral, whole = SpectralRegularizer(box), SpectralRegularizer(box)
    first, vectors = spectral(params, 2)
    assert spectral(params, 2)[0] == first
    spectral.store(vectors)
    second, _ = spectral(params, 2)
    np.testing.assert_allclose(second, whole(params, 4)[0], rtol=1e-6)
    assert float(second) > float(first)


def test_gradient_is_that_of_the_singular_values():
    """Against differences of exact singular values, in float64."""
    box = _mixed_box()
    spectral = SpectralRegularizer(box)
    spectral.warm_up(box.read_params(Mode.TRAINING), 1000)
    variables = [v for v in box.trainable_variables if v.name in ("v", "g")]
    with tf.GradientTape() as tape:
        loss, _ = spectral(box.read_params(Mode.TRAINING))
    gradients = tape.gradient(loss, [v.value for v in variables])
    values = _values(box)
    rng = np.random.default_rng(0)
    for variable, gradient in zip(variables, gradients, strict=True):
        direction = rng.normal(size=variable.shape)
        ends = [
            _true_loss(
                box,
                values
                | {variable.path: values[variable.path] + step * direction},
            )
            for step in (1e-6, -1e-6)
        ]
        slope = (ends[0] - ends[1]) / 2e-6
        assert np.sum(gradient * direction) == pytest.approx(
            slope, rel=1e-2, abs=1e-3
        ), variable.path


def test_no_gradient_flows_through_the_iteration():
    box = _box(Conv2D(5, 3, weight_norm=False, use_bias=False), channels=2)
    (variable,) = box.trainable_variables
    spectral = SpectralRegularizer(box)
    (kernel,) = _kernels(box)
    u = spectral.variables[0].numpy()[0]
    with tf.GradientTape() as tape:
        loss, _ = spectral(box.read_params(), 1)
    gradient = tape.gradient(loss, variable.value).numpy().reshape(-1, 5).T
    v = _l2norm(u @ kernel)
    expected = np.outer(_l2norm(kernel @ v), v)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_zero_kernel_costs_nothing_and_gives_finite_gradients():
    box = _box(Conv2D(4, 3, weight_norm=False))
    variable = box.parts["part_0"].v
    variable.assign(tf.zeros(variable.shape))
    with tf.GradientTape() as tape:
        loss, _ = SpectralRegularizer(box)(box.read_params())
    assert loss == 0
    assert np.isfinite(tape.gradient(loss, variable.value)).all()


def test_batch_norm_loss_sums_the_largest_gammas():
    box = _box(BatchNorm(), BatchNorm("swish", stack=2), Conv2D(3))
    one, two, _ = box.parts.values()
    one.gamma.assign([0.5, -2.0, 1.0, 0.0])
    two.gamma.assign([[0.1, 0.2, 0.3, -0.4], [5.0, -1.0, 0.0, 2.0]])
    with tf.GradientTape() as tape:
        loss = batch_norm_loss(box, box.read_params(Mode.TRAINING))
    assert float(loss) == pytest.approx(2.0 + 0.4 + 5.0)
    gradients = tape.gradient(loss, [one.gamma.value, two.gamma.value])
    np.testing.assert_array_equal(gradients[0], [0, -1, 0, 0])
    np.testing.assert_array_equal(gradients[1], [[0, 0, 0, -1], [1, 0, 0, 0]])


def test_batch_norm_loss_counts_layers_of_every_width():
    box = _box(ResidualCell(["res_bnswish", "mconv_e3k5g0"], 8, "down"))
    gammas = [v for v in box.trainable_variables if v.name == "gamma"]
    assert {math.prod(v.shape) for v in gammas} == {4, 8, 24}
    assert len(gammas) == 5
    loss = batch_norm_loss(box, box.read_params(Mode.TRAINING))
    expected = sum(np.abs(v).max() for v in gammas)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_model_without_norms_has_no_batch_norm_loss():
    box = _box(Conv2D(3))
    assert float(batch_norm_loss(box, box.read_params(Mode.TRAINING))) == 0
