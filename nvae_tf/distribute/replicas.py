"""Tensors of all replicas, from inside `strategy.run`.

Outside of it, and on a single replica, these functions give the tensor back,
so that code which calls them need not know how many replicas there are.
"""

import tensorflow as tf

__all__ = ["count", "device_kind", "gather", "mean", "own_seed", "total"]


def count() -> int:
    """Replicas that run the calling code together; 1 outside a replica."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def device_kind() -> str:
    """Kind of the current strategy's devices: "CPU", "GPU" or "TPU"."""
    if tf.distribute.has_strategy():
        devices = tf.distribute.get_strategy().extended.worker_devices
        return tf.DeviceSpec.from_string(devices[0]).device_type
    # Operations go to the first that is no CPU.
    kinds = {d.device_type for d in tf.config.list_logical_devices()}
    return min(kinds & {"GPU", "TPU"}, default="CPU")


def total(tensor):
    """Sum over the replicas, on each of them; no gradient flows through."""
    if count() == 1:
        return tensor
    context = tf.distribute.get_replica_context()
    tensor = tf.stop_gradient(tensor)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def mean(tensor):
    """Mean over the replicas; see `total`."""
    return total(tensor) / count() if count() > 1 else tensor


def gather(tensor):
    """All replicas' tensors `[R, *shape]`, on each; no gradient.

    By a sum, in which every replica fills its own row: one reduction of a
    known shape, which all back ends have.
    """
    if count() == 1:
        return tensor[None]
    index = tf.distribute.get_replica_context().replica_id_in_sync_group
    row = tf.one_hot(index, count(), dtype=tensor.dtype)
    row = tf.reshape(row, [count()] + [1] * tensor.shape.rank)
    # Not a product: a row of zeros times infinity would be NaN everywhere.
    return total(tf.where(row > 0, tensor[None], tf.zeros_like(tensor)[None]))


def own_seed(seed, index):
    """A seed int32 `[2]` of the noise of one replica among several.

    Args:
      seed: int32 `[2]`, of all.
      index: of the replica.
    """
    return tf.random.experimental.stateless_fold_in(seed, index, alg="philox")
