"""What does not fit is refused in a sentence that tells the way out."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config import ModelConfig
from nvae_tf.core.errors import DataError
from nvae_tf.model.nvae import NVAE
from tests.support import model_cases

_CONFIG = model_cases.CONFIGS["padded"]


@functools.cache
def _model():
    return model_cases.random_model(_CONFIG)


def _x():
    return model_cases.images(_CONFIG)


def _eps():
    return model_cases.noise(_CONFIG)


# --- images ------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(2, 12, 12, 1), (2, 16, 16, 3), (16, 16, 1), (2, 16, 15, 1)]
)
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(DataError) as error:
        _model()(np.zeros(shape, np.float32), eps=_eps())
    message = str(error.value)
    assert str(shape) in message
    assert "[B, 16, 16, 1]" in message
    assert "padded by 2" in message


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_images_of_integers_are_refused(dtype):
    with pytest.raises(DataError, match=f"{np.dtype(dtype)}.*Divide"):
        _model()(_x().astype(dtype), eps=_eps())


@pytest.mark.parametrize(
    ("value", "text"), [(2.0, "2"), (-0.5, "-0.5"), (np.nan, "nan")]
)
def test_images_out_of_range_are_refused(value, text):
    x = _x()
    x[0, 3, 3] = value
    with pytest.raises(DataError, match=f"range from .*{text}.*\\[0, 1\\]"):
        _model()(x, eps=_eps())


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_images_of_other_floats_are_taken(dtype):
    out = _model()(_x().astype(dtype), eps=_eps())
    expected = _model()(_x(), eps=_eps())
    np.testing.assert_allclose(out.logits, expected.logits, atol=1e-5)


def test_traced_images_of_another_shape_are_refused_too():
    run = tf.function(_model().__call__, autograph=False)
    with pytest.raises(DataError, match=r"\[B, 16, 16, 1\]"):
        run(tf.zeros([2, 12, 12, 1]), eps=_eps())


# --- noise, latents, temperatures --------------------------------------------


def test_noise_for_another_number_of_groups_is_refused():
    with pytest.raises(ValueError, match=r"`eps` has 2 tensors.*3 latent"):
        _model()(_x(), eps=_eps()[:2])


def test_noise_of_another_shape_is_refused_with_its_group():
    eps = _eps()
    eps[1] = eps[1][:, :2]
    with pytest.raises(ValueError, match=r"eps\[1\].*\(2, 2, 8, 3\)") as error:
        _model()(_x(), eps=eps)
    assert "[B, 8, 8, 3]" in str(error.value)


def test_latents_of_another_shape_are_refused():
    latents = [z[..., :1] for z in _eps()]
    with pytest.raises(ValueError, match=r"`latents\[0\]`.*\[B, 4, 4, 3\]"):
        _model().decode(latents=latents)


def test_noise_of_another_number_of_images_is_refused():
    eps = [e[:1] for e in _eps()]
    with pytest.raises(ValueError, match="`eps` has 1 rows for 2 images"):
        _model()(_x(), eps=eps)
    with pytest.raises(ValueError, match="`eps` have 1, 2 rows"):
        _model().decode(eps=[eps[0], *_eps()[1:]])


@pytest.mark.parametrize(
    ("name", "value"),
    [("eps", _eps()), ("seed", (1, 2)), ("temperature", 1.0)],
)
def test_latents_take_the_place_of_draws(name, value):
    with pytest.raises(ValueError, match=f"`{name}` is of draws"):
        _model().decode(latents=_eps(), **{name: value})


def test_noise_is_never_drawn_without_a_seed():
    with pytest.raises(ValueError, match="`seed`"):
        _model()(_x())
    with pytest.raises(ValueError, match="`batch_size`"):
        _model().sample_logits(seed=tf.constant([0, 1]))


@pytest.mark.parametrize(
    "shape", [(2,), (1,), (4,), (2, 2), (3, 3), (4, 1), (1, 1, 3)]
)
def test_temperature_of_another_shape_is_refused(shape):
    # Of 3 groups and 2 images.
    with pytest.raises(ValueError, match=r"`temperature`.*\[B, 3\]") as error:
        _model().sample_logits(_eps(), tf.ones(shape))
    assert str(shape) in str(error.value)
    assert "3 latent groups" in str(error.value)


# --- serialisation -----------------------------------------------------------


def test_model_survives_json():
    model = NVAE(_CONFIG, seed=4, unroll=True, name="mine")
    text = json.dumps(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(copy) is NVAE
    assert isinstance(copy.config, ModelConfig)
    assert copy.config == _CONFIG
    assert (copy.seed, copy.unroll, copy.name) == (4, True, "mine")
    assert copy.get_config() == model.get_config()
    # Its seed gives it the same weights.
    for ours, theirs in zip(copy.variables, model.variables, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours, theirs)


def test_precision_survives_json():
    model = NVAE(model_cases.CONFIGS["plain_vae"], dtype="mixed_bfloat16")
    text = json.dumps(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert copy.compute_dtype == "bfloat16"


# --- precision ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("two_flows", "mixed_float16"),
        ("mixture", "mixed_bfloat16"),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                ("two_flows", "mixed_bfloat16"),
                ("mixture", "mixed_float16"),
                ("plain_vae", "mixed_float16"),
                ("plain_vae", "mixed_bfloat16"),
            )
        ),
    ],
)
def test_mixed_precision_keeps_weights_and_results_in_float32(name, precision):
    config = model_cases.CONFIGS[name]
    exact = model_cases.random_model(config)
    model = model_cases.random_model(config, dtype=precision)
    assert {v.dtype for v in model.variables} == {"float32"}
    x, eps = model_cases.images(config), model_cases.noise(config)
    for training in (False, True):
        out = model(x, eps=eps, training=training, with_latents=True)
        for tensor in tf.nest.flatten(out):
            assert tensor.dtype == tf.float32
        expected = exact(x, eps=eps, training=training)
        for ours, theirs in zip(out[:3], expected[:3], strict=True):
            assert tf.norm(ours - theirs) < 0.1 * tf.norm(theirs)
    logits = model.sample_logits(eps)
    assert logits.dtype == tf.float32
    error = tf.norm(logits - exact.sample_logits(eps))
    assert 0 < error < 0.1 * tf.norm(logits)


def test_float32_is_not_rounded_though_tensorflow_begins_with_it():
    switch = tf.config.experimental.enable_tensor_float_32_execution
    switch(True)
    try:
        NVAE(_CONFIG, seed=None)
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        switch(False)


def test_precision_is_that_of_the_block_and_then_the_former():
    model = model_cases.random_model(model_cases.CONFIGS["padded"])
    rounds = tf.config.experimental.tensor_float_32_execution_enabled
    x = model_cases.images(model.config)
    eps = model_cases.noise(model.config)
    before, exact = rounds(), model(x, eps=eps).logits
    with model.computing_in("mixed_bfloat16"):
        assert not rounds()
        rounded = model(x, eps=eps).logits
    with model.computing_in("tf32"):
        assert rounds()
        assert model.compute_dtype == "float32"
    assert rounds() == before
    assert np.any(rounded != exact)
    np.testing.assert_array_equal(model(x, eps=eps).logits, exact)
