"""The training step's loss and gradient compile with XLA to the same."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.config.schedules import Coefficients
from nvae_tf.model import scan
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.train_step import TrainStep
from tests.support import model_cases

pytestmark = pytest.mark.long


def test_compiled_gradients_are_those_of_the_graph():
    """Of a model with every kind of layer but dilated ones."""
    config = model_cases.small(
        image_channels=3,
        num_bits=8,
        likelihood="mixture",
        num_mixtures=2,
        num_latent_scales=1,
        num_flow_pairs=1,
    )
    model = model_cases.random_model(config)
    step = TrainStep(
        model, Adamax(model.trainable_variables), SpectralRegularizer(model)
    )
    x = tf.constant(model_cases.images(config, 3))
    eps = [tf.constant(e) for e in model_cases.noise(config, 3)]
    coefficients = Coefficients(*map(tf.constant, (0.4, 1e-2, 1e-2)))

    def run(x, eps):
        output, terms, gradient, vectors = step.gradients(
            x, coefficients, eps=eps
        )
        return output.logits, output.updates, terms, vectors, gradient

    plain = tf.function(run, autograph=False)(x, eps)
    compiled = scan.compiled(run)
    program = compiled.experimental_get_compiler_ir(x, eps)(
        stage="optimized_hlo"
    )
    # The groups of the scale, forward and backward.
    assert program.count(" while(") == 2
    assert program.count("known_trip_count") == 2
    results = compiled(x, eps)
    tf.nest.assert_same_structure(plain, results)
    for expected, actual in zip(
        tf.nest.flatten(plain), tf.nest.flatten(results), strict=True
    ):
        size = max(np.abs(expected).max(), 1.0)
        np.testing.assert_allclose(
            actual, expected, rtol=1e-3, atol=1e-4 * size
        )
