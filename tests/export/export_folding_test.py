"""Folding batch normalisation: the same numbers from fewer operations."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config import ARCHITECTURES
from nvae_tf.export.folding import fold_batch_norm, is_neutral
from nvae_tf.model.cells import ResidualCell
from tests.support.model_cases import (
    CONFIGS,
    images,
    noise,
    random_model,
    randomize,
)

OPERATIONS = sorted(
    {ops for preset in ARCHITECTURES.values() for ops in preset.values()}
)


def _norms(params, path=""):
    for name, value in params.items():
        if isinstance(value, dict):
            yield from _norms(value, f"{path}/{name}")
    if "scale" in params:
        yield path, params


@pytest.mark.parametrize("resample", ["none", "down", "up"])
@pytest.mark.parametrize("operations", OPERATIONS)
def test_folded_cell_computes_the_same(operations, resample):
    channels = 8
    filters = {"none": 8, "down": 16, "up": 4}[resample]
    if any("g8" in op for op in operations):
        filters = {"none": 8, "down": 16, "up": 8}[resample]
    cell = ResidualCell(operations, filters, resample)
    cell.build((None, None, None, channels))
    cell.initialize(0)
    randomize(cell)
    x = tf.random.stateless_normal([2, 8, 8, channels], [1, 2])
    folded = fold_batch_norm(cell, cell.read_params())
    np.testing.assert_allclose(
        cell(x, folded)[0], cell(x)[0], rtol=1e-4, atol=1e-5
    )


def test_stacked_cells_fold_slice_by_slice():
    cell = ResidualCell(("mconv_e6k5g0",), 4, stack=3)
    cell.build((None, None, None, 4))
    cell.initialize(0)
    randomize(cell)
    params = cell.read_params()
    folded = fold_batch_norm(cell, params)
    x = tf.random.stateless_normal([2, 4, 4, 4], [1, 2])
    for i in range(3):
        one, other = (
            tf.nest.map_structure(lambda t, i=i: t[i], nest)
            for nest in (params, folded)
        )
        np.testing.assert_allclose(
            cell(x, other)[0], cell(x, one)[0], rtol=1e-4, atol=1e-5
        )


def test_only_normalisation_of_the_cell_input_keeps_a_scale():
    model = random_model(CONFIGS["more_cells"])
    folded = fold_batch_norm(model, model.read_params())
    kept = {
        path.rpartition("/")[2] + "@" + path.split("/")[-2]
        for path, norm in _norms(folded)
        if not is_neutral("scale", norm["scale"])
    }
    assert kept == {"norm@op_0"}


@pytest.mark.parametrize("name", ["tiny_flows", "mbconv_sep", "no_se"])
def test_folded_model_computes_the_same(name):
    config = CONFIGS["two_flows" if name == "tiny_flows" else name]
    model = random_model(config)
    x, eps = images(config), noise(config)
    expected = model(x, eps=eps)
    folded = fold_batch_norm(model, model.read_params())
    actual = model(x, eps=eps, params=folded)
    np.testing.assert_allclose(actual.logits, expected.logits, atol=1e-5)
    np.testing.assert_allclose(
        actual.kl_per_group, expected.kl_per_group, rtol=1e-5
    )


def test_parameters_given_stay_as_they_are():
    model = random_model(CONFIGS["plain_vae"])
    params = model.read_params()
    before = tf.nest.map_structure(np.array, params)
    fold_batch_norm(model, params)
    tf.nest.map_structure(np.testing.assert_array_equal, params, before)
