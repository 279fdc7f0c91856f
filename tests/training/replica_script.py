"""Two training steps on a number of replicas: `replica_script OUT STRATEGY N`.

Run as a process of its own, since devices are set up before anything else.
STRATEGY is "one_device", "mirrored" over N logical devices, or "multi_worker".
"""

import sys

import numpy as np
import tensorflow as tf

from nvae_tf.config.schedules import Coefficients
from nvae_tf.distribute.devices import open_devices
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep
from tests.support import run_helpers

GLOBAL_BATCH = 4


def main(out: str, strategy: str, replicas: int) -> None:
    """Trains on fixed images and noise; writes all that came of it."""
    if strategy == "mirrored":
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * replicas,
        )
    devices = open_devices(strategy)
    config = run_helpers.make_config(
        "",
        model={"num_latent_scales": 1, "num_classes": 3},
        data={"labels": True},
    ).model
    with devices.strategy.scope():
        model = NVAE(config, seed=3, unroll=devices.shares_graph)
        step = TrainStep(
            model,
            Adamax(model.trainable_variables),
            SpectralRegularizer(model),
        )
    random = np.random.default_rng(0)
    shape = (GLOBAL_BATCH, 8, 8, 1)
    share = GLOBAL_BATCH // devices.num_workers
    rows = slice(devices.worker * share, (devices.worker + 1) * share)
    results = {}
    for number, bad in enumerate((False, True, False)):
        x = random.integers(0, 2, shape).astype(np.float32)
        if bad:
            # Seen by the last replica alone; all must skip the step.
            x[-1] = np.nan
        eps = [
            random.normal(size=(GLOBAL_BATCH, *s)).astype(np.float32)
            for s in config.latent_shapes
        ]
        labels = np.arange(GLOBAL_BATCH, dtype=np.int32) % 3
        metrics = step(
            devices.per_replica(
                (tf.constant(x[rows]), tf.constant(labels[rows]))
            ),
            Coefficients(*map(tf.constant, (0.4, 1e-2, 1e-2))),
            eps=[devices.per_replica(tf.constant(e[rows])) for e in eps],
            # Every process has a vote.
            stop=tf.constant(1.0),
        )
        results |= {f"{number}/{k}": v for k, v in metrics._asdict().items()}
    results |= {
        f"state/{name}": np.asarray(variable)
        for name, variable in step.named_variables().items()
    }
    if devices.is_chief:
        np.savez(out, **results)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
