"""Replicas on shares of a batch against one replica on all of it.

    python -m tests.distribute.replicas_check processes 4 FOLDER
    python -m tests.distribute.replicas_check mirrored 2

Run by `replicas_test.py` in processes of their own: devices have to be made
before TensorFlow starts.  Prints a line for every property that holds.
"""

import sys

import numpy as np
import tensorflow as tf

from nvae_tf.distribute import launcher, replicas
from nvae_tf.distribute.devices import Devices, open_devices
from nvae_tf.model import batch_norm, layers
from nvae_tf.model.pure_layer import Mode
from nvae_tf.model.scan import scan
from tests.support import model_cases

_SHAPES = {"image": (2, 3, 5, 4), "one pixel of one image": (1, 1, 1, 4)}


def _devices(strategy: str, count: int) -> Devices:
    if strategy == "mirrored":
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * count,
        )
        return open_devices("mirrored")
    return open_devices("multi_worker")


def _of_all(tensor):
    """Every replica's tensor `[R, ...]`, on each of them."""
    index = tf.distribute.get_replica_context().replica_id_in_sync_group
    row = tf.one_hot(index, replicas.count())
    row = tf.reshape(row, [-1] + [1] * tensor.shape.rank)
    tensor = tf.cast(tensor, tf.float32)[None]
    return replicas.total(tf.where(row > 0, tensor, tf.zeros_like(tensor)))


def _run(devices: Devices, function, *shared):
    """`function` on shares of tensors `[R * n, ...]`.

    Returns:
      The results, flat, of all replicas: arrays `[R, ...]`.
    """

    def share(tensor):
        local = tf.split(tensor, devices.num_workers)[devices.worker]
        return devices.per_replica(local)

    @tf.function(autograph=False)
    def run(*shared):
        def results(*shared):
            return [_of_all(t) for t in tf.nest.flatten(function(*shared))]

        return devices.strategy.run(results, args=shared)

    return [
        np.asarray(devices.strategy.experimental_local_results(result)[0])
        for result in run(*map(share, shared))
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


def check_batch_norm(devices, shape, dtype, recompute: bool) -> None:
    count = devices.num_replicas
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

    y, d_x, *others, mean, variance = _run(devices, one_pass, x, upstream)
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


def check_far_from_zero(devices) -> None:
    """A mean of a thousand, and deviations of hundredths around it."""
    count = devices.num_replicas
    x = np.array(_normal(count * 2, 3, 3, 4, scale=0.01))
    # Replicas differ in their means by as much.
    x += 1000 + 0.01 * np.repeat(np.arange(count), 2)[:, None, None, None]
    expected = x.astype(np.float64)
    mean = expected.mean((0, 1, 2))
    variance = expected.var((0, 1, 2), ddof=1)

    def one_pass(x):
        return batch_norm.normalize(x, tf.ones(4), tf.zeros(4), "linear")

    y, *moments = _run(devices, one_pass, tf.constant(x))
    for actual, same in zip(moments, (mean, variance), strict=True):
        for replica in actual:
            # A float32 of this size, such as a mean, is known to 6e-5.
            np.testing.assert_allclose(replica, same, rtol=0.02)
    deviation = np.sqrt(expected.var((0, 1, 2)) + batch_norm.EPSILON)
    np.testing.assert_allclose(
        np.concatenate(y), (expected - mean) / deviation, atol=0.02
    )


def check_loop(devices) -> None:
    """Rounds of a loop, each with moments and a gradient of its own."""
    count = devices.num_replicas
    gammas = _normal(5, 4, seed=1, offset=1.0, scale=0.1)
    x = _normal(2 * count, 2, 2, 4)

    def one_pass(x):
        with tf.GradientTape() as tape:
            tape.watch([x, gammas])

            def step(h, gamma):
                y, moments = batch_norm.normalize(h, gamma, tf.ones(4), "swish")
                return h + y, moments._asdict()

            y, moments = scan(step, x, gammas, 5)
            loss = tf.reduce_sum(y**3)
        d_x, d_gammas = tape.gradient(loss, [x, gammas])
        return y, d_x, d_gammas, moments["mean"], moments["variance"]

    y, d_x, d_gammas, mean, variance = _run(devices, one_pass, x)
    alone = tf.function(one_pass, autograph=False)(x)
    expected = [np.asarray(t) for t in alone]
    _close(np.concatenate(y), expected[0])
    _close(np.concatenate(d_x), expected[1])
    _close(np.sum(d_gammas, axis=0), expected[2])
    for actual, same in zip((mean, variance), expected[3:], strict=True):
        for replica in actual:
            _close(replica, same)


def check_initialization(devices) -> None:
    conv = layers.Conv2D(6, 3, data_dependent=True)
    conv.build((None, None, None, 4))
    conv.initialize(0)
    x = _normal(2 * devices.num_replicas, 3, 3, 4, offset=2.0)

    def one_pass(x):
        y, updates = conv(x, mode=Mode.INITIALIZATION)
        return y, updates["g"], updates["bias"]

    y, *others = _run(devices, one_pass, x)
    expected, *updates = one_pass(x)
    _close(np.concatenate(y), expected)
    for actual, update in zip(others, updates, strict=True):
        for replica in actual:
            _close(replica, update)


def check_means(devices) -> None:
    values = [_normal(3 * devices.num_replicas, 2, seed=i) for i in range(3)]
    results = _run(devices, lambda *own: replicas.means(own), *values)
    for value, result in zip(values, results, strict=True):
        parts = np.split(np.asarray(value), devices.num_replicas)
        for replica in result:
            _close(replica, np.mean(parts, axis=0))


def check_model(devices, images: int, dtype: str, recompute: str) -> None:
    """A training pass and its gradient, so many images on each replica."""
    config = model_cases.small(num_latent_scales=1, num_groups_per_scale=3)
    model = model_cases.random_model(
        config, unroll=devices.shares_graph, dtype=dtype, recompute=recompute
    )
    batch = images * devices.num_replicas
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

    logits, gradient, *updates = _run(devices, one_pass, x, *eps)
    single = tf.function(one_pass, autograph=False)(x, *eps)
    expected, flat, *wanted = [np.asarray(t) for t in tf.nest.flatten(single)]
    factor = 1 if dtype == "float32" else 200
    _close(np.concatenate(logits), expected, 1e-4 * factor)
    error = np.linalg.norm(np.mean(gradient, axis=0) - flat)
    assert error < 1e-4 * factor * np.linalg.norm(flat), error
    for actual, update in zip(updates, wanted, strict=True):
        for replica in actual:
            _close(replica, update, 1e-3 * min(factor, 20))


def main(strategy: str, count: int, folder: str = "") -> None:
    if strategy == "processes" and not launcher.launched():
        command = [sys.executable, "-m", __spec__.name, *sys.argv[1:]]
        sys.exit(launcher.launch(count, folder, command))
    devices = _devices(strategy, count)
    assert devices.num_replicas == count
    assert devices.shares_graph == (strategy == "mirrored")
    for name, shape in _SHAPES.items():
        for dtype in ("float32", "float16"):
            for recompute in (False, True):
                check_batch_norm(devices, shape, dtype, recompute)
        print(f"batch normalisation, {name}")
    check_far_from_zero(devices)
    print("batch normalisation far from 0")
    if strategy == "processes":
        check_loop(devices)
        print("loop")
    check_initialization(devices)
    print("initialization")
    check_means(devices)
    print("means")
    if strategy == "mirrored" and count > 2:
        return  # It takes long to trace.
    check_model(devices, 2, "float32", "bn_swish")
    print("model")
    if strategy == "processes":
        check_model(devices, 1, "float32", "cell")
        check_model(devices, 2, "mixed_float16", "none")
        print("model, one image each, and in half precision")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
