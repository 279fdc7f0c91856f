"""Graph sizes, which are exact and decide how fast a deep model starts.

The bounds are what the training step has now, rounded up: a change that needs
more nodes should know, and say, what for.
"""

import functools

import pytest
import tensorflow as tf

from benchmarks import cases
from benchmarks.train_step import build_step, concrete_step, count_nodes

pytestmark = pytest.mark.long

_BOUNDS = {
    "small": 17_300,
    "cifar": 14_000,
    "deep": 11_500,
}


@functools.cache
def _training_nodes(name, **changes) -> int:
    case = cases.case(name, **changes)
    images = tf.TensorSpec([4, *case.image_shape])
    return count_nodes(concrete_step(build_step(case, seed=None), images).graph)


@pytest.mark.parametrize("name", _BOUNDS)
def test_training_step_has_few_nodes(name):
    assert _training_nodes(name) <= _BOUNDS[name]


def test_thirty_groups_more_add_next_to_no_nodes():
    more = _training_nodes("deep", num_groups_per_scale=60)
    assert more - _training_nodes("deep") <= 15
