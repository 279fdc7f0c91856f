"""The diagnosis names what was made to fail."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config.schedules import Coefficients
from nvae_tf.distribute.devices import open_devices
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.training import attempts, diagnosis
from nvae_tf.training.diagnosis import diagnose
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep
from tests.support import model_cases

_COEFFICIENTS = Coefficients(0.5, 0.01, 0.01)
_SEED = (0, 3)


@pytest.fixture(scope="module")
def train_step():
    return _train_step()


def _train_step():
    """Groups 0 to 2 at 2x2, 3 to 5 at 4x4 pixels."""
    config = model_cases.small(
        num_groups_per_scale=3,
        adaptive_groups=False,
        architecture="res_mbconv",
    )
    model = model_cases.random_model(config)
    return TrainStep(
        model,
        Adamax(model.trainable_variables),
        SpectralRegularizer(model),
    )


@pytest.fixture
def changed(train_step):
    """Changes state for one test: `changed(name, change)`."""
    variables = train_step.named_variables()
    before = {}

    def change(name, function):
        variable = variables[name]
        before.setdefault(name, np.asarray(variable).copy())
        value = np.asarray(variable).copy()
        function(value)
        variable.assign(value)

    yield change
    for name, value in before.items():
        variables[name].assign(value)


@pytest.fixture
def images(train_step):
    return model_cases.images(train_step.model.config, 3)


def _diagnose(train_step, images):
    return diagnose(train_step, images, _COEFFICIENTS, _SEED)


def _put(index, value):
    def change(array):
        array[index] = value

    return change


@pytest.mark.long
def test_nothing_is_found_where_all_is_finite(train_step, images):
    before = [
        np.asarray(v).copy() for v in train_step.named_variables().values()
    ]
    found = _diagnose(train_step, images)
    assert (found.variables, found.images, found.layer) == ((), "", None)
    assert (found.group, found.loss_terms, found.gradients) == (None, (), ())
    assert found.gradient_norm > 0
    assert not found.found
    assert "all is finite" in str(found)
    for old, new in zip(
        before, train_step.named_variables().values(), strict=True
    ):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("name", "index", "group"),
    [
        ("decoder/first/posterior", None, 0),
        ("decoder/scale_0/prior", 1, 2),
        ("decoder/scale_1/posterior", 1, 4),
    ],
)
def test_nan_in_a_weight_of_a_group(
    train_step, changed, images, name, index, group
):
    changed(
        f"model/{name}/bias", _put((..., 0) if index is None else index, np.nan)
    )
    found = _diagnose(train_step, images)
    assert found.found
    assert found.variables == (f"model/{name}/bias",)
    assert found.layer.name == f"model/{name}"
    assert (found.layer.index, found.layer.group) == (index, group)
    assert found.layer.input_finite
    assert not found.layer.params_finite
    assert found.group == group
    assert found.loss_terms[0] == "reconstruction_nll"
    assert {"balanced_kl", "total"} <= {*found.loss_terms}
    text = str(found)
    assert f"first group whose KL is not finite: {group}." in text.replace(
        ";", "."
    )
    assert f"model/{name}" in text
    assert "own parameters" in text


@pytest.mark.parametrize(
    ("name", "index", "group"),
    # The encoder counts from the finest scale, bottom-up.
    [("scale_0", 0, 5), ("scale_0", 2, 3), ("scale_1", 2, 0)],
)
def test_encoder_cells_are_told_by_the_group_that_they_feed(
    train_step, changed, images, name, index, group
):
    path = f"model/encoder/{name}/cell_0/op_1/conv"
    changed(f"{path}/bias", _put(index, np.inf))
    found = _diagnose(train_step, images)
    assert found.layer.name == path
    assert (found.layer.index, found.layer.group) == (index, group)
    # Features reach only their own group and those of coarser scales.
    assert found.group is not None


def test_infinity_in_the_data(train_step, images):
    images[1, 2, 3] = np.inf
    found = _diagnose(train_step, images)
    assert "row 1" in found.images
    assert "images hold values that are not finite" in str(found)
    images[1, 2, 3] = 7.0
    assert "range from 0 to 7" in str(_diagnose(train_step, images))


@pytest.mark.long
def test_moments_are_told_by_their_weights(train_step, changed, images):
    changed("optimizer/u", _put(0, np.nan))
    found = _diagnose(train_step, images)
    (name,) = found.variables
    assert name.startswith("optimizer/u of model/")
    assert found.layer is None
    assert found.gradient_norm > 0


def test_activations_that_explode_inside_a_cell(train_step, changed, images):
    path = "model/decoder/scale_1/cells/cell_0/op_0/norm_out"

    def explode(value):
        value[2] = 3e38

    changed(f"{path}/gamma", explode)
    found = _diagnose(train_step, images)
    assert found.variables == ()
    assert found.layer.name == path
    assert (found.layer.index, found.layer.group) == (2, 5)
    assert found.layer.params_finite
    assert found.layer.input_finite


def test_kl_that_overflows_between_the_layers(train_step, images, monkeypatch):
    group = train_step.model.parts["decoder"].parts["scale_0"]
    original = group._divergence
    calls = []

    def overflowing(*args):
        results = original(*args)
        calls.append(args)
        if len(calls) == 2:
            results["kl"] *= np.float32(np.inf)
        return results

    monkeypatch.setattr(group, "_divergence", overflowing)
    found = _diagnose(train_step, images)
    assert found.group == found.layer.group == 2
    assert found.layer.name == "model/decoder/scale_0"
    assert found.layer.input_finite
    assert found.loss_terms == ("balanced_kl", "total")


@pytest.mark.parametrize("term", ["spectral", "batch_norm"])
def test_overflow_of_one_loss_term(train_step, images, monkeypatch, term):
    original = train_step.objective.penalties

    def overflowing(params):
        values = list(original(params))
        values[0 if term == "spectral" else 1] += tf.exp(1000.0)
        return tuple(values)

    monkeypatch.setattr(train_step.objective, "penalties", overflowing)
    found = _diagnose(train_step, images)
    assert found.layer is None
    assert found.group is None
    assert found.loss_terms == (term, "total")
    assert f"loss terms that are not finite: {term}, total" in str(found)


@pytest.mark.long
def test_gradient_that_is_not_finite_though_the_loss_is(images, monkeypatch):
    train_step = _train_step()  # Its graph is of the loss that follows.
    original = train_step.objective.penalties

    def steep(params, after=None):
        spectral, *others = original(params, after)
        # sqrt has an infinite slope at 0.
        bias = params["image"]["head"]["bias"]
        term = tf.reduce_sum(tf.sqrt(bias - tf.stop_gradient(bias)))
        return spectral + term, *others

    monkeypatch.setattr(train_step.objective, "penalties", steep)
    found = _diagnose(train_step, images)
    assert found.loss_terms == ()
    assert found.gradients == ("model/image/head/bias",)
    assert not np.isfinite(found.gradient_norm)
    assert "first in the backward pass at model/image/head/bias" in str(found)


def test_gradient_is_left_out_where_the_pass_tells_enough(
    train_step, changed, images, monkeypatch
):
    """It takes more memory than the pass, and the run needs what is left."""
    changed("model/decoder/first/posterior/bias", _put(0, np.nan))
    monkeypatch.setattr(train_step, "gradient", None)
    assert _diagnose(train_step, images).layer.group == 0


@pytest.mark.parametrize("part", ["terms", "gradient"])
def test_want_of_memory_is_a_diagnosis_too(
    train_step, images, monkeypatch, part
):
    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(
            None, None, "OOM when allocating tensor" + "\n at some op" * 1000
        )

    owner = train_step.objective if part == "terms" else train_step
    monkeypatch.setattr(owner, part, fail)
    devices = open_devices()
    attempt = attempts.Attempt([images], _COEFFICIENTS, [_SEED], None)
    found = attempts.diagnose(train_step, devices, attempt)
    assert not found.found
    assert "could not be found out" in str(found)
    assert "OOM when allocating tensor" in str(found)
    assert len(str(found)) < 400
    assert str(found).isprintable()


def test_largest_activation_is_told(train_step, changed, images):
    path = "model/encoder/stem"
    changed(f"{path}/bias", _put(0, 1e6))
    size, place = _diagnose(train_step, images).largest
    assert size == pytest.approx(1e6, rel=0.01)
    assert place == path


def test_observer_is_gone_after_the_block(train_step, images):
    seen = []
    model = train_step.model

    def observer(path, *_):
        seen.append(path)

    with diagnosis.observed(model, observer):
        model(images, seed=_SEED)
    assert seen[0] == "model/encoder/stem"
    assert seen[-1] == "model"
    # Every group is a call of its own.
    assert seen.count("model/decoder/scale_1/prior") == 3
    count = len(seen)
    model(images, seed=_SEED)
    assert len(seen) == count
