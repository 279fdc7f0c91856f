r"""MNIST told the digit: 3 latent groups, 1.3 million parameters, two cores.

    python -m examples.mnist --output=data/mnist
    nvae train --config=examples/presets/mnist_classes.py \
        --workdir=runs/mnist_classes

Devices: two CPU cores, an hour.
The paper has no model of classes.

The model of `mnist_demo:labels`, and all of the 60,000 digits twice.
The weights are averaged, which a short training with a high rate gains most
from.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    """The locked `ConfigDict` of the run."""
    presets.choose(variant, "default")
    config = presets.read("mnist_demo:labels")
    config.name = "mnist_classes"
    config.recompute = "none"
    config.data.update(source="idx", path="data/mnist", name="")
    config.train.update(epochs=2, batch_size=64, ema_decay=0.999, log_every=100)
    config.evaluation.update(
        every_epochs=2, num_importance_samples=1, final_importance_samples=10
    )
    return config
