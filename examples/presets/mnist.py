"""MNIST, dynamically binarised: 9 latent groups, 4.8 million parameters.

    python -m examples.mnist --output=data/mnist
    nvae train --config=examples/presets/mnist.py --workdir=runs/mnist

Devices: one GPU.
The paper: 78.01 nats with 33 million parameters.

What the paper's model is, but for what a small one cannot have: two scales,
8x8 and 4x4, with 6 and 3 groups instead of 10 and 5; 20 channels instead of
32; one residual cell per group instead of two. Groups run one after the other,
so their number is what a GPU waits for, and width is nearly free: hence wide
rather than deep. The warm-up is as long a part of the training as in the paper,
and the weights are averaged, which a short training with a high rate
gains most from.

Variants: `default`; and `labels`, whose prior and decoder are told the digit.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    """The locked `ConfigDict` of the run."""
    variant = presets.choose(variant, "default", "labels")
    config = presets.read("mnist:small")
    config.name = "mnist_20_channels"
    config.model.update(
        num_groups_per_scale=6, num_channels_enc=20, num_channels_dec=20
    )
    config.data.update(source="idx", path="data/mnist", name="")
    config.train.update(
        epochs=50,
        batch_size=200,
        warmup_epochs=1,
        ema_decay=0.999,
        log_every=100,
    )
    config.evaluation.update(every_epochs=5, final_importance_samples=1000)
    if variant == "labels":
        presets.tell_classes(config, 10)
    return config
