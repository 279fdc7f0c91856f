"""Models that are told the class of an image."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.core.errors import DataError
from nvae_tf.distribute import replicas
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.pure_layer import Mode
from nvae_tf.model.regularizers import SpectralRegularizer
from tests.support import model_cases

# A plain VAE has no state before its only latent; the others have.
_NAMES = ["plain_vae", "equal_groups", "two_flows"]
_CLASSES = 3


def _config(name, num_classes=_CLASSES):
    return dataclasses.replace(
        model_cases.CONFIGS[name], num_classes=num_classes
    )


@functools.cache
def _model(name="equal_groups"):
    """Shared by tests that change nothing."""
    return model_cases.random_model(_config(name))


def _inputs(name, batch=2):
    config = _config(name)
    return model_cases.images(config, batch), model_cases.noise(config, batch)


@pytest.mark.parametrize("name", _NAMES)
def test_new_model_is_the_unconditional_one_of_its_seed(name):
    x, eps = _inputs(name)
    plain = NVAE(_config(name, 0), seed=5)
    told = NVAE(_config(name), seed=5)
    expected, found = plain(x, eps=eps), told(x, eps=eps, labels=[0, 2])
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.kl_per_group, expected.kl_per_group)
    added = told.named_variables().keys() - plain.named_variables().keys()
    scales = range(_config(name).num_latent_scales)
    assert added == {f"decoder/class_{s}/table" for s in scales}


@pytest.mark.parametrize("name", _NAMES)
def test_a_row_depends_on_its_own_class_alone(name):
    _, eps = _inputs(name)
    model = _model(name)
    first = model.decode(eps=eps, labels=[0, 2]).logits
    second = model.decode(eps=eps, labels=[1, 2]).logits
    assert np.abs(first[0] - second[0]).max() > 1e-3
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("name", ["equal_groups", "two_flows"])
def test_prior_and_posterior_below_the_top_depend_on_the_class(name):
    x, eps = _inputs(name)
    priors, posteriors = [], []
    z = _model(name)(x, eps=eps, labels=[0, 0], with_latents=True).latents.z
    for label in (0, 1):
        labels = [label, label]
        prior = (
            _model(name)
            .decode(latents=z, labels=labels, with_latents=True)
            .latents
        )
        priors.append(prior.mean)
        out = _model(name)(x, eps=eps, labels=labels, with_latents=True)
        posteriors.append(out.latents.mean)
    for kinds in (priors, posteriors):
        np.testing.assert_array_equal(kinds[0][0], kinds[1][0])
        for a, b in zip(kinds[0][1:], kinds[1][1:], strict=True):
            assert np.abs(a - b).max() > 1e-4


def test_every_scale_is_told_the_class():
    name = "equal_groups"
    model = NVAE(_config(name), seed=1)
    _, eps = _inputs(name)
    variables = model.named_variables()
    before = model.decode(eps=eps, labels=[1, 1]).logits
    for s in range(_config(name).num_latent_scales):
        table = variables[f"decoder/class_{s}/table"]
        value = np.zeros(table.shape, np.float32)
        value[1] = 1.0
        table.assign(value)
        after = model.decode(eps=eps, labels=[1, 0]).logits
        table.assign(np.zeros_like(value))
        assert np.abs(after[0] - before[0]).max() > 1e-4
        np.testing.assert_array_equal(after[1], before[1])


def test_gradient_of_a_class_is_that_of_its_images():
    x, eps = _inputs("equal_groups")
    model = _model()
    tables = [
        variable
        for name, variable in model.named_variables().items()
        if "/class_" in name
    ]
    with tf.GradientTape() as tape:
        out = model(x, eps=eps, labels=[0, 2], training=True)
        loss = tf.reduce_sum(out.logits**2) + tf.reduce_sum(out.kl_per_group)
    for gradient in tape.gradient(loss, [t.value for t in tables]):
        assert isinstance(gradient, tf.Tensor)
        rows = np.abs(gradient).max(axis=1)
        assert rows[0] > 0
        assert rows[2] > 0
        assert rows[1] == 0


def test_tables_are_trained_but_their_norms_are_no_penalty():
    plain, told = (
        model_cases.random_model(_config("two_flows", n)) for n in (0, 3)
    )
    for name, variable in plain.named_variables().items():
        variable.assign(told.named_variables()[name])
    more = len(told.trainable_variables) - len(plain.trainable_variables)
    assert more == _config("two_flows").num_latent_scales
    losses = [
        SpectralRegularizer(model)(model.read_params(Mode.TRAINING))[0]
        for model in (plain, told)
    ]
    assert float(losses[0]) == float(losses[1])


@pytest.mark.parametrize(
    ("dtype", "recompute"),
    [
        ("mixed_bfloat16", "cell"),
        pytest.param("float32", "cell", marks=pytest.mark.long),
        pytest.param("float32", "none", marks=pytest.mark.long),
        pytest.param("mixed_bfloat16", "none", marks=pytest.mark.long),
    ],
)
def test_precision_and_recomputation_bear_classes(dtype, recompute):
    name = "two_flows"
    x, eps = _inputs(name)
    expected = _model(name)(x, eps=eps, labels=[0, 2], training=True).logits
    model = NVAE(_config(name), recompute=recompute, dtype=dtype)
    for key, variable in _model(name).named_variables().items():
        model.named_variables()[key].assign(variable)
    found = model(x, eps=eps, labels=[0, 2], training=True).logits
    tolerance = 1e-4 if dtype == "float32" else 0.3
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_unrolled_groups_give_the_same():
    x, eps = _inputs("equal_groups")
    with replicas.assuming(1):
        unrolled = NVAE(_config("equal_groups"), unroll=True)
    for key, variable in _model().named_variables().items():
        unrolled.named_variables()[key].assign(variable)
    np.testing.assert_allclose(
        unrolled(x, eps=eps, labels=[1, 2]).logits,
        _model()(x, eps=eps, labels=[1, 2]).logits,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "told the class of every image.*0 to 2"),
        ([0, 3], "from 0 to 3.*0 to 2"),
        ([-1, 0], "from -1 to 0"),
        ([0.0, 1.0], "must be integers"),
        ([[0, 1]], "must be integers"),
        ([0], "1 labels for 2 images"),
        ([0, 1, 2], "3 labels for 2 images"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, words):
    x, eps = _inputs("equal_groups")
    for call in (_model().decode, functools.partial(_model(), x)):
        with pytest.raises(DataError, match=words):
            call(eps=eps, labels=labels)


def test_unconditional_model_refuses_labels():
    x, eps = _inputs("equal_groups")
    model = model_cases.random_model(_config("equal_groups", 0))
    for call in (model.decode, functools.partial(model, x)):
        with pytest.raises(DataError, match="knows no classes"):
            call(eps=eps, labels=[0, 1])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_gives_no_number_where_a_label_is_no_class(jit_compile):
    _, eps = _inputs("plain_vae", batch=3)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def decode(labels):
        return _model("plain_vae").decode(eps=eps, labels=labels).logits

    found = decode(tf.constant([_CLASSES, 1, -1])).numpy()
    expected = decode(tf.constant([1, 1, 1])).numpy()
    assert np.isnan(found[0]).all()
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[1], expected[1])
