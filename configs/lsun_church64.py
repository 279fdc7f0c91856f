r"""LSUN churches, 64x64: 35 latent groups at three scales.

    nvae train --config=lsun_church64 --workdir=runs/lsun_church64 \
        --num_processes=8

Devices: as CelebA 64, whose run in the paper took 8 V100 GPUs with 16 images
each, in mixed precision, and 92 hours for as many steps.
The paper has no result on LSUN: the settings are those of its CelebA 64, but
for the epochs. Training crops at random, evaluation crops the centre.

Variants: `flow` (default) and `no_flow`.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant = presets.choose(variant, "flow", "no_flow")
    config = presets.read(f"celeba64:{variant}")
    config.name = f"lsun_church64_{variant}"
    config.data.update(name="lsun/church", resize="random_crop")
    config.train.update(epochs=116)
    presets.set_cadence(config)
    return config
