"""Stacked MNIST, 28x28: three digits as red, green and blue, 8 bits.

    nvae train --config=stacked_mnist --workdir=runs/stacked_mnist

Devices: 1 GPU with 8 GB, 100 images; hours not measured.
The paper has no result on stacked MNIST, whose use is to count the modes that
samples cover: the model is its MNIST model with colour pixels, and the rest is
ours.

Variants: `no_flow` (default) and `flow`, with one pair of flow cells per group.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant = presets.choose(variant, "no_flow", "flow")
    config = presets.read(f"mnist:{variant}")
    config.name = f"stacked_mnist_{variant}"
    config.model.update(image_channels=3, num_bits=8, likelihood="mixture")
    config.data.update(name="stacked_mnist", binarize=False)
    config.train.update(epochs=100, batch_size=100)
    presets.set_cadence(config)
    return config
