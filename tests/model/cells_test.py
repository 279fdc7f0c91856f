"""Cells and combiners against their definitions in NumPy."""

import numpy as np
import pytest

from nvae_tf.model.cells import DecoderCombiner, EncoderCombiner, ResidualCell
from nvae_tf.model.pure_layer import Mode
from tests.support import numpy_reference as reference
from tests.support.model_cases import randomize

pytestmark = pytest.mark.numerics

_OPERATIONS = [
    "res_bnswish",
    "res_bnswish5",
    "res_bnelu",
    "res_elu",
    "mconv_e6k5g0",
    "mconv_e3k5g0",
    "mconv_e6k11g0",
    "mconv_e3k5g8",
]
_WIDTHS = {"none": 8, "down": 16, "up": 4}


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _built(layer, channels, seed=0):
    layer.build((None, None, None, channels))
    layer.initialize(seed)
    randomize(layer, seed)
    return layer


def _convolve(layer, x, **arguments):
    kernel = np.asarray(layer.v)
    if layer.weight_norm:
        kernel = reference.weight_norm(kernel, layer.g)
    y = reference.convolve(x, kernel, **arguments)
    return y + np.asarray(layer.bias) if layer.use_bias else y


def _batch_norm(layer, x, activation, training):
    gamma, beta = np.asarray(layer.gamma), np.asarray(layer.beta)
    if training:
        return reference.batch_norm(x, gamma, beta, activation)
    mean, variance = np.asarray(layer.mean), np.asarray(layer.variance)
    return reference.moving_batch_norm(
        x, gamma, beta, mean, variance, activation
    )


def _norm_conv(parts, operation, x, resample, training):
    if operation == "res_elu":
        x = reference.elu(x)
    else:
        activation = "elu" if operation == "res_bnelu" else "swish"
        x = _batch_norm(parts["norm"], x, activation, training)
    if resample == "up":
        x = reference.upsample_nearest(x)
    return _convolve(
        parts["conv"],
        x,
        strides=2 if resample == "down" else 1,
        dilation=2 if operation == "res_bnswish5" else 1,
    )


def _inverted_residual(parts, operation, x, resample, training):
    if resample == "up":
        x = reference.upsample_nearest(x)
    expansion = int(operation[7])
    hidden = x.shape[-1] * expansion
    groups = 8 if operation.endswith("g8") else hidden
    strides = 2 if resample == "down" else 1
    x = _batch_norm(parts["norm_in"], x, "linear", training)
    x = _convolve(parts["expand"], x)
    assert x.shape[-1] == hidden
    x = _batch_norm(parts["norm_expand"], x, "swish", training)
    x = _convolve(parts["spatial"], x, strides=strides, groups=groups)
    x = _batch_norm(parts["norm_spatial"], x, "swish", training)
    x = _convolve(parts["project"], x)
    return _batch_norm(parts["norm_out"], x, "linear", training)


def _skip(parts, x, resample):
    if resample == "none":
        return x
    if resample == "up":
        x = reference.upsample_bilinear(x)
        return _convolve(parts["skip"].parts["conv"], x)
    x = reference.swish(x)
    shifts = [(0, 0), (1, 1), (0, 1), (1, 0)]
    return np.concatenate(
        [
            _convolve(part, x[:, row:, column:][:, ::2, ::2])
            for part, (row, column) in zip(
                parts["skip"].parts.values(), shifts, strict=True
            )
        ],
        axis=-1,
    )


def _cell(cell, x, operations, resample, *, training, use_se):
    x = x.astype(np.float64)
    skip = _skip(cell.parts, x, resample)
    for i, operation in enumerate(operations):
        inverted = operation.startswith("mconv")
        define = _inverted_residual if inverted else _norm_conv
        parts = cell.parts[f"op_{i}"].parts
        x = define(parts, operation, x, resample, training)
        resample = "none"
    if use_se:
        se = cell.parts["se"].parts
        x = x * reference.squeeze_excite(
            x,
            *(
                np.asarray(v)
                for v in (se["squeeze"].kernel, se["squeeze"].bias)
            ),
            *(np.asarray(v) for v in (se["excite"].kernel, se["excite"].bias)),
        )
    return skip + 0.1 * x


@pytest.mark.parametrize("mode", [Mode.TRAINING, Mode.INFERENCE])
@pytest.mark.parametrize("resample", _WIDTHS)
@pytest.mark.parametrize("operation", _OPERATIONS)
def test_cell_follows_its_definition(operation, resample, mode):
    filters = _WIDTHS[resample]
    # The second operation is on the output's width, without resampling.
    operations = (operation, "res_bnswish")
    cell = _built(ResidualCell(operations, filters, resample), 8)
    x = _normal(2, 6, 6, 8)
    y, _ = cell(x, mode=mode)
    expected = _cell(
        cell,
        x,
        operations,
        resample,
        training=mode == Mode.TRAINING,
        use_se=True,
    )
    assert y.shape == expected.shape
    assert y.shape[-1] == filters
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("use_se", [True, False])
def test_squeeze_and_excitation_is_optional(use_se):
    operations = ("res_bnswish", "res_bnswish")
    cell = _built(ResidualCell(operations, 8, use_se=use_se), 8)
    assert ("se" in cell.parts) == use_se
    x = _normal(2, 4, 4, 8)
    expected = _cell(cell, x, operations, "none", training=False, use_se=use_se)
    y, _ = cell(x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("filters", "widths"), [(8, [2, 2, 2, 2]), (6, [1, 1, 1, 3])]
)
def test_last_phase_of_a_down_skip_takes_the_rest(filters, widths):
    cell = _built(ResidualCell(["res_elu"], filters, "down"), 4)
    parts = cell.parts["skip"].parts.values()
    assert [part.filters for part in parts] == widths
    assert cell(_normal(1, 4, 4, 4))[0].shape == (1, 2, 2, filters)


def test_inverted_residual_has_neither_biases_nor_weight_norm():
    cell = _built(ResidualCell(["mconv_e6k5g0"], 8, use_se=False), 8)
    names = {v.name for v in cell.variables}
    assert names == {"v", "gamma", "beta", "mean", "variance"}


def test_up_skip_has_no_bias_and_down_skips_have_one():
    up = _built(ResidualCell(["res_elu"], 4, "up"), 8)
    assert [v.name for v in up.parts["skip"].variables] == ["v", "g"]
    down = _built(ResidualCell(["res_elu"], 16, "down"), 8)
    assert [v.name for v in down.parts["skip"].variables] == [
        "v",
        "g",
        "bias",
    ] * 4


def test_every_norm_of_a_cell_reports_its_moments_once():
    cell = _built(ResidualCell(["mconv_e6k5g0"], 4, "up"), 8)
    x = _normal(2, 3, 3, 8)
    _, updates = cell(x, mode=Mode.TRAINING)
    assert set(updates) == {"op_0"}
    norms = {"norm_in", "norm_expand", "norm_spatial", "norm_out"}
    assert set(updates["op_0"]) == norms
    up = reference.upsample_nearest(x.astype(np.float64))
    np.testing.assert_allclose(
        updates["op_0"]["norm_in"]["variance"],
        up.var((0, 1, 2), ddof=1),
        rtol=1e-4,
    )
    before = cell.parts["op_0"].parts["norm_in"].mean.numpy()
    cell.apply_updates(updates)
    np.testing.assert_allclose(
        cell.parts["op_0"].parts["norm_in"].mean,
        0.95 * before + 0.05 * up.mean((0, 1, 2)),
        rtol=1e-4,
        atol=1e-6,
    )


def test_encoder_combiner_adds_the_state_to_the_features():
    combiner = _built(EncoderCombiner(6), 4)
    h, features = _normal(2, 3, 3, 4), _normal(2, 3, 3, 6, seed=1)
    expected = features + _convolve(combiner.parts["conv"], h)
    np.testing.assert_allclose(combiner(h, features), expected, rtol=1e-4)


def test_decoder_combiner_puts_the_state_before_the_latent():
    combiner = _built(DecoderCombiner(4), 7)
    h, z = _normal(2, 3, 3, 4), _normal(2, 3, 3, 3, seed=1)
    expected = _convolve(combiner.parts["conv"], np.concatenate([h, z], -1))
    np.testing.assert_allclose(combiner(z, h=h), expected, rtol=1e-4, atol=1e-5)


def test_decoder_combiner_of_the_plain_vae_has_the_latent_alone():
    combiner = _built(DecoderCombiner(4), 3)
    z = _normal(2, 3, 3, 3)
    np.testing.assert_allclose(
        combiner(z), _convolve(combiner.parts["conv"], z), rtol=1e-4, atol=1e-5
    )
