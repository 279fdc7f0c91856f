"""Re-adjusted statistics: of the decoder, at a temperature, and finite."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config import ModelConfig
from nvae_tf.core.errors import ConfigError, UserError
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.pure_layer import Mode
from nvae_tf.sampling.readjust import readjust_batch_norm

pytestmark = pytest.mark.long


@pytest.fixture
def model():
    return NVAE(
        ModelConfig(
            image_size=8,
            num_latent_scales=2,
            num_groups_per_scale=1,
            num_latent_per_group=2,
            num_channels_enc=4,
            num_channels_dec=4,
            num_preprocess_cells=1,
            num_postprocess_cells=1,
            num_cells_enc=1,
            num_cells_dec=1,
            num_mixtures=2,
            use_se=False,
        )
    )


def _values(model):
    return {k: v.numpy() for k, v in model.named_variables().items()}


def test_only_the_decoders_statistics_change(model):
    before = _values(model)
    readjust_batch_norm(model, 0.7, steps=3)
    after = _values(model)
    changed = {k for k in before if not np.array_equal(before[k], after[k])}
    expected = {
        k
        for k in before
        if k.endswith(("/mean", "/variance")) and not k.startswith("encoder/")
    }
    assert changed == expected


def test_statistics_settle_on_those_of_the_draws(model):
    readjust_batch_norm(model, 0.5, steps=150, seed=1)
    out = model.decode(
        seed=tf.constant([9, 9]),
        temperature=0.5,
        batch_size=16,
        mode=Mode.TRAINING,
    )
    batch = out.updates["decoder"]["up_1"]["op_0"]["norm_in"]
    norm = model.parts["decoder"].parts["up_1"].parts["op_0"].parts["norm_in"]
    np.testing.assert_allclose(norm.mean, batch["mean"], atol=0.1)
    np.testing.assert_allclose(norm.variance, batch["variance"], rtol=0.5)
    assert not np.allclose(norm.variance, 1.0)


def test_temperature_may_differ_by_group_alone(model):
    values = []
    groups = model.config.num_groups
    for t in (0.7, [0.7] * groups, [0.7] * (groups - 1) + [0.1]):
        copy = NVAE(model.config)
        readjust_batch_norm(copy, t, steps=2)
        values.append(_values(copy))
    for name, value in values[0].items():
        np.testing.assert_allclose(value, values[1][name], atol=1e-6)
    assert any(np.any(v != values[2][k]) for k, v in values[0].items())
    for t in ([0.7], [0.7] * 16, [[0.7]] * 16):
        with pytest.raises(ConfigError, match="temperature has shape"):
            readjust_batch_norm(NVAE(model.config), t, steps=1)


def test_same_seed_gives_the_same_statistics(model):
    values = []
    for _ in range(2):
        copy = NVAE(model.config)
        readjust_batch_norm(copy, 0.7, steps=2, seed=4)
        values.append(_values(copy))
    for name, value in values[0].items():
        np.testing.assert_array_equal(value, values[1][name])


def test_statistics_that_are_not_finite_are_refused(model):
    first = model.parts["decoder"].parts["first"]
    bias = first.parts["decoder_combiner"].parts["conv"].bias
    bias.assign(np.full(bias.shape, np.inf, np.float32))
    before = _values(model)
    with pytest.raises(UserError, match="not finite"):
        readjust_batch_norm(model, 0.7, steps=1)
    for name, value in _values(model).items():
        np.testing.assert_array_equal(value, before[name])
