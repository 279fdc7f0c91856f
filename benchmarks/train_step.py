"""Time, memory and graph size of training steps, from process start.

    python -m benchmarks.train_step --model=small --steps=10

Every measurement runs in a process of its own: start-up and peak memory are
part of it.  MFU is three times the forward pass's convolution and dense FLOPs,
times images per second, over the rate of a 2048-cube float32 matmul measured
in the same process.
"""

import json
import resource
import subprocess
import sys
import time

from absl import app, flags

from nvae_tf.model_config import ModelConfig

_START = time.monotonic()

_MODEL = flags.DEFINE_string(
    "model", "small,deep", "Models to measure, by name, comma separated."
)
_STEPS = flags.DEFINE_integer("steps", 8, "Steps timed, after the first two.")
_PRECISION = flags.DEFINE_string("precision", "float32", "Of the model.")
_ONE = flags.DEFINE_bool("one", False, "Measure in this process.")

_BINARY = {
    "image_size": 28,
    "padding": 2,
    "image_channels": 1,
    "num_bits": 1,
    "likelihood": "bernoulli",
    "num_latent_scales": 2,
    "adaptive_groups": True,
    "num_preprocess_blocks": 2,
}
# name -> (model, batch size, GFLOP of one image forward)
MODELS = {
    "small": (
        ModelConfig(
            **_BINARY,
            num_groups_per_scale=4,
            num_channels_enc=16,
            num_channels_dec=16,
            num_cells_enc=1,
            num_cells_dec=1,
        ),
        32,
        0.2192,
    ),
    "mnist": (
        ModelConfig(
            **_BINARY,
            num_groups_per_scale=10,
            num_preprocess_cells=3,
            num_postprocess_cells=3,
        ),
        32,
        2.534,
    ),
    "deep": (
        ModelConfig(
            num_groups_per_scale=30, num_channels_enc=16, num_channels_dec=16
        ),
        4,
        1.379,
    ),
    "cifar": (
        ModelConfig(
            num_groups_per_scale=30,
            num_channels_enc=128,
            num_channels_dec=128,
            num_flow_pairs=1,
        ),
        8,
        67.47,
    ),
}


def main(argv) -> None:
    """Measures every model in a process of its own and prints a table."""
    del argv
    names = _MODEL.value.split(",")
    unknown = sorted(set(names) - MODELS.keys())
    if unknown:
        raise app.UsageError(
            f"unknown model {unknown[0]!r}; known are {', '.join(MODELS)}"
        )
    if _ONE.value:
        print(json.dumps(measure(names[0], _PRECISION.value, _STEPS.value)))
        return
    print(
        f"{'model':8s}{'step ms':>10s}{'images/s':>10s}{'MFU':>7s}"
        f"{'start s':>9s}{'trace s':>9s}{'first s':>9s}{'nodes':>8s}"
        f"{'peak MB':>9s}"
    )
    for name in names:
        result = _in_new_process(name)
        print(
            f"{name:8s}{result['step_ms']:10.1f}"
            f"{result['images_per_second']:10.1f}{result['mfu']:7.3f}"
            f"{result['start_to_first_step']:9.1f}{result['trace']:9.1f}"
            f"{result['first_step']:9.1f}{result['nodes']:8d}"
            f"{result['peak_mb']:9.0f}"
        )
        print(f"  {json.dumps(result)}")


def _in_new_process(name: str) -> dict:
    command = [
        sys.executable,
        "-m",
        "benchmarks.train_step",
        "--one",
        f"--model={name}",
        f"--precision={_PRECISION.value}",
        f"--steps={_STEPS.value}",
    ]
    output = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def measure(name: str, precision: str, steps: int) -> dict:
    """Builds, traces and runs; the first step includes graph optimisation."""
    import tensorflow as tf

    from nvae_tf.model import NVAE
    from nvae_tf.optimizer import Adamax
    from nvae_tf.regularizers import SpectralRegularizer
    from nvae_tf.schedules import Coefficients
    from nvae_tf.train_step import TrainStep

    config, batch_size, gflop = MODELS[name]
    model = NVAE(config, dtype=precision)
    step = TrainStep(
        model, Adamax(model.trainable_variables), SpectralRegularizer(model)
    )
    shape = (config.padded_size, config.padded_size, config.image_channels)
    x = tf.round(tf.random.stateless_uniform((batch_size, *shape), [0, 0]))
    arguments = x, Coefficients(*map(tf.constant, (0.4, 1e-2, 1e-4)))
    traced = time.monotonic()
    graph = step.__call__.get_concrete_function(
        *arguments, seed=tf.constant([0, 0])
    ).graph
    trace = time.monotonic() - traced
    times = []
    for i in range(steps + 2):
        began = time.monotonic()
        step(*arguments, seed=tf.constant([0, i])).total_loss.numpy()
        times.append(time.monotonic() - began)
        if i == 0:
            start_to_first_step = time.monotonic() - _START
    seconds = sorted(times[2:])[steps // 2]
    rate = batch_size / seconds
    return {
        "model": name,
        "precision": precision,
        "step_ms": 1e3 * seconds,
        "images_per_second": rate,
        "mfu": 3e9 * gflop * rate / _matmul_rate(tf),
        "start_to_first_step": start_to_first_step,
        "trace": trace,
        "first_step": times[0],
        "nodes": count_nodes(graph),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def count_nodes(graph) -> int:
    """Nodes of a graph, the bodies of its functions included."""
    definition = graph.as_graph_def()
    return len(definition.node) + sum(
        len(function.node_def) for function in definition.library.function
    )


def _matmul_rate(tf) -> float:
    """FLOP per second of a 2048-cube float32 matmul."""
    a = tf.random.stateless_uniform([2048, 2048], [0, 0])
    product = tf.function(lambda: tf.linalg.matmul(a, a))
    best = float("inf")
    for _ in range(6):
        began = time.monotonic()
        product().numpy()
        best = min(best, time.monotonic() - began)
    return 2 * 2048**3 / best


if __name__ == "__main__":
    app.run(main)
