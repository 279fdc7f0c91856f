"""Graph sizes, which are exact and decide how fast a deep model starts."""

import dataclasses

import pytest
import tensorflow as tf

from benchmarks.train_step import MODELS, count_nodes
from nvae_tf.model import NVAE
from nvae_tf.model_config import ModelConfig
from nvae_tf.optimizer import Adamax
from nvae_tf.regularizers import SpectralRegularizer
from nvae_tf.schedules import Coefficients
from nvae_tf.train_step import TrainStep


def _training_nodes(config: ModelConfig) -> int:
    model = NVAE(config)
    step = TrainStep(
        model, Adamax(model.trainable_variables), SpectralRegularizer(model)
    )
    size = config.padded_size
    concrete = step.__call__.get_concrete_function(
        tf.TensorSpec([4, size, size, config.image_channels]),
        Coefficients(*[tf.TensorSpec([])] * 3),
        seed=tf.TensorSpec([2], tf.int32),
    )
    return count_nodes(concrete.graph)


@pytest.fixture(scope="module")
def deep():
    return _training_nodes(MODELS["deep"][0])


def test_thirty_groups_train_in_few_nodes(deep):
    assert deep <= 12_000


def test_thirty_groups_more_add_next_to_no_nodes(deep):
    config = dataclasses.replace(MODELS["deep"][0], num_groups_per_scale=60)
    assert _training_nodes(config) - deep <= 30


def test_the_paper_sized_mnist_model_trains_in_few_nodes():
    assert _training_nodes(MODELS["mnist"][0]) <= 25_000
