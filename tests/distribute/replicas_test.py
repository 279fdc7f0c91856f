"""Layers and a model on several replicas; see `replicas_check.py`."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.distribute import replicas
from nvae_tf.model.scan import scan
from tests.support import graph_reductions

_EVERYWHERE = {
    "batch normalisation, image",
    "batch normalisation, one pixel of one image",
    "batch normalisation far from 0",
    "initialization",
    "means",
}
_PROCESSES = {"loop", "model", "model, one image each, and in half precision"}

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("strategy", "count", "more"),
    [
        ("mirrored", 2, {"model"}),
        ("mirrored", 4, set()),
        ("processes", 2, _PROCESSES),
        ("processes", 4, _PROCESSES),
    ],
)
def test_replicas_together_compute_what_one_would(
    tmp_path, strategy, count, more
):
    command = [sys.executable, "-m", "tests.distribute.replicas_check"]
    result = subprocess.run(
        [*command, strategy, str(count), tmp_path],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert set(result.stdout.splitlines()) == _EVERYWHERE | more


def _keys(*sizes, rounds=0):
    """The keys of reductions in a trace of its own, of so many numbers."""

    @tf.function(autograph=False)
    def trace():
        def step(carry, _):
            keys = [replicas.key(tf.zeros([size])) for size in sizes]
            return carry, tf.stack(keys)

        if rounds:
            return scan(step, tf.zeros([]), tf.zeros([rounds]), rounds)[1]
        return step(None, None)[1]

    with replicas.assuming(2):
        return trace().numpy()


def test_reductions_of_a_trace_have_keys_that_differ():
    assert len(set(_keys(3, 3, 5, 3))) == 4


def test_rounds_of_a_loop_have_keys_that_differ():
    keys = _keys(3, 3, 5, rounds=6)
    assert keys.shape == (6, 3)
    assert len({*keys.flat, *_keys(3, 3, 5)}) == keys.size + 3


def test_another_trace_has_the_same_keys():
    """Or TensorFlow's table of them would grow with every step."""
    first = _keys(7, 2, 7, rounds=3)
    np.testing.assert_array_equal(_keys(7, 2, 7, rounds=3), first)


def test_key_stands_for_one_shape_in_all_traces():
    first, second = _keys(8, 9, 8), _keys(9, 8, 9, 9)
    assert set(first[[0, 2]]).isdisjoint(second[[0, 2, 3]])
    assert first[1] == second[0]


def test_processes_that_traced_more_or_less_agree():
    """Of one shape, the first in a trace is the first in all."""
    _keys(11)
    again = _keys(11, 12)
    assert again[0] == _keys(11)[0] == _keys(12, 11)[1]


def _all_before(op):
    """Every operation that has run before this one starts."""
    found, todo = set(), [op]
    while todo:
        for before in (
            *(tensor.op for tensor in todo[-1].inputs),
            *todo.pop().control_inputs,
        ):
            if before not in found:
                found.add(before)
                todo.append(before)
    return found


@pytest.mark.parametrize("kind", ["CPU", "GPU"])
def test_reductions_keep_one_order_but_for_means_on_cpus(kind):
    """NCCL wants them to start in the same order everywhere."""

    def step(carry, x):
        return carry + replicas.total(x), x

    @tf.function(autograph=False)
    def work(x, rows):
        first = replicas.total(x)
        gradient = replicas.means([2 * x, 3 * x])
        _, _ = scan(step, x, rows, 3)
        return first, gradient, replicas.mean(4 * x)

    with replicas.assuming(4, kind):
        graph = work.get_concrete_function(
            tf.zeros([6]), tf.zeros([3, 6])
        ).graph
    operations = graph_reductions.reductions(graph)
    assert len(operations) == 5
    (loop,) = (op for op in operations if op.type == "While")
    # One round after the other, where the next one need not wait for all.
    assert (loop.get_attr("parallel_iterations") == 1) == (kind == "GPU")
    pairs = [
        (a, b)
        for a in operations
        for b in operations
        if a in _all_before(b) or b in _all_before(a)
    ]
    # Of CPUs, the two of the gradient are a line of their own.
    assert len(pairs) == {"GPU": 5 * 4, "CPU": 2 * 1 + 3 * 2}[kind]


def test_one_replica_reduces_nothing():
    tensor = tf.constant([1.0, 2.0])
    for assumed in (contextlib.nullcontext(), replicas.assuming(1)):
        with assumed:
            for same in (
                replicas.total(tensor),
                replicas.mean(tensor),
                *replicas.means([tensor]),
            ):
                assert same is tensor
