"""What replicas tell each other is counted right."""

import pytest
import tensorflow as tf

from benchmarks import cases, reductions
from benchmarks.train_step import build_step, concrete_step
from nvae_tf.distribute import replicas
from tests.support import graph_reductions

_SENT = reductions.Traffic(reductions=100, num_bytes=10**9)
_LINK = reductions.Link(latency=1e-5, bandwidth=1e10)


def test_one_replica_waits_for_nobody():
    assert reductions.predicted_seconds(0.5, _SENT, _LINK, 1) == 0.5


def test_ring_of_many_sends_everything_twice():
    """Its messages are smaller by as much as they are more."""
    link = reductions.Link(latency=0.0, bandwidth=1e10)
    seconds = reductions.predicted_seconds(0.5, _SENT, link, 10**6)
    assert seconds == pytest.approx(0.5 + 2 * 0.1, rel=1e-5)


def test_reductions_wait_for_each_message_of_the_ring():
    sent = reductions.Traffic(reductions=100, num_bytes=0)
    seconds = reductions.predicted_seconds(0.5, sent, _LINK, 8)
    assert seconds == pytest.approx(0.5 + 100 * 14 * 1e-5)


@pytest.mark.long
def test_all_reductions_of_a_step_are_counted():
    case = cases.case("tiny")
    images = tf.TensorSpec([2, *case.image_shape])
    with replicas.assuming(2):
        # A loop would count as one.
        step = build_step(case, seed=None, unroll=True)
        graph = concrete_step(step, images).graph
    counted = reductions.traffic(step.model)
    assert counted.reductions == len(graph_reductions.reductions(graph))
    parameters = sum(
        variable.shape.num_elements()
        for variable in step.model.trainable_variables
    )
    assert counted.num_bytes > 4 * parameters


@pytest.mark.long
def test_link_between_two_processes_is_measured():
    link = reductions.measured_link(2)
    assert 0 < link.latency < 1
    assert link.bandwidth > 1e6
