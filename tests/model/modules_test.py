"""What every layer has to keep, from one table of all of them."""

import inspect
import json
import typing
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model import (
    cell_operations,
    cells,
    composite,
    decoder,
    encoder,
    image_decoder,
    latent_group,
    layers,
)
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.pure_layer import Mode, PureLayer
from tests.support import model_cases

pytestmark = pytest.mark.numerics

_CONFIG = model_cases.small(num_flow_pairs=1)
_PLAIN = model_cases.CONFIGS["plain_vae"]


class _Case(typing.NamedTuple):
    """How a layer is made, and the shapes it is called with.

    Attributes:
      make: the constructor with its arguments, without `stack`.
      channels: what to build for; None for a layer that knows.
      inputs: shapes by argument; a list for one shape per scale.
      keeps_dtype: whether it computes and returns in the dtype of its input.
    """

    make: Callable[..., PureLayer]
    channels: int | None
    inputs: dict
    keeps_dtype: bool = True


def _image(channels, size=4):
    return {"x": (2, size, size, channels)}


def _chain(stack=None, **kwargs):
    parts = [
        cells.ResidualCell(["res_elu"], 8, "down", stack=stack, name="a"),
        cells.ResidualCell(["mconv_e3k5g0"], 8, stack=stack, name="b"),
    ]
    return encoder.CellChain(parts, stack=stack, **kwargs)


def _masked_convolution(**kwargs):
    return layers.Conv2D(
        4, 5, groups=4, mask="causal", mirrored=True, gain=0.5, **kwargs
    )


def _dilated_convolution(**kwargs):
    return layers.Conv2D(
        4, 3, dilation=2, weight_norm=False, use_bias=False, **kwargs
    )


_NOISE = (2, 4, 4, 3)
_STATE = {"h": (2, 4, 4, 8), "features": (2, 4, 4, 8)}
_CASES = {
    "convolution": _Case(
        lambda **k: layers.Conv2D(6, 3, strides=2, **k), 4, _image(4)
    ),
    "masked convolution": _Case(_masked_convolution, 4, _image(4)),
    "dilated convolution": _Case(_dilated_convolution, 4, _image(4)),
    "data-dependent convolution": _Case(
        lambda **k: layers.Conv2D(4, 3, data_dependent=True, **k),
        4,
        _image(4),
    ),
    "batch norm": _Case(lambda **k: layers.BatchNorm("elu", **k), 4, _image(4)),
    "dense": _Case(lambda **k: layers.Dense(5, **k), 4, {"x": (2, 4)}),
    "gate": _Case(layers.SqueezeExcite, 4, _image(4)),
    "norm and convolution": _Case(
        lambda **k: cell_operations.NormConv("res_bnswish5", 4, "down", **k),
        8,
        _image(8),
    ),
    "inverted residual": _Case(
        lambda **k: cell_operations.InvertedResidual(
            "mconv_e3k5g8", 4, "up", **k
        ),
        8,
        _image(8),
    ),
    "down skip": _Case(lambda **k: cells._DownSkip(8, **k), 4, _image(4)),
    "up skip": _Case(lambda **k: cells._UpSkip(4, **k), 8, _image(8)),
    "cell": _Case(
        lambda **k: cells.ResidualCell(
            ("res_bnelu", "res_elu"), 4, "up", use_se=False, **k
        ),
        8,
        _image(8),
    ),
    "flow": _Case(
        lambda **k: cells.FlowCell(mirrored=True, **k), 3, {"x": _NOISE}
    ),
    "encoder combiner": _Case(
        lambda **k: cells.EncoderCombiner(8, **k), 8, _STATE
    ),
    "decoder combiner": _Case(
        lambda **k: cells.DecoderCombiner(8, **k),
        11,
        {"z": _NOISE, "h": _STATE["h"]},
    ),
    "chain": _Case(_chain, 4, _image(4)),
    "group": _Case(
        lambda **k: latent_group.LatentGroup(_CONFIG, 8, 8, **k),
        None,
        {"noise": _NOISE, **_STATE},
    ),
    "first group": _Case(
        lambda **k: latent_group.LatentGroup(_PLAIN, 8, 8, is_first=True, **k),
        None,
        {"noise": _NOISE, "features": _STATE["features"]},
        keeps_dtype=False,  # Latents are float32.
    ),
}
# These do not come in stacks.
_SINGLE = {
    "encoder": _Case(
        lambda **k: encoder.BottomUpEncoder(_CONFIG, **k), 1, _image(1, 8)
    ),
    "decoder": _Case(
        lambda **k: decoder.TopDownDecoder(_CONFIG, **k),
        None,
        {
            "noise": [(1, 2, 2, 2, 3), (2, 2, 4, 4, 3)],
            "top": (2, 2, 2, 16),
            "features": [(0, 2, 2, 2, 16), (2, 2, 4, 4, 8)],
        },
    ),
    "classes": _Case(
        lambda **k: decoder.ClassEmbedding(3, 8, **k),
        None,
        {"labels": (2,)},
        keeps_dtype=False,  # Tables are float32.
    ),
    "image": _Case(
        lambda **k: image_decoder.ImageDecoder(_CONFIG, 1, **k),
        8,
        {"h": _STATE["h"]},
        keeps_dtype=False,  # Logits are float32.
    ),
}
_ALL = _CASES | _SINGLE
_MODES = (Mode.INFERENCE, Mode.TRAINING, Mode.INITIALIZATION)


def _built(case, **kwargs):
    layer = case.make(**kwargs)
    layer.build((None, None, None, case.channels))
    layer.initialize(0)
    model_cases.randomize(layer)
    return layer


def _inputs(case, dtype="float32"):
    rng = np.random.default_rng(0)

    def draw(name, shape):
        if isinstance(shape, list):
            return [draw(name, s) for s in shape]
        if name == "labels":
            return tf.constant(rng.integers(0, 3, shape), tf.int32)
        kind = "float32" if name == "noise" else dtype
        return tf.cast(rng.normal(size=shape), kind)

    return {name: draw(name, shape) for name, shape in case.inputs.items()}


def _assert_equal(first, second):
    tf.nest.assert_same_structure(first, second)
    for a, b in zip(
        tf.nest.flatten(first), tf.nest.flatten(second), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def _classes(cls=PureLayer):
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("nvae_tf."):
            yield sub
            yield from _classes(sub)


def test_table_holds_every_layer():
    held = {type(case.make()) for case in _ALL.values()} | {NVAE}
    abstract = {
        composite.Composite,
        cell_operations._Operation,
        cells._Cell,
    }
    assert held == set(_classes()) - abstract


@pytest.mark.parametrize("name", _ALL)
def test_config_has_every_argument_of_the_constructor(name):
    layer = _ALL[name].make()
    arguments = set()
    for cls in type(layer).__mro__:
        if issubclass(cls, PureLayer) and "__init__" in vars(cls):
            arguments |= set(inspect.signature(cls.__init__).parameters)
    config = layer.get_config()
    assert arguments - {"self", "args", "kwargs"} <= set(config)
    own = set(config) - {"name", "trainable", "dtype"}
    assert own <= arguments, "get_config names what __init__ does not take"


@pytest.mark.parametrize("name", _ALL)
def test_layer_survives_json(name):
    case = _ALL[name]
    layer = _built(case)
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()
    json.dumps(layer.get_config())
    assert copy.built
    for ours, theirs in zip(copy.variables, layer.variables, strict=True):
        assert ours.path == theirs.path
        ours.assign(theirs)
    inputs = _inputs(case)
    _assert_equal(copy(**inputs), layer(**inputs))


def test_arguments_other_than_the_defaults_survive():
    for name, case in _CASES.items():
        layer = case.make(stack=3, name="other", trainable=False)
        copy = type(layer).from_config(layer.get_config())
        assert copy.get_config() == layer.get_config(), name
        assert (copy.stack, copy.name, copy.trainable) == (3, "other", False)


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("name", _ALL)
def test_call_is_pure(name, mode):
    case = _ALL[name]
    layer = _built(case)
    before = [v.numpy() for v in layer.variables]
    inputs = _inputs(case)
    first = layer(**inputs, mode=mode)
    _assert_equal(layer(**inputs, mode=mode), first)
    params = layer.read_params(mode)
    _assert_equal(layer(**inputs, mode=mode, params=params), first)
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAINING])
@pytest.mark.parametrize("name", _ALL)
def test_recomputed_pass_has_the_same_gradients(name, mode):
    """`tf.recompute_grad` runs a pass twice."""
    case = _ALL[name]
    layer = _built(case)
    inputs = _inputs(case)
    params = layer.read_params(mode)

    def run(params):
        outputs = layer(**inputs, mode=mode, params=params)
        return tf.add_n([tf.reduce_sum(t**2) for t in tf.nest.flatten(outputs)])

    gradients = []
    for function in (run, tf.recompute_grad(run)):
        with tf.GradientTape() as tape:
            tape.watch(params)
            loss = function(params)
        gradients.append(tape.gradient(loss, params))
    for plain, again in zip(*map(tf.nest.flatten, gradients), strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", _CASES)
def test_stack_has_the_variables_of_its_members_in_front(name):
    case = _CASES[name]
    single, stacked = _built(case), _built(case, stack=2)
    for one, two in zip(single.variables, stacked.variables, strict=True):
        assert two.shape == (2, *one.shape)
    inputs = _inputs(case)
    params = stacked.read_params()
    for i in range(2):
        for one, two in zip(single.variables, stacked.variables, strict=True):
            one.assign(two[i])
        member = tf.nest.map_structure(lambda t, i=i: t[i], params)
        results = [
            tf.nest.flatten(layer(**inputs, params=p))
            for layer, p in ((single, None), (stacked, member))
        ]
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAINING])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", _ALL)
def test_layer_computes_in_the_dtype_of_its_input(name, dtype, mode):
    case = _ALL[name]
    layer = _built(case)
    more = {"dtype": tf.as_dtype(dtype)} if name == "decoder" else {}
    actual = _results(layer(**_inputs(case, dtype), mode=mode, **more))
    expected = _results(layer(**_inputs(case), mode=mode))[0]
    assert actual[0].dtype == (dtype if case.keeps_dtype else tf.float32)
    error = tf.cast(actual[0], tf.float32) - expected
    assert tf.norm(error) < 0.1 * tf.norm(expected)
    # Statistics, KL and densities; but the encoder's features are images.
    for tensor in tf.nest.flatten(actual[2 if name == "encoder" else 1 :]):
        assert tensor.dtype == tf.float32
    assert {v.dtype for v in layer.variables} == {"float32"}


def _results(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("name", _ALL)
def test_every_variable_has_a_name_of_its_own(name):
    layer = _built(_ALL[name])
    paths = [path for path, _ in layer.leaves()]
    assert len(set(paths)) == len(paths)
    named = layer.named_variables()
    assert sorted(map(id, named.values())) == sorted(map(id, layer.variables))
