"""The flow is autoregressive: masks, Jacobians and densities."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model.cells import FlowCell
from nvae_tf.model.latent_group import LatentGroup
from nvae_tf.model.layers import autoregressive_mask
from tests.support import model_cases
from tests.support import numpy_reference as reference

pytestmark = pytest.mark.numerics

_CHANNELS, _SIZE = 3, 3


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _cell(mirrored=False, channels=_CHANNELS, seed=0):
    cell = FlowCell(mirrored)
    cell.build((None, None, None, channels))
    cell.initialize(seed)
    model_cases.randomize(cell, seed)
    return cell


def _jacobian(function, z, mirrored=False):
    """`[N, N]` of outputs by inputs, in the order of the flow."""
    z = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        y = function(z)
    jacobian = tape.jacobian(y, z).numpy()[0, :, :, :, 0]
    if mirrored:  # Pixels the other way round, the channels not.
        jacobian = jacobian[::-1, ::-1, :, ::-1, ::-1]
    count = z.shape.num_elements()
    return jacobian.reshape(count, count)


# --- masks -------------------------------------------------------------------


def _centre(*rows):
    """Rows are inputs, columns outputs."""
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("c_in", "c_out", "strict", "centre"),
    [
        (3, 3, False, _centre([1, 1, 1], [0, 1, 1], [0, 0, 1])),
        (3, 3, True, _centre([0, 1, 1], [0, 0, 1], [0, 0, 0])),
        (2, 4, False, _centre([1, 1, 1, 1], [0, 0, 1, 1])),
        (2, 4, True, _centre([0, 0, 1, 1], [0, 0, 0, 0])),
        (4, 2, False, _centre([1, 1], [1, 1], [0, 1], [0, 1])),
        (4, 2, True, _centre([0, 1], [0, 1], [0, 0], [0, 0])),
        (1, 3, False, _centre([1, 1, 1])),
        (1, 3, True, _centre([0, 0, 0])),
    ],
)
def test_centre_tap_follows_the_channels_order(c_in, c_out, strict, centre):
    for size in (1, 3, 5):
        mask = autoregressive_mask((size, size, c_in, c_out), strict=strict)
        middle = size // 2
        np.testing.assert_array_equal(mask[middle, middle], centre)


def test_taps_before_the_centre_are_open_in_raster_order():
    mask = autoregressive_mask((3, 3, 2, 2), strict=True)
    spatial = mask.all((2, 3))
    np.testing.assert_array_equal(spatial, [[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(
        mask.any((2, 3)), [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    )


def test_depthwise_centre_is_open():
    mask = autoregressive_mask((3, 3, 1, 4), depthwise=True)
    expected = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    for channel in range(4):
        np.testing.assert_array_equal(mask[:, :, 0, channel], expected)


def test_mirrored_mask_turns_around_in_space_only():
    shape = (5, 5, 2, 6)
    mask = autoregressive_mask(shape, strict=True)
    mirrored = autoregressive_mask(shape, strict=True, mirrored=True)
    np.testing.assert_array_equal(mirrored, mask[::-1, ::-1])
    np.testing.assert_array_equal(mirrored[2, 2], mask[2, 2])
    assert not mirrored[:2].any()
    assert mirrored[3:].all()


# --- one cell ----------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
def test_jacobian_is_triangular_with_unit_diagonal(mirrored):
    cell = _cell(mirrored)
    z = _normal(1, _SIZE, _SIZE, _CHANNELS)
    jacobian = _jacobian(lambda z: cell(z)[0], z, mirrored)
    np.testing.assert_array_equal(np.diag(jacobian), np.ones(len(jacobian)))
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_every_earlier_value_in_reach_is_used(mirrored):
    cell = _cell(mirrored)
    z = _normal(1, _SIZE, _SIZE, _CHANNELS)
    jacobian = _jacobian(lambda z: cell(z)[0], z, mirrored)
    # Nearly: the last channels at the end of the row above are out of reach.
    lower = np.abs(jacobian)[np.tril_indices(len(jacobian), -1)] > 0
    assert 0.9 < lower.mean() < 1
    middle = slice(4 * _CHANNELS, 5 * _CHANNELS)
    same_pixel = jacobian[middle, middle]
    assert same_pixel[np.tril_indices(_CHANNELS, -1)].all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_first_value_in_order_moves_by_a_constant(mirrored):
    cell = _cell(mirrored)
    z = _normal(2, _SIZE, _SIZE, _CHANNELS)
    shift = z - cell(z)[0].numpy()
    first = (-1, -1, 0) if mirrored else (0, 0, 0)
    assert shift[0][first] == shift[1][first]
    others = shift[0] == shift[1]
    assert others.sum() == 1


@pytest.mark.parametrize("mirrored", [False, True])
def test_cell_subtracts_its_three_convolutions(mirrored):
    cell = _cell(mirrored)
    z = _normal(2, 4, 4, _CHANNELS)
    hidden = 6 * _CHANNELS

    def convolve(name, x, **mask):
        layer = cell.parts[name]
        v = np.asarray(layer.v)
        v = v * autoregressive_mask(v.shape, mirrored=mirrored, **mask)
        kernel = reference.weight_norm(v, layer.g)
        groups = hidden if name == "spatial" else 1
        y = reference.convolve(x, kernel, groups=groups)
        return y + np.asarray(layer.bias) if layer.use_bias else y

    h = reference.elu(convolve("expand", z, strict=True))
    assert h.shape[-1] == hidden
    h = convolve("spatial", h, depthwise=True)
    h = convolve("project", reference.elu(reference.elu(h)))
    np.testing.assert_allclose(cell(z)[0], z - h, rtol=1e-4, atol=1e-5)
    biased = [p.use_bias for p in cell.parts.values()]
    sizes = [p.kernel_size for p in cell.parts.values()]
    assert (biased, sizes) == ([False, False, True], [3, 5, 1])


def test_last_kernel_starts_ten_times_smaller():
    cell = FlowCell()
    cell.build((None, None, None, 4))
    cell.initialize(0)
    for name, factor in (("expand", 1), ("spatial", 1), ("project", 0.1)):
        kernel = np.asarray(cell.parts[name].read_params()["kernel"])
        v = np.where(kernel == 0, 0, cell.parts[name].v)
        norms = [np.sqrt((t**2).sum((0, 1, 2))) for t in (kernel, v)]
        np.testing.assert_allclose(
            norms[0], factor * (norms[1] + 1e-2), rtol=1e-3, atol=1e-6
        )


# --- groups with flows -------------------------------------------------------


def _group(num_flow_pairs):
    config = model_cases.small(
        num_latent_scales=1,
        num_groups_per_scale=1,
        num_flow_pairs=num_flow_pairs,
    )
    group = LatentGroup(config, 8, 8, is_first=True)
    group.build(())
    group.initialize(0)
    model_cases.randomize(group)
    return group


@pytest.mark.parametrize("num_flow_pairs", [1, 2])
def test_flow_keeps_the_volume(num_flow_pairs):
    group = _group(num_flow_pairs)
    z = _normal(1, _SIZE, _SIZE, 3)
    flow = tf.function(
        lambda z: group._flow(z, group.read_params(), "inference")
    )
    jacobian = _jacobian(flow, z)
    sign, log_volume = np.linalg.slogdet(jacobian.astype(np.float64))
    assert sign == 1
    assert abs(log_volume) < 1e-4
    # Both orders together reach before and after.
    assert np.triu(jacobian, 1).any()
    assert np.tril(jacobian, -1).any()


def test_pairs_take_the_two_orders_in_turn():
    parts = _group(2).parts
    orders = [parts[f"flow_{i}"].mirrored for i in range(4)]
    assert orders == [False, True, False, True]


def _log_normal(x, mean, scale):
    density = -0.5 * ((x - mean) / scale) ** 2 - np.log(scale)
    return density - 0.5 * np.log(2 * np.pi)


@pytest.mark.parametrize("num_flow_pairs", [0, 1])
def test_densities_are_taken_before_and_after_the_flow(num_flow_pairs):
    group = _group(num_flow_pairs)
    features, noise = _normal(2, 4, 4, 8), _normal(2, 4, 4, 3, seed=1)
    _, results, _ = group(noise=noise, features=features, with_latents=True)
    mean, scale, z = (
        np.asarray(results[k], np.float64) for k in ("mean", "scale", "z")
    )
    before = mean + scale * noise
    moved = np.abs(z - before).max()
    assert moved > 0.1 if num_flow_pairs else moved < 1e-5
    log_q, log_p = _log_normal(before, mean, scale), _log_normal(z, 0, 1.01)
    axes = (1, 2, 3)
    np.testing.assert_allclose(results["log_q"], log_q.sum(axes), rtol=1e-5)
    np.testing.assert_allclose(results["log_p"], log_p.sum(axes), rtol=1e-5)
    if num_flow_pairs:
        kl = (log_q - log_p).sum((1, 2))
    else:
        ratio = scale / 1.01
        kl = 0.5 * ((mean / 1.01) ** 2 + ratio**2) - 0.5 - np.log(ratio)
        kl = kl.sum((1, 2))
    np.testing.assert_allclose(results["kl"], kl, rtol=1e-4, atol=1e-4)


def test_flow_leaves_sampling_from_the_prior_alone():
    group = _group(1)
    noise = _normal(2, 4, 4, 3)
    _, results, _ = group(noise=noise, with_latents=True)
    np.testing.assert_allclose(results["z"], 1.01 * noise, rtol=1e-6)
