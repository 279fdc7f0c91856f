"""Graph sizes, which are exact and decide how fast a deep model starts.

The bounds are what the training step has now, rounded up: a change that needs
more nodes should know, and say, what for.
"""

import functools

import pytest
import tensorflow as tf

from benchmarks import cases
from benchmarks.train_step import build_step, concrete_step, count_nodes
from nvae_tf.distribute import replicas

_BOUNDS = {
    "small": 17_300,
    "cifar": 14_000,
    "deep": 11_500,
}


# Of the step of one among several replicas, against that of one alone.
_FACTOR = 1.15
# Those of the paper; FFHQ's is that of CelebA HQ.
_PAPER = ("mnist", "cifar", "imagenet32", "celeba64", "celeba_hq256")


@functools.cache
def _training_nodes(name, number=1, **changes) -> int:
    """Of the step of one of so many replicas."""
    case = cases.case(name, **changes)
    images = tf.TensorSpec([4, *case.image_shape])
    with replicas.assuming(number):
        step = concrete_step(build_step(case, seed=None), images)
    return count_nodes(step.graph)


@pytest.mark.long
@pytest.mark.parametrize("name", _BOUNDS)
def test_training_step_has_few_nodes(name):
    assert _training_nodes(name) <= _BOUNDS[name]


@pytest.mark.long
def test_thirty_groups_more_add_next_to_no_nodes():
    more = _training_nodes("deep", num_groups_per_scale=60)
    assert more - _training_nodes("deep") <= 15


@pytest.mark.long
@pytest.mark.parametrize("name", ["tiny", *_PAPER])
def test_replicas_add_few_nodes(name):
    assert _training_nodes(name, 8) <= _FACTOR * _training_nodes(name)


@pytest.mark.long
def test_more_replicas_add_no_nodes():
    assert _training_nodes("deep", 2) == _training_nodes("deep", 8)


@pytest.mark.long
def test_groups_stay_a_loop_on_several_replicas():
    more = _training_nodes("deep", 8, num_groups_per_scale=60)
    assert more - _training_nodes("deep", 8) <= 15
