"""OMNIGLOT, resized to 28x28, binarised at every read.

    nvae train --config=omniglot --workdir=runs/omniglot

Devices: 1 GPU with 16 GB, 200 images; hours not measured.
The paper has no result on OMNIGLOT: the model is its MNIST model, trained for
as many steps as that. The images are TFDS's, split by alphabet and resized
from 105 pixels: their likelihoods do not compare with those on the 28-pixel
file that other papers use.

Variants: `no_flow` (default) and `flow`, with one pair of flow cells per group.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant = presets.choose(variant, "no_flow", "flow")
    config = presets.read(f"mnist:{variant}")
    config.name = f"omniglot_{variant}"
    config.data.update(name="omniglot", resize="resize", convert_colors=True)
    config.train.update(epochs=625)
    presets.set_cadence(config)
    return config
