"""Replicas on shares of a batch against one replica on all of it.

    python -m tests.distribute.replicas_check 4

Run by `replicas_test.py` in a process of its own: logical devices have to be
made before TensorFlow starts.  Prints a line for every property that holds.
"""

import sys

import numpy as np
import tensorflow as tf

from nvae_tf.model import batch_norm, layers
from nvae_tf.model.pure_layer import Mode
from tests.support import model_cases

_SHAPES = {"image": (2, 3, 5, 4), "one pixel of one image": (1, 1, 1, 4)}


def _devices(count: int) -> tf.distribute.Strategy:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])


def _share(strategy, tensors):
    """Every replica's part of tensors `[R * n, ...]`."""

    def part(context):
        index = context.replica_id_in_sync_group
        count = context.num_replicas_in_sync
        return tf.nest.map_structure(
            lambda t: tf.split(t, count)[index], tensors
        )

    return strategy.experimental_distribute_values_from_function(part)


def _run(strategy, function, *shared):
    """`function` on all replicas; the results as lists of arrays."""

    @tf.function(autograph=False)
    def run(*shared):
        return strategy.run(function, args=shared)

    return [
        [np.asarray(t) for t in strategy.experimental_local_results(result)]
        for result in tf.nest.flatten(
            run(*[_share(strategy, tensors) for tensors in shared])
        )
    ]


def _normal(*shape, seed=0, scale=1.0, offset=0.0):
    rng = np.random.default_rng(seed)
    values = rng.normal(offset, scale, shape).astype(np.float32)
    return tf.constant(values)


def _close(actual, expected, tolerance=1e-4, at_least=0.0):
    """Close relative to the largest value, or to a size that it comes from."""
    largest = max(np.abs(expected).max(), at_least)
    np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=tolerance * largest
    )


def check_batch_norm(strategy, shape, dtype, recompute: bool) -> None:
    count = strategy.num_replicas_in_sync
    shape = (count * shape[0], *shape[1:])
    # A mean far from 0: E[x^2] - E[x]^2 would lose the variance.
    x = tf.cast(_normal(*shape, offset=30.0), dtype)
    gamma, beta = _normal(shape[-1], seed=1), _normal(shape[-1], seed=2)
    kernel = _normal(1, 1, shape[-1], 3, seed=4)
    upstream = _normal(*shape[:-1], 3 if recompute else shape[-1], seed=3)

    def convolve(y, kernel):
        return tf.nn.conv2d(y, tf.cast(kernel, y.dtype), 1, "SAME")

    def one_pass(x, upstream):
        inputs = [x, gamma, beta, kernel]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            if recompute:
                y, moments = batch_norm.normalize_then(
                    convolve, *inputs[:3], "swish", kernel
                )
            else:
                y, moments = batch_norm.normalize(*inputs[:3], "swish")
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
        d_x, *others = tape.gradient(loss, inputs[: 4 if recompute else 3])
        return y, d_x, *others, *moments

    y, d_x, *others, mean, variance = _run(strategy, one_pass, x, upstream)
    expected = [np.asarray(t, np.float64) for t in one_pass(x, upstream)]
    tolerance = 1e-4 if dtype == "float32" else 0.02
    _close(np.concatenate(y), expected[0], tolerance)
    # Of two values, the terms of the gradient cancel.
    _close(np.concatenate(d_x), expected[1], tolerance, at_least=0.1)
    for actual, total in zip(others, expected[2:-2], strict=True):
        _close(np.sum(actual, axis=0), total, tolerance)
    for actual, same in zip((mean, variance), expected[-2:], strict=True):
        for replica in actual:
            _close(replica, same)


def check_initialization(strategy) -> None:
    conv = layers.Conv2D(6, 3, data_dependent=True)
    conv.build((None, None, None, 4))
    conv.initialize(0)
    x = _normal(2 * strategy.num_replicas_in_sync, 3, 3, 4, offset=2.0)

    def one_pass(x):
        y, updates = conv(x, mode=Mode.INITIALIZATION)
        return y, updates["g"], updates["bias"]

    y, *others = _run(strategy, one_pass, x)
    expected, *updates = one_pass(x)
    _close(np.concatenate(y), expected)
    for actual, update in zip(others, updates, strict=True):
        for replica in actual:
            _close(replica, update)


def check_model(strategy, **kwargs) -> None:
    config = model_cases.small(num_latent_scales=1, num_groups_per_scale=2)
    model = model_cases.random_model(config, unroll=True, **kwargs)
    batch = 2 * strategy.num_replicas_in_sync
    x = tf.constant(model_cases.images(config, batch))
    eps = [tf.constant(e) for e in model_cases.noise(config, batch)]
    # Made outside of the strategy's scope, all replicas share the variables.
    values = [v.value for v in model.trainable_variables]

    def one_pass(x, *eps):
        with tf.GradientTape() as tape:
            output = model(x, eps=list(eps), training=True)
            nll = -model.likelihood(output.logits).log_prob(x)
            loss = tf.reduce_mean(nll + 0.5 * output.log_q)
        gradients = tape.gradient(loss, values)
        flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)
        return output.logits, flat, output.updates

    logits, gradient, *updates = _run(strategy, one_pass, x, *eps)
    single = tf.function(one_pass, autograph=False)(x, *eps)
    expected, flat, *wanted = [np.asarray(t) for t in tf.nest.flatten(single)]
    _close(np.concatenate(logits), expected)
    error = np.linalg.norm(np.mean(gradient, axis=0) - flat)
    assert error < 1e-4 * np.linalg.norm(flat), error
    for actual, update in zip(updates, wanted, strict=True):
        for replica in actual:
            _close(replica, update, 1e-3)


def main() -> None:
    strategy = _devices(int(sys.argv[1]))
    assert strategy.num_replicas_in_sync == int(sys.argv[1])
    for name, shape in _SHAPES.items():
        for dtype in ("float32", "float16"):
            for recompute in (False, True):
                check_batch_norm(strategy, shape, dtype, recompute)
        print(f"batch normalisation, {name}")
    check_initialization(strategy)
    print("initialization")
    if strategy.num_replicas_in_sync == 2:
        check_model(strategy)
        print("model")


if __name__ == "__main__":
    main()
