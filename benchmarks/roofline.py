"""What bounds a training step: its operations against the machine's peaks.

    python -m benchmarks.roofline --cases=small,deep

No operation is faster than its FLOP at the rate of a large product of float32
matrices, nor than its bytes at the rate of multiplying two tensors, of the size
that suits the caches best, element by element (Williams et al. 2009); the
longer of the two times is its roof.  A profile says how long it took.  All are
of the cores that one operation has, which are not all where several run side
by side.
"""

import collections
import functools
import math
import re
import statistics
import typing

from absl import flags

from benchmarks import cases, results, train_step
from benchmarks.processes import measured

__all__ = ["FAMILIES", "family_of", "measure", "run"]

_STEPS = 3
_WARM_UP_SECONDS = 2.0

# Kinds of operations, without what TensorFlow puts before and after the names
# of oneDNN's kernels; the first that matches counts.
FAMILIES = {
    "depthwise convolution and its gradients": r"Depthwise",
    "convolution, gradient by the kernel": r"Conv2DBackpropFilter",
    "convolution, gradient by the input": r"Conv2DBackpropInput",
    "convolution": r"Conv2D",
    "product of matrices": r"MatMul",
    "batch normalisation and its gradient": r"FusedBatchNorm",
    "sums and means": r"(Sum|Mean|Max|BiasAddGrad|L2Loss|All|Any)$",
    "copies in another arrangement": (
        r"Transpose|Slice|Concat|Pad|Tile|Split|^Pack$|Unpack|ResizeNearest"
        r"|DepthToSpace|SpaceToDepth|Gather|BroadcastTo|TensorList|Reverse"
    ),
    "random numbers": r"Random|Bernoulli",
    "element by element": r"",
}


def family_of(kind: str) -> str:
    """The key of `FAMILIES` for a kind of operation of a profile."""
    return next(
        name for name, pattern in FAMILIES.items() if re.search(pattern, kind)
    )


def run(store: results.Results, names) -> None:
    """Measures cases, and prints and keeps the results.

    Args:
      store: where to keep them.
      names: of cases.
    """
    for name in names:
        cases.case(name)
    for name in names:
        result = measured("benchmarks.roofline:measure", name=name)
        store.add("roofline", name, result)
        print(f"\n{name}\n{_describe(result)}", flush=True)


def _describe(result: dict) -> str:
    """The table of one result."""
    if "error" in result:
        return result["error"]
    rows = [
        [
            family["name"],
            f"{family['share']:.0%}",
            f"{family['flop_share']:.0%}",
            f"{family['compute']:.0%}",
            f"{family['bandwidth']:.0%}",
            f"{family['roof']:.0%}",
        ]
        for family in result["families"]
    ]
    return (
        results.table(
            ["operations", "of the time", "of the FLOP", "of peak FLOP/s"]
            + ["of peak bytes/s", "roof over time"],
            rows,
        )
        + f"\nAll: {result['roof']:.0%} of the roof, "
        f"{result['at_once']:.1f} operations at a time."
    )


def measure(name: str, started: float = 0.0) -> dict:
    """Profiles some steps of a case in this process.

    Args:
      name: of the case.
      started: as `measured` passes it; not needed.

    Raises:
      UserError: if the profile holds no operation of a CPU.
    """
    del started
    from nvae_tf.distribute.cores import share_cores, share_heaps

    case = cases.case(name)
    share_heaps()
    import tensorflow as tf

    from benchmarks import machine
    from benchmarks.graph_work import GraphWork
    from nvae_tf.training.profile_times import operations

    share_cores(case.model.convolution_work(case.batch_size))
    step = train_step.build_step(case)
    x = tf.zeros((case.batch_size, *case.image_shape))
    graph = train_step.concrete_step(step, x).graph
    take = train_step.taker(step, x)
    times = train_step.step_times(take, _WARM_UP_SECONDS)
    side_by_side = machine.side_by_side()
    peaks = _Peaks(
        machine.matmul_rate() / side_by_side,
        machine.moving_rate() / side_by_side,
    )
    with train_step.profiled(take, _STEPS) as path:
        totals = _totals(operations(path), GraphWork(graph), peaks)
    seconds = sum(total.seconds for total in totals.values())
    known = sum(total.known_seconds for total in totals.values())
    roof = sum(total.roof_seconds for total in totals.values())
    flop = sum(total.flop for total in totals.values())
    return {
        "peak_flop_per_second": peaks.flop,
        "peak_bytes_per_second": peaks.bytes,
        "at_once": seconds / (_STEPS * statistics.median(times[1:])),
        "known": known / seconds,
        "roof": roof / known,
        "families": [
            {
                "name": family,
                "share": total.seconds / seconds,
                "flop_share": total.flop / flop,
                **total.rates(peaks),
            }
            for family, total in sorted(
                totals.items(), key=lambda item: -item[1].seconds
            )
        ],
    }


class _Peaks(typing.NamedTuple):
    """FLOP and bytes per second, of the threads of one operation."""

    flop: float
    bytes: float


class _Total:
    """What the operations of one family came to."""

    def __init__(self):
        self.seconds = self.known_seconds = self.roof_seconds = 0.0
        self.flop = self.bytes = 0

    def add(self, seconds: float, work, peaks: _Peaks) -> None:
        """Counts an operation; its work is None where it is not known."""
        self.seconds += seconds
        if work is None:
            return
        self.known_seconds += seconds
        self.flop += work.flop
        self.bytes += work.bytes
        self.roof_seconds += max(
            work.flop / peaks.flop, work.bytes / peaks.bytes
        )

    def rates(self, peaks: _Peaks) -> dict[str, float]:
        """What was reached of the peaks, and of the roof."""
        seconds = self.known_seconds or math.inf
        return {
            "compute": self.flop / seconds / peaks.flop,
            "bandwidth": self.bytes / seconds / peaks.bytes,
            "roof": self.roof_seconds / seconds,
        }


def _totals(ran, graph_work, peaks: _Peaks) -> dict[str, _Total]:
    totals = collections.defaultdict(_Total)
    work = functools.cache(graph_work.work)  # Loops run an operation often.
    for operation in ran:
        totals[family_of(operation.kind)].add(
            operation.seconds, work(operation.name, operation.kind), peaks
        )
    return dict(totals)


def _main(_) -> None:
    run(results.from_flags(), flags.FLAGS.cases)


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_list("cases", ["small", "mnist", "deep"], "What to measure.")
    results.define_folder()
    command_line.run(_main)
