"""Speed, start-up, memory and graph size of training steps.

    python -m benchmarks.train_step --cases=small,deep --recompute=none,cell

Every measurement runs in a process of its own.  MFU is three times the forward
pass's FLOP (convolutions and dense layers), times images per second, over the
rate of a float32 product of 2048 x 2048 matrices in the same process.
"""

import contextlib
import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator

from absl import flags

from benchmarks import cases, results, step_flags
from benchmarks.processes import measured, peak_gigabytes
from nvae_tf.distribute.cores import share_cores, share_heaps

__all__ = [
    "PHASES",
    "build_step",
    "concrete_step",
    "count_nodes",
    "measure",
    "name_of",
    "profiled",
    "run",
    "step_times",
    "taker",
]

# From the start of the process to the end of the first step.
PHASES = ("import", "build", "trace", "optimise", "first step")
_MAX_STEPS = 60


def name_of(case: str, precision="float32", recompute=cases.RECOMPUTE) -> str:
    """The name of a result."""
    return f"{case} {precision} {recompute}"


def run(
    store: results.Results,
    names,
    precisions=("float32",),
    recomputes=(cases.RECOMPUTE,),
    seconds: float = 15.0,
) -> None:
    """Measures every combination, and prints and keeps the results.

    Args:
      store: where to keep them.
      names: of cases.
      precisions: to compute in.
      recomputes: what the backward pass computes again.
      seconds: how long to take steps, two at least.
    """
    for name in names:
        cases.case(name)
    step_flags.check(precisions, recomputes)
    rows = []
    for name, precision, recompute in itertools.product(
        names, precisions, recomputes
    ):
        result = measured(
            "benchmarks.train_step:measure",
            name=name,
            precision=precision,
            recompute=recompute,
            seconds=seconds,
        )
        label = name_of(name, precision, recompute)
        store.add("train_step", label, result)
        rows.append(_row(label, result))
        print(label, *rows[-1][1:], flush=True)
    print(
        results.table(
            ["case", "step ms", "images/s", "MFU", "nodes", "peak GB"]
            + ["start s", *(f"{phase} s" for phase in PHASES)],
            rows,
        )
    )


def _row(label: str, result: dict) -> list[str]:
    if "error" in result:
        return [label, result["error"], *[""] * (5 + len(PHASES))]
    return [
        label,
        f"{1e3 * result['step_seconds']:.1f}",
        f"{result['images_per_second']:.1f}",
        f"{result['mfu']:.1%}",
        f"{result['nodes']:,}",
        f"{result['peak_gb']:.2f}",
        f"{result['start_seconds']:.1f}",
        *(f"{result['phases'][phase]:.1f}" for phase in PHASES),
    ]


def measure(
    name: str,
    *,
    started: float,
    precision: str = "float32",
    recompute: str = cases.RECOMPUTE,
    seconds: float = 15.0,
    batch_size: int | None = None,
    changes: dict | None = None,
) -> dict:
    """Builds, traces and runs one case in this process.

    Args:
      name: of the case.
      started: when the process was.
      precision: to compute in.
      recompute: what the backward pass computes again.
      seconds: how long to take steps, two at least.
      batch_size: another than the case's.
      changes: of the case's model.
    """
    case = cases.case(name, batch_size, **(changes or {}))
    share_heaps()
    began = time.time()
    import tensorflow as tf

    tensorflow_seconds = time.time() - began
    from benchmarks import flops, machine
    from nvae_tf.training import train_step  # noqa: F401, imported for its time.

    share_cores(case.model.convolution_work(case.batch_size))
    imported_gb = peak_gigabytes()
    marks = [started, time.time()]
    step = build_step(case, precision, recompute)
    x = tf.round(
        tf.random.stateless_uniform(
            (case.batch_size, *case.image_shape), [0, 0]
        )
    )
    marks.append(time.time())
    graph = concrete_step(step, x).graph
    marks.append(time.time())
    traced_gb = peak_gigabytes()
    take = taker(step, x)
    times = step_times(take, seconds)
    # One step is measured whole; the rest of the first call is TensorFlow
    # optimising the graph and placing it on the device.
    first, usual = times[0], statistics.median(times[2:] or times[1:])
    peak = peak_gigabytes()
    model = step.model
    phases = [b - a for a, b in itertools.pairwise(marks)]
    phases += [max(0.0, first - usual), min(first, usual)]
    result = {
        "precision": precision,
        "recompute": recompute,
        "batch_size": case.batch_size,
        "groups": case.model.num_groups,
        "parameters": sum(
            v.shape.num_elements() for v in model.trainable_variables
        ),
        "step_seconds": usual,
        "steps": len(times),
        "images_per_second": case.batch_size / usual,
        "start_seconds": sum(phases),
        "tensorflow_seconds": tensorflow_seconds,
        "phases": dict(zip(PHASES, phases, strict=True)),
        "nodes": count_nodes(graph),
        "imported_gb": imported_gb,
        "traced_gb": traced_gb,
        "peak_gb": peak,
        "matmul_flops": machine.matmul_rate(),
        "forward_flop": flops.forward_flop(model),
    }
    flop = flops.BACKWARD_FACTOR * result["forward_flop"]
    result["mfu"] = flop * result["images_per_second"] / result["matmul_flops"]
    return result


def build_step(
    case: cases.Case,
    precision="float32",
    recompute=cases.RECOMPUTE,
    seed=0,
    **options,
):
    """The training step of a case: all losses, regularisers, the optimiser.

    Args:
      case: what to train.
      precision: to compute in.
      recompute: what the backward pass computes again.
      seed: of the weights; None leaves them zero.
      **options: more of `NVAE`'s.

    Returns:
      A `TrainStep`.
    """
    from nvae_tf.model.nvae import NVAE
    from nvae_tf.model.regularizers import SpectralRegularizer
    from nvae_tf.training.optimizer import Adamax
    from nvae_tf.training.train_step import TrainStep

    model = NVAE(case.model, seed=seed, recompute=recompute, **options)
    model.compute_in(precision)
    return TrainStep(
        model, Adamax(model.trainable_variables), SpectralRegularizer(model)
    )


def concrete_step(step, x):
    """The traced step.

    Args:
      step: a `TrainStep`.
      x: images `[B, H, W, C]`, or a `tf.TensorSpec` of them.
    """
    import tensorflow as tf

    return step.__call__.get_concrete_function(
        x, _coefficients(), seed=tf.constant([0, 0], tf.int32)
    )


def taker(step, x):
    """The function of a number that takes a step on x, and waits for it.

    Args:
      step: a `TrainStep`.
      x: images `[B, H, W, C]`.
    """
    import tensorflow as tf

    def take(i: int) -> None:
        result = step(x, _coefficients(), seed=tf.constant([0, i], tf.int32))
        loss = float(result.total_loss)
        if loss != loss:
            raise ArithmeticError(f"The loss of step {i} is not a number.")

    return take


def count_nodes(graph) -> int:
    """Nodes of a graph, the bodies of its functions included."""
    definition = graph.as_graph_def()
    return len(definition.node) + sum(
        len(function.node_def) for function in definition.library.function
    )


def _coefficients():
    import tensorflow as tf

    from nvae_tf.config.schedules import Coefficients

    return Coefficients(
        beta=tf.constant(0.4),
        regularization=tf.constant(1e-2),
        learning_rate=tf.constant(1e-4),
    )


def step_times(take, seconds: float) -> list[float]:
    """Seconds of the first step, and of two others at least.

    Args:
      take: see `taker`.
      seconds: how long the others should take in all.
    """
    times = []
    while len(times) < 3 or (
        sum(times[1:]) < seconds and len(times) < _MAX_STEPS
    ):
        began = time.perf_counter()
        take(len(times))
        times.append(time.perf_counter() - began)
    return times


@contextlib.contextmanager
def profiled(take, steps: int) -> Iterator[pathlib.Path]:
    """The profile of some steps; it is gone at the end.

    Args:
      take: see `taker`.
      steps: how many.
    """
    from nvae_tf.training.profile_times import latest_profile
    from nvae_tf.training.profiling import StepProfiler

    with tempfile.TemporaryDirectory() as folder:
        with StepProfiler(folder, steps, skip=0) as profiler:
            for i in range(steps):
                with profiler.step(i):
                    take(i)
        yield latest_profile(folder)


def _main(_) -> None:
    values = flags.FLAGS
    run(
        results.from_flags(),
        values.cases,
        values.precision,
        values.recompute,
        values.seconds,
    )


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_list("cases", ["small", "mnist", "deep"], "What to measure.")
    step_flags.define(seconds=15.0)
    results.define_folder()
    command_line.run(_main)
