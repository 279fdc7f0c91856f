"""Estimates on several devices and processes against those on one.

    python -m tests.evaluation.importance_devices_check

Run by `importance_test.py` in a process of its own: logical devices have to be
made before TensorFlow starts.  Prints a line for every property that holds.
"""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import tensorflow as tf

from nvae_tf.evaluation.evaluator import Evaluator
from nvae_tf.evaluation.importance import ImportanceEstimator
from tests.support import linear_gaussian, model_cases

_IMAGES, _DRAWS, _SEED = 22, 6, 3


def _mirrored() -> tf.distribute.Strategy:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def _estimate(strategy=None, batches=None):
    estimator = ImportanceEstimator(
        linear_gaussian.terms, linear_gaussian.LATENTS, strategy
    )
    if batches is None:
        images = linear_gaussian.draw_images(_IMAGES)
        batches = linear_gaussian.batches(images, 4)
    return estimator(batches, _DRAWS, _SEED, draws_per_pass=4)


def _check_same(actual: dict, expected: dict, tolerance: float) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(
            actual[name], value, rtol=tolerance, err_msg=name
        )


def _check_nvae(strategy) -> None:
    config = model_cases.small(num_latent_scales=1, num_groups_per_scale=2)
    images = tf.constant(model_cases.images(config, 10))
    missing = tf.constant([1.0, 1, 1, 0, 0, 0])
    batches = [
        (images[:6], tf.ones([6])),
        (tf.pad(images[6:9], [[0, 3], [0, 0], [0, 0], [0, 0]]), missing),
    ]
    expected = Evaluator(model_cases.random_model(config))(batches, 3, seed=1)
    with strategy.scope():
        model = model_cases.random_model(config)
    actual = Evaluator(model, strategy)(batches, 3, seed=1, draws_per_pass=2)
    assert expected.num_images == 9
    _check_same(actual._asdict(), expected._asdict(), 1e-4)


def _check_processes() -> None:
    """Two processes, each with the shard that `datasets` would give it."""
    ports = []
    for _ in range(2):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
    workers = [f"127.0.0.1:{port}" for port in ports]
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        cluster = {"cluster": {"worker": workers}, "task": task}
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.evaluation.importance_devices_check",
                    "x",
                ],
                env={**os.environ, "TF_CONFIG": json.dumps(cluster)},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    expected = _estimate()._asdict()
    for process in processes:
        printed, _ = process.communicate(timeout=200)
        assert process.returncode == 0
        _check_same(json.loads(printed.splitlines()[-1]), expected, 1e-5)


def _work() -> None:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = strategy.cluster_resolver.task_id
    images = linear_gaussian.draw_images(_IMAGES)
    batches = [
        (x[2 * index : 2 * index + 2], weights[2 * index : 2 * index + 2])
        for x, weights in linear_gaussian.batches(images, 4)
    ]
    estimate = _estimate(strategy, batches)._asdict()
    print(json.dumps({**estimate, "kl": estimate["kl"].tolist()}), flush=True)


def main() -> None:
    """Runs all checks, or one of the processes of the last."""
    if len(sys.argv) > 1:
        _work()
        return
    strategy = _mirrored()
    assert strategy.num_replicas_in_sync == 2
    _check_same(_estimate(strategy)._asdict(), _estimate()._asdict(), 1e-5)
    print("linear-Gaussian model on 2 devices")
    _check_nvae(strategy)
    print("NVAE on 2 devices")
    _check_processes()
    print("2 processes")


if __name__ == "__main__":
    main()
