"""Recomputing changes what is kept, and not what comes out."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support import model_cases
from tests.support.arrays import (
    LAYER,
    assert_rounded_alike,
    relative_error,
    rounding,
)

pytestmark = [pytest.mark.early, pytest.mark.numerics]

_CONFIG = model_cases.small(
    num_flow_pairs=1,
    num_latent_scales=1,
    num_groups_per_scale=3,
    num_cells_dec=2,
    architecture="res_mbconv",
)
_BATCH = 3
# Outputs of batch normalisation that are not images.
_NOT_IMAGES = {"batch_mean", "batch_variance", "reserve_space_3"}


@functools.cache
def _pass(recompute, dtype="float32", compiled=True, **changes):
    """Output, moments and gradients of a training pass, and its graph."""
    config = model_cases.small(**changes) if changes else _CONFIG
    model = model_cases.random_model(config, recompute=recompute, dtype=dtype)
    variables = [v.value for v in model.trainable_variables]

    def run(x, eps):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            output = model(x, eps=eps, training=True)
            nll = -model.likelihood(output.logits).log_prob(x)
            loss = tf.reduce_mean(nll + tf.reduce_sum(output.kl_per_group, 1))
        gradients = tape.gradient(loss, variables)
        flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)
        return output.logits, output.updates, flat

    if compiled:
        run = tf.function(run, autograph=False)
    x = tf.constant(model_cases.images(config, _BATCH))
    eps = [tf.constant(e) for e in model_cases.noise(config, _BATCH)]
    logits, updates, gradients = run(x, eps)
    graph = run.get_concrete_function(x, eps).graph if compiled else None
    return logits, updates, np.asarray(gradients, np.float64), graph


# Layers on the way from an image to the logits and, backwards, to a gradient.
_DEPTH = 40


def _assert_same(actual, expected, dtype="float32"):
    """A recomputed pass may be fused otherwise than one that is kept."""
    # In half precision a layer's sums and moments are float32: what is rounded
    # are its convolution, normalisation, activation and sum with the skip.
    count = _DEPTH * (LAYER if dtype == "float32" else 4)
    logits, updates, gradient, _ = expected
    assert_rounded_alike(actual[0], logits, count, dtype)
    tf.nest.assert_same_structure(actual[1], updates)
    for moments, same in zip(
        tf.nest.flatten(actual[1]), tf.nest.flatten(updates), strict=True
    ):
        assert_rounded_alike(moments, same, count, dtype)
    assert 0 < np.linalg.norm(gradient) < np.inf
    assert relative_error(actual[2], gradient) <= rounding(2 * count, dtype)


@pytest.mark.parametrize(
    ("dtype", "recompute"),
    [
        ("mixed_float16", "cell"),
        # Looped steps with it agree with the authors' program, too.
        pytest.param("float32", "bn_swish", marks=pytest.mark.long),
        pytest.param("float32", "cell", marks=pytest.mark.long),
        pytest.param("mixed_float16", "bn_swish", marks=pytest.mark.long),
    ],
)
def test_loops_give_the_same_gradients(recompute, dtype):
    _assert_same(_pass(recompute, dtype), _pass("none", dtype), dtype)


@pytest.mark.parametrize("recompute", ["bn_swish", "cell"])
def test_unrolled_groups_give_the_same_gradients(recompute):
    _assert_same(
        _pass(recompute, compiled=False), _pass("none", compiled=False)
    )


@pytest.mark.parametrize(
    ("recompute", "architecture"),
    [
        ("bn_swish", "res_bnelu"),
        ("cell", "mbconv_den"),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                ("cell", "res_bnelu"),
                ("bn_swish", "res_elu"),
                ("cell", "res_elu"),
                ("bn_swish", "mbconv_den"),
            )
        ),
    ],
)
def test_other_cells_give_the_same_gradients(recompute, architecture):
    changes = {
        "architecture": architecture,
        "num_channels_enc": 8,
        "num_channels_dec": 8,
    }
    _assert_same(
        _pass(recompute, compiled=False, **changes),
        _pass("none", compiled=False, **changes),
    )


def _accumulated(recompute):
    """Values that one step of the model's loops keeps for the backward pass."""
    definition = _pass(recompute)[-1].as_graph_def(add_shapes=True)
    return sum(map(_pushed, definition.library.function))


def _pushed(function):
    """Values of the batch's tensors that a loop's body keeps for its gradient.

    TensorFlow calls the lists that it adds to a loop for them accumulators.
    """
    shapes = {
        argument.name: function.arg_attr[i].attr["_output_shapes"].list.shape
        for i, argument in enumerate(function.signature.input_arg)
    }
    for node in function.node_def:
        shapes[node.name] = node.attr["_output_shapes"].list.shape
    total = 0
    for node in function.node_def:
        if node.op != "TensorListPushBack":
            continue
        if node.input[0].endswith("_accumulator"):
            # The name of an argument, or "node:output:index".
            name, *output = node.input[1].split(":")
            if set(output) & _NOT_IMAGES:
                continue
            shape = tf.TensorShape(shapes[name][0])
            if shape.rank == 4 and shape[0] == _BATCH:
                total += shape.num_elements()
    return total


@pytest.mark.long
def test_loops_accumulate_less():
    everything = _accumulated("none")
    without_norms = _accumulated("bn_swish")
    entries = _accumulated("cell")
    assert 0 < entries < 0.25 * everything
    assert entries < without_norms < 0.85 * everything
