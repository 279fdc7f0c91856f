"""Tensors of all replicas, from inside `strategy.run`.

Outside of it, and on a single replica, these functions give the tensor back,
so that code which calls them need not know how many replicas there are.

Where every replica is a process of its own, a reduction is TensorFlow's
collective operation itself, which may stand in a loop.  What it takes to be
right, on every device:

- *Keys.*  Two replicas meet where their keys are the same.  A key always
  stands for tensors of one shape, which TensorFlow checks, and for one place
  in a trace: all processes trace the same program.  It repeats from step to
  step: a replica is done with a reduction when its neighbours have taken what
  it sent, so that two of one key are never under way at once, and TensorFlow
  keeps a record of every key it has seen, for ever.
- *Loops.*  The number of the round is added to the key, see `in_round`.
  TensorFlow adds the loop's name: two replicas traced into one graph, whose
  loops differ in name, would never meet.  Several replicas of one process
  therefore reduce by their strategy, outside of loops only.
- *Order.*  NCCL wants all replicas to start their reductions in one order.
  Operations with side effects run in the order in which they were traced,
  loops as a whole among them.  `means` alone leaves that order, not on GPUs.
"""

import collections
import contextlib
import contextvars
import threading
import typing
import weakref
from collections.abc import Iterator

import tensorflow as tf

__all__ = [
    "Round",
    "assuming",
    "count",
    "current_round",
    "device_kind",
    "in_round",
    "key",
    "mean",
    "means",
    "overlap",
    "own_processes",
    "own_seed",
    "parallel_rounds",
    "reduction",
    "total",
]

# Of the strategies, which count from 1, no group comes near.  Groups differ
# in their key if they differ in size.
_GROUP_KEY = 2**30
# TensorFlow's own default.
_PARALLEL_ROUNDS = 10


class Round(typing.NamedTuple):
    """Of a loop, in which operations stand.

    Attributes:
      index: int32 scalar, from 0.
      count: how many there are.
    """

    index: typing.Any
    count: int


_ROUND = contextvars.ContextVar("round", default=None)
_ASSUMED = contextvars.ContextVar("assumed", default=None)


def count() -> int:
    """Replicas that run the calling code together; 1 outside a replica."""
    if _ASSUMED.get():
        return _ASSUMED.get()[0]
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


@contextlib.contextmanager
def assuming(number: int, kind: str = "CPU") -> Iterator[None]:
    """Traces as one of several processes would, of which there are none.

    The graph can be looked at, not run.

    Args:
      number: of replicas.
      kind: of device that each is, "CPU" or "GPU".
    """
    token = _ASSUMED.set((number, kind))
    try:
        yield
    finally:
        _ASSUMED.reset(token)


def own_processes() -> bool:
    """Whether every replica is a process of its own."""
    if _ASSUMED.get():
        return True
    strategy = tf.distribute.get_strategy()
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and len(strategy.extended.worker_devices) == 1
    )


def current_round() -> Round | None:
    """That of the calling code; for `in_round`, in its gradient."""
    return _ROUND.get()


@contextlib.contextmanager
def in_round(which: Round | None) -> Iterator[None]:
    """Reductions in this context are those of a round of a loop.

    Args:
      which: None outside of loops.
    """
    token = _ROUND.set(which)
    try:
        yield
    finally:
        _ROUND.reset(token)


def parallel_rounds() -> int:
    """How many rounds of a loop may be under way at once.

    One after the other where all reductions keep one order: a round's last one
    need not be what the next round waits for.
    """
    ordered = count() > 1 and device_kind() == "GPU"
    return 1 if ordered else _PARALLEL_ROUNDS


def device_kind() -> str:
    """Kind of the current strategy's devices: "CPU", "GPU" or "TPU"."""
    if _ASSUMED.get():
        return _ASSUMED.get()[1]
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
    if own_processes():
        return reduction(tensor, key(tensor))
    context = tf.distribute.get_replica_context()
    tensor = tf.stop_gradient(tensor)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def mean(tensor):
    """Mean over the replicas; see `total`."""
    if count() == 1:
        return tensor
    if own_processes():
        return reduction(tensor, key(tensor), final="Div")
    return total(tensor) / count()


def overlap() -> bool:
    """Whether `means` runs beside other work; see there."""
    return count() > 1 and own_processes() and device_kind() != "GPU"


def means(tensors) -> list:
    """Means over the replicas of tensors that are large.

    Each starts when its tensor is there and the one before it is done, beside
    all other work.  On GPUs, where all reductions keep one order, they begin
    when those that were traced before them are done.

    Args:
      tensors: float32, in the order in which they get ready.
    """
    if count() == 1 or not own_processes():
        return [mean(tensor) for tensor in tensors]
    order = (_order(),) if overlap() else ()
    return [
        reduction(tensor, key(tensor), final="Div", order=order)
        for tensor in tensors
    ]


def reduction(tensor, key, *, final: str = "Id", order=()):
    """The collective operation, where `own_processes`; without gradient.

    Args:
      tensor: of any floating dtype.
      key: see `key`.
      final: "Id" for the sum, "Div" for the mean.
      order: a resource; reductions with the same one keep their order among
        themselves, and with no other operation.
    """
    return tf.raw_ops.CollectiveReduceV2(
        input=tensor,
        group_size=count(),
        group_key=_GROUP_KEY + count(),
        instance_key=key,
        ordering_token=list(order),
        merge_op="Add",
        final_op=final,
        # "auto" would not be NCCL, unless the whole session were set to it.
        communication_hint="nccl" if device_kind() == "GPU" else "ring",
    )


def key(tensor):
    """The key of the next reduction of such a tensor, int32 scalar.

    Args:
      tensor: of a shape that is known.
    """
    which = current_round()
    rounds = 1 if which is None else which.count
    first = _KEYS.next((tensor.dtype, *tensor.shape.as_list(), rounds), rounds)
    return first if which is None else first + which.index


def own_seed(seed, index):
    """A seed int32 `[2]` of the noise of one replica among several.

    Args:
      seed: int32 `[2]`, of all.
      index: of the replica.
    """
    return tf.random.experimental.stateless_fold_in(seed, index, alg="philox")


class _Keys:
    """Keys by what is reduced and where in its trace.

    Processes that trace a function a different number of times still agree.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._first: dict[tuple[tuple, int], int] = {}
        self._end = 1
        self._traces = weakref.WeakKeyDictionary()

    def next(self, kind: tuple, rounds: int) -> int:
        """The first of so many keys, for the next reduction of a kind.

        Args:
          kind: what differs between reductions but their number.
          rounds: how many keys it has.
        """
        graph = tf.compat.v1.get_default_graph()
        # That of the outermost function: the one around it is of all traces.
        while (
            outer := getattr(graph, "outer_graph", None)
        ) is not None and outer.building_function:
            graph = outer
        with self._lock:
            # Eagerly, one is over before the next one starts.
            number = 0
            if not tf.executing_eagerly():
                seen = self._traces.setdefault(graph, collections.Counter())
                number = seen[kind]
                seen[kind] += 1
            if (kind, number) not in self._first:
                self._first[kind, number] = self._end
                self._end += rounds
            return self._first[kind, number]


_KEYS = _Keys()
_ORDER = []


def _order():
    """A resource that stands for an order, and holds nothing."""
    if not _ORDER:
        with tf.init_scope(), tf.device("CPU:0"):
            _ORDER.append(
                tf.raw_ops.VarHandleOp(
                    dtype=tf.float32, shape=[], shared_name="nvae_tf/order"
                )
            )
    return _ORDER[0]
