"""What replicas tell each other in a step, and how long that takes.

    python -m benchmarks.reductions --cases=cifar --processes=2 --predict=8,64

counts the reductions of a step, measures how long a small and a large one take
between processes of this machine, and predicts what the step takes on a
number of replicas.  The model is that of a ring, in which each of R members
sends 2 (R - 1) messages, of 1/R of the values each:

    seconds = step + 2 (R - 1) (reductions * latency + bytes / (R * bandwidth))

with nothing of it hidden behind computation: an upper bound.  NCCL's trees
have log2(R) in place of R - 1 messages.  For another machine give its step,
latency and bandwidth: `--step_ms`, `--latency_us`, `--gb_per_second`.
"""

import dataclasses
import json
import pathlib
import sys
import tempfile
import time

from absl import flags

from benchmarks import cases, results
from nvae_tf.core.errors import UserError

__all__ = ["Link", "Traffic", "predicted_seconds", "traffic"]

_SMALL, _LARGE = 2**8, 2**22  # float32 values.
_ROUNDS = {_SMALL: 200, _LARGE: 10}
# Float64, two numbers for each channel, and float32 in the backward pass.
_FORWARD_BYTES, _BACKWARD_BYTES = 16, 8


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one replica gives to reductions in a step.

    Attributes:
      reductions: how many.
      num_bytes: of all of them.
    """

    reductions: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Link:
    """Between two members of a ring.

    Attributes:
      latency: of a message, seconds.
      bandwidth: bytes per second.
    """

    latency: float
    bandwidth: float


def traffic(model) -> Traffic:
    """Counts the reductions of a model's training step.

    Args:
      model: an `NVAE`.
    """
    from nvae_tf.model import flat
    from nvae_tf.model.layers import BatchNorm

    norms = [
        layer for _, layer in model.leaves() if isinstance(layer, BatchNorm)
    ]
    layers = sum(layer.stack or 1 for layer in norms)
    channels = sum(layer.gamma.shape.num_elements() for layer in norms)
    shapes = [variable.shape for variable in model.trainable_variables]
    parameters = sum(shape.num_elements() for shape in map(_static, shapes))
    # The sizes of the KL terms, and the metrics with the vote to stop.
    others = 2
    return Traffic(
        2 * layers + len(flat.parts(list(map(_static, shapes)))) + others,
        (_FORWARD_BYTES + _BACKWARD_BYTES) * channels + 4 * parameters,
    )


def predicted_seconds(
    step_seconds: float, sent: Traffic, link: Link, replicas: int
) -> float:
    """How long a step takes on several replicas; see the module.

    Args:
      step_seconds: on one replica, of the same batch per replica.
      sent: by each.
      link: between them.
      replicas: how many.
    """
    messages = 2 * (replicas - 1)
    share = sent.num_bytes / replicas
    return step_seconds + messages * (
        sent.reductions * link.latency + share / link.bandwidth
    )


def measured_link(processes: int) -> Link:
    """Of local processes, one after the other in a ring.

    Args:
      processes: how many, at least 2.
    """
    from nvae_tf.distribute import launcher

    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "seconds.json")
        command = [sys.executable, "-m", "benchmarks.reductions", str(out)]
        if launcher.launch(processes, folder, command):
            raise UserError("The processes that reduce have failed, see above.")
        seconds = json.loads(out.read_bytes())
    messages = 2 * (processes - 1)
    latency = seconds[str(_SMALL)] / messages
    transfer = seconds[str(_LARGE)] / messages - latency
    return Link(latency, 4 * _LARGE / processes / max(transfer, 1e-9))


def _static(shape):
    import tensorflow as tf

    return tf.TensorShape(shape)


def _time_reductions(out: str) -> None:
    """One of the processes: seconds of a reduction, by its size."""
    import tensorflow as tf

    from nvae_tf.distribute import devices, replicas

    found = devices.open_devices("multi_worker")

    def run(size: int):
        rounds = _ROUNDS[size]

        def body(i, x):
            with replicas.in_round(replicas.Round(i, rounds)):
                return i + 1, replicas.mean(x)

        return tf.while_loop(
            lambda i, _: i < rounds, body, (0, tf.ones([size]))
        )[1]

    seconds = {}
    for size, rounds in _ROUNDS.items():
        function = tf.function(
            lambda size=size: found.strategy.run(run, (size,)),
            autograph=False,
        )
        function()
        began = time.perf_counter()
        function()
        seconds[size] = (time.perf_counter() - began) / rounds
    if found.is_chief:
        pathlib.Path(out).write_text(json.dumps(seconds))


def _main(_) -> None:
    values = flags.FLAGS
    from nvae_tf.training.run_plan import model_without_weights

    link = Link(values.latency_us / 1e6, values.gb_per_second * 1e9)
    if not values.latency_us:
        link = measured_link(values.processes)
    print(
        f"A message takes {1e6 * link.latency:.0f} us and "
        f"{link.bandwidth / 1e9:.2f} GB per second."
    )
    rows = []
    for name in values.cases:
        sent = traffic(model_without_weights(cases.case(name).model))
        for count in map(int, values.predict):
            step = values.step_ms / 1e3
            seconds = predicted_seconds(step, sent, link, count)
            rows.append(
                [name, count, sent.reductions, f"{sent.num_bytes / 1e6:.0f}"]
                + [f"{1e3 * (seconds - step):.0f}"]
                + [f"{step / seconds:.0%}" if step else ""]
            )
    heading = ["case", "replicas", "reductions", "MB", "ms in them"]
    print(results.table([*heading, "efficiency"], rows))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        _time_reductions(sys.argv[1])
        sys.exit()
    from nvae_tf.commands import command_line

    flags.DEFINE_list("cases", ["small", "cifar"], "Whose steps.")
    flags.DEFINE_integer("processes", 2, "Local ones, to measure.", 2)
    flags.DEFINE_list("predict", ["2", "8", "64"], "Numbers of replicas.")
    flags.DEFINE_float("step_ms", 0.0, "A step on one replica.")
    flags.DEFINE_float("latency_us", 0.0, "Of a message; 0 to measure.")
    flags.DEFINE_float("gb_per_second", 1.0, "Where latency_us is given.")
    command_line.run(_main)
