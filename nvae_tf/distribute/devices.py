"""Which devices a run uses: one, several in a process, several processes.

The cluster is described by what started the processes: `TF_CONFIG` (set by
Kubernetes operators, and by `nvae_tf.distribute.launcher` for local
processes), Slurm's variables, or a TPU's name.
"""

import logging
import os
import typing

import tensorflow as tf

from nvae_tf.core.errors import UserError
from nvae_tf.distribute import (
    cluster,
    launcher,
    machine,
    rendezvous,
    replicas,
)

__all__ = ["STRATEGIES", "Devices", "open_devices"]

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
_LAUNCHED_SECONDS = 3600.0


class Devices(typing.NamedTuple):
    """The replicas of a run, as one of its processes sees them.

    Attributes:
      strategy: in whose scope variables are made.
      worker: this process's number; 0 writes checkpoints and metrics.
      num_workers: how many processes there are.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    num_workers: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process speaks for all."""
        return self.worker == 0

    @property
    def num_replicas(self) -> int:
        """Replicas of all processes."""
        return self.strategy.num_replicas_in_sync

    @property
    def local_replicas(self) -> int:
        """Replicas of this process."""
        return self.num_replicas // self.num_workers

    @property
    def shares_graph(self) -> bool:
        """Whether several replicas are traced into one graph.

        Their reductions cannot sit in loops, see `replicas`.
        """
        return self.num_replicas > self.num_workers

    def describe(self) -> str:
        """What a run computes on, for a person: "8 GPUs (NVIDIA H100)"."""
        with self.strategy.scope():
            kind = replicas.device_kind()
        count = self.num_replicas
        text = f"{count} {kind}{'' if count == 1 else 's'}"
        if kind != "GPU":
            return text
        details = map(
            tf.config.experimental.get_device_details,
            tf.config.get_visible_devices("GPU"),
        )
        names = {d.get("device_name", "of unknown name") for d in details}
        return f"{text} ({', '.join(sorted(names))})"

    def per_replica(self, tensor):
        """Slices of a tensor's first axis, one for each local replica.

        Args:
          tensor: or a tuple of several that have the same first axis.
        """
        if self.local_replicas == 1:
            return tensor
        parts = self.local_parts(tensor)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    def local_parts(self, tensor) -> dict[int, typing.Any]:
        """Slices of a tensor's first axis, by the replica that takes them."""
        first = self.worker * self.local_replicas
        if isinstance(tensor, tuple):
            parts = zip(*map(self._split, tensor), strict=True)
        else:
            parts = self._split(tensor)
        return dict(enumerate(parts, first))

    def _split(self, tensor):
        return tf.split(tensor, self.local_replicas)


def open_devices(name: str = "one_device") -> Devices:
    """Sets up the devices of this process, before any other operation.

    Args:
      name: "one_device"; "mirrored", all GPUs of this process (or its logical
        CPUs); "multi_worker", one device in each of several processes; "tpu";
        or "auto", whatever the surroundings ask for, which is never a copy of
        the model for each of several devices in one process.

    Raises:
      UserError: if there is no such thing here.
    """
    if name not in STRATEGIES:
        raise UserError(
            f"--strategy={name} must be one of {', '.join(STRATEGIES)}."
        )
    if name == "auto":
        name = _choose()
    try:
        if name == "multi_worker":
            return _multi_worker()
        if name == "tpu":
            return _tpu()
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--strategy={name} cannot be set up: {error}"
        ) from error
    if name == "mirrored":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [d.name for d in tf.config.list_logical_devices(kind)]
        return Devices(tf.distribute.MirroredStrategy(devices))
    return Devices(tf.distribute.get_strategy())


def _choose() -> str:
    found = cluster.find()
    if found is not None and len(found.addresses) > 1:
        return "multi_worker"
    if os.environ.get("TPU_NAME"):
        return "tpu"
    _require_gpus()
    return "one_device"


def _require_gpus() -> None:
    """Raises UserError if TensorFlow cannot use the GPUs that are meant.

    Whoever leaves them all out by CUDA_VISIBLE_DEVICES means none.
    """
    if tf.config.list_physical_devices("GPU"):
        return
    chosen = machine.chosen_gpus()
    if not chosen:
        return
    try:
        names = sorted({gpu.name for gpu in machine.driver_gpus()})
    except OSError:
        # Without a driver the launcher has taken the environment's word.
        names = chosen if launcher.launched() else []
    if names:
        raise UserError(
            f"This machine has a GPU ({', '.join(names)}), but TensorFlow "
            "cannot use it: the run would train on the CPU. nvae doctor says "
            "what to install; CUDA_VISIBLE_DEVICES=-1 or, for a single "
            "process, --strategy=one_device trains on the CPU all the same."
        )


def _multi_worker() -> Devices:
    found = cluster.find()
    if found is None:
        raise UserError(
            "--strategy=multi_worker needs a cluster: TF_CONFIG in the "
            "environment, or Slurm tasks (srun). For several processes on "
            "this machine use --num_processes=N."
        )
    addresses, number, run = found
    _require_gpus()
    _take_one_gpu(addresses, number)
    rendezvous.meet(
        addresses,
        number,
        # The launcher ends all of its processes if one ends.
        _LAUNCHED_SECONDS
        if launcher.launched()
        else rendezvous.PATIENCE_SECONDS,
        run=run,
    )
    # It would tell of every single reduction that it builds.
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        cluster_resolver=tf.distribute.cluster_resolver.SimpleClusterResolver(
            # The chief of a description is the first of its workers.
            tf.train.ClusterSpec({"worker": addresses}),
            task_type="worker",
            task_id=number,
            rpc_layer="grpc",
        )
    )
    return Devices(strategy, number, len(addresses))


def _take_one_gpu(addresses, number: int) -> None:
    """Leaves this process one GPU, where it sees several.

    Args:
      addresses: of all processes.
      number: of this one.
    """
    gpus = tf.config.list_physical_devices("GPU")
    was_given = "CUDA_VISIBLE_DEVICES" in os.environ
    if not gpus or (was_given and len(gpus) == 1):
        return
    host = addresses[number].rpartition(":")[0]
    here = [i for i, a in enumerate(addresses) if a.rpartition(":")[0] == host]
    if len(here) != len(gpus):
        raise UserError(
            f"{len(here)} of the run's processes are on {host}, where they see "
            f"{len(gpus)} GPUs, and each drives one: start as many processes "
            "as GPUs, or choose the GPUs with CUDA_VISIBLE_DEVICES."
        )
    tf.config.set_visible_devices(gpus[here.index(number)], "GPU")


def _tpu() -> Devices:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return Devices(tf.distribute.TPUStrategy(resolver))
