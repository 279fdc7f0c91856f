"""Which classes are drawn and looked at, and that the model is told them."""

import functools

import numpy as np
import pytest

from nvae_tf.core.errors import ConfigError, UserError
from nvae_tf.sampling import exploration
from nvae_tf.sampling.classes import as_labels, cycled, in_turn
from nvae_tf.sampling.illustrator import Illustrator
from nvae_tf.sampling.inference import Inference
from nvae_tf.sampling.readjust import readjust_batch_norm
from tests.support import model_cases

_CONFIG = model_cases.small(num_classes=3, num_groups_per_scale=1)
_PLAIN = model_cases.small(num_groups_per_scale=1)


@functools.cache
def _model(config=_CONFIG):
    return model_cases.random_model(config)


@functools.cache
def _illustrator(config=_CONFIG):
    return Illustrator(_model(config))


def test_a_label_is_for_all_images_or_for_each():
    assert as_labels(2, _CONFIG, 3).tolist() == [2, 2, 2]
    assert as_labels([2, 0, 1], _CONFIG, 3).tolist() == [2, 0, 1]
    assert as_labels(np.uint8(1), _CONFIG, 2).dtype == np.int32
    assert as_labels(None, _PLAIN, 3) is None


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "give labels from 0 to 2"),
        (3, "no class 3; the model knows 0 to 2"),
        ([0, 1, -1], "no class -1"),
        ([0, 1], r"shape \[2\]"),
        (1.5, "must be integers"),
        ([[0], [1, 2]], "must be integers"),
        ("7", "must be integers"),
        (True, "must be integers"),
    ],
)
def test_other_labels_are_refused(labels, words):
    with pytest.raises(ConfigError, match=words):
        as_labels(labels, _CONFIG, 3)


def test_unconditional_models_refuse_labels():
    with pytest.raises(UserError, match="knows no classes"):
        as_labels(1, _PLAIN, 3, UserError)
    with pytest.raises(UserError, match="knows no classes"):
        _illustrator(_PLAIN).draw_seeds([0, 1], 0.7, labels=[0, 1])


def test_classes_take_turns():
    assert in_turn(_CONFIG, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert in_turn(_CONFIG, 3, first=4).tolist() == [1, 2, 0]
    assert in_turn(_PLAIN, 7) is None
    assert cycled([2, 0], 3).tolist() == [2, 0, 2]


def test_an_image_depends_on_seed_and_class_alone():
    draw = functools.partial(
        _illustrator().draw_seeds, temperature=0.7, pixels="mean"
    )
    whole = draw([5, 6, 7], labels=[1, 0, 1])
    np.testing.assert_array_equal(draw([7, 5], labels=[1, 1]), whole[[2, 0]])
    assert (draw([5, 6, 7], labels=1)[1] != whole[1]).any()


def test_by_default_all_classes_are_drawn_in_turn():
    batches = _illustrator().draw(7, 0.7, seed=4, batch_size=3)
    expected = _illustrator().draw_seeds(
        4 + np.arange(7), 0.7, labels=in_turn(_CONFIG, 7)
    )
    np.testing.assert_array_equal(np.concatenate([*batches]), expected)
    given = _illustrator().draw(2, 0.7, seed=4, batch_size=5, labels=[0, 1])
    np.testing.assert_array_equal(np.concatenate([*given]), expected[:2])


def test_noise_of_images_brings_them_back_under_their_class():
    x = model_cases.images(_CONFIG, 3)
    inference = Inference(_model())
    labels = [2, 0, 1]
    code = inference(x, [0, 1, 2], labels=labels)
    shown = _illustrator().from_noise(code.eps, labels=labels)
    expected = _illustrator().from_logits(code.logits)
    assert np.abs(shown.astype(int) - expected).max() <= 1
    same = _illustrator().from_latents(code.z, labels)
    assert np.abs(same.astype(int) - expected).max() <= 1
    pairs = _illustrator().reconstruct(x, labels=labels)
    assert np.abs(pairs[:, 1].astype(int) - expected).max() <= 1


def test_bounds_are_those_under_the_images_class():
    x = model_cases.images(_CONFIG, 3)
    inference = Inference(_model())
    first = inference.bounds(x, [0, 1, 2], 2, [2, 0, 1])
    second = inference.bounds(x, [0, 1, 2], 2, [2, 0, 0])
    np.testing.assert_allclose(first[:2], second[:2], rtol=1e-6)
    assert abs(first[2] - second[2]) > 1e-3
    with pytest.raises(ConfigError, match="class of every image"):
        inference.bounds(x, [0, 1, 2])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (2, [0, 2, 2, 1]),
        (3, [0, 0, 2, 2, 2, 1]),
        (4, [0, 0, 2, 2, 2, 2, 1, 1]),
    ],
)
def test_frames_have_the_class_of_the_nearer_station(steps, expected):
    labels = np.array([0, 2, 1])
    found = exploration.labels_between(labels, steps)
    assert found.tolist() == expected
    assert exploration.labels_between(None, steps) is None


@pytest.mark.long
def test_statistics_settle_on_draws_of_all_classes():
    model = model_cases.random_model(_CONFIG)
    untold = model_cases.random_model(_CONFIG)
    for name, variable in untold.named_variables().items():
        if name.endswith("/table"):
            value = np.asarray(variable)
            variable.assign(np.broadcast_to(value[:1], value.shape))
    for each in (model, untold):
        readjust_batch_norm(each, 0.7, steps=3, batch_size=4)
    moved = [
        np.abs(np.asarray(a) - np.asarray(b)).max()
        for (name, a), b in zip(
            model.named_variables().items(),
            untold.named_variables().values(),
            strict=True,
        )
        if name.startswith("decoder") and name.endswith("/mean")
    ]
    assert max(moved) > 1e-4
