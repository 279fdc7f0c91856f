r"""LSUN churches, 64x64: 35 latent groups at three scales.

    nvae train --config=lsun_church64 --workdir=runs/lsun_church64 \
        --num_processes=8

Devices: as CelebA 64, whose run in the paper took 8 V100 GPUs with 16 images
each, in mixed precision, and 92 hours for as many steps.
The paper has no result on LSUN: the settings are those of its CelebA 64, but
for the epochs. Training crops at random, evaluation crops the centre.

Variants: `flow` (default) and `no_flow`.

To one GPU of 16, 24 or 80 GB they are fitted by `+16gb`, `+24gb` or `+80gb`,
as in `--config=lsun_church64:no_flow+24gb` or `--config=lsun_church64:24gb`,
with as many passes a step as make up the batch.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    base = "celeba64"
    config = presets.read(base if variant is None else f"{base}:{variant}")
    config.name = config.name.replace(base, "lsun_church64")
    config.data.update(name="lsun/church", resize="random_crop")
    config.train.update(epochs=116)
    presets.set_cadence(config)
    return config
