"""Initial values: from the seed, and from the first batch of data."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model.layers import Conv2D
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.pure_layer import Mode
from tests.support import model_cases

pytestmark = pytest.mark.numerics

_CONFIG = model_cases.small(
    architecture="res_elu", num_groups_per_scale=3, adaptive_groups=False
)


def _model():
    model = NVAE(_CONFIG)
    model_cases.randomize(model)
    return model


def _inputs():
    x = model_cases.images(_CONFIG, batch=4)
    return {"x": x, "eps": model_cases.noise(_CONFIG, batch=4)}


@pytest.fixture
def outputs(monkeypatch):
    """What the data-dependent convolutions return from now on."""
    seen = []
    call = Conv2D.call

    def watched(self, x, params=None, mode=Mode.INFERENCE):
        y, updates = call(self, x, params, mode)
        if self.data_dependent:
            seen.append(np.asarray(y, np.float64))
        return y, updates

    monkeypatch.setattr(Conv2D, "call", watched)
    return seen


def _assert_standardised(outputs):
    assert outputs
    for y in outputs:
        np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-4)
        deviation = y.std((0, 1, 2), ddof=1)
        np.testing.assert_allclose(deviation, 0.2, rtol=1e-3)


def test_first_batch_standardises_every_convolution_of_the_cells(outputs):
    model = _model()
    count = sum(
        layer.stack or 1
        for _, layer in model.leaves()
        if getattr(layer, "data_dependent", False)
    )
    out = model(**_inputs(), mode=Mode.INITIALIZATION)
    assert len(outputs) == count
    # That pass already uses what it chooses.
    _assert_standardised(outputs)
    outputs.clear()
    model.apply_updates(out.updates)
    after = model(**_inputs(), training=True)
    assert len(outputs) == count
    _assert_standardised(outputs)
    np.testing.assert_allclose(after.logits, out.logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        after.kl_per_group, out.kl_per_group, rtol=1e-3, atol=1e-4
    )


def test_first_batch_changes_gains_and_biases_of_the_cells_alone():
    model = _model()
    chosen = {
        id(variable)
        for _, layer in model.leaves()
        if getattr(layer, "data_dependent", False)
        for variable in (layer.g, layer.bias)
    }
    before = {id(v): v.numpy() for v in model.variables}
    out = model(**_inputs(), mode=Mode.INITIALIZATION)
    for variable in model.variables:
        np.testing.assert_array_equal(variable, before[id(variable)])
    model.apply_updates(out.updates)
    changed = {id(v) for v in model.variables if np.any(v != before[id(v)])}
    assert changed == chosen


def test_looped_graph_chooses_the_same_values():
    model = _model()
    eager = model(**_inputs(), mode=Mode.INITIALIZATION).updates
    graph = tf.function(model.__call__, autograph=False)
    looped = graph(**_inputs(), mode=Mode.INITIALIZATION).updates
    tf.nest.assert_same_structure(looped, eager)
    for a, b in zip(*map(tf.nest.flatten, (looped, eager)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_presets_with_norms_choose_nothing_from_data():
    for architecture in ("res_mbconv", "res_bnelu"):
        model = NVAE(model_cases.small(architecture=architecture))
        assert not any(
            getattr(layer, "data_dependent", False)
            for _, layer in model.leaves()
        )


def test_initial_weights_follow_from_the_seed():
    config = model_cases.CONFIGS["two_flows"]
    first, again, other = NVAE(config, 1), NVAE(config, 1), NVAE(config, 2)
    differ = []
    for a, b, c in zip(
        first.variables, again.variables, other.variables, strict=True
    ):
        np.testing.assert_array_equal(a, b)
        if a.name in ("v", "g", "bias", "kernel", "prior_h0"):
            differ.append(np.any(a != c))
        else:
            np.testing.assert_array_equal(a, c)
    assert all(differ)


def test_no_two_kernels_start_alike():
    model = NVAE(model_cases.CONFIGS["more_cells"])
    firsts = [
        float(member.ravel()[0])
        for _, layer in model.leaves()
        if isinstance(layer, Conv2D)
        for member in np.reshape(layer.v, [layer.stack or 1, -1])
    ]
    assert len(firsts) > 50
    assert len(set(firsts)) == len(firsts)


def test_state_starts_uniform_between_0_and_1():
    config = model_cases.small(num_channels_dec=64)
    h = NVAE(config).parts["decoder"].prior_h0.numpy()
    assert h.shape == (2, 2, 256)
    assert 0 <= h.min() < 0.02
    assert 0.98 < h.max() < 1
    np.testing.assert_allclose(h.mean(), 0.5, atol=0.05)
