r"""Fashion-MNIST, dynamically binarised: the model of `mnist`.

    python -m examples.fashion_mnist --output=data/fashion_mnist
    nvae train --config=examples/presets/fashion_mnist.py \
        --workdir=runs/fashion_mnist

Devices: one GPU.
The paper has no result to compare with.

Drawn from their intensities anew on every read, as MNIST's pixels are: the
number is one of nats that can be set beside others for binarised images, and
what the model gives for a pixel is its intensity, so that its samples are gray
pictures. Images and sizes are those of MNIST, and so is all else.

Variants: `default`; and `labels`, whose prior and decoder are told the garment.
"""

import pathlib
import runpy

_MNIST = pathlib.Path(__file__).with_name("mnist.py")


def get_config(variant=None):
    """The locked `ConfigDict` of the run."""
    config = runpy.run_path(str(_MNIST))["get_config"](variant)
    config.name = f"fashion_{config.name}"
    config.data.update(path="data/fashion_mnist")
    return config
