"""CelebA, cropped and resized to 64x64: 35 latent groups at three scales.

    nvae train --config=celeba64 --workdir=runs/celeba64 --num_processes=8

Devices: the paper's run took 8 V100 GPUs with 16 images each, in mixed
precision, 92 hours.
The paper: 2.03 bits/dim with flow, 2.04 without.

Variants: `flow` (default) and `no_flow`.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant = presets.choose(variant, "flow", "no_flow")
    config = presets.create(f"celeba64_{variant}")
    config.model.update(
        image_size=64,
        num_latent_scales=3,
        num_groups_per_scale=20,
        adaptive_groups=True,
        num_channels_enc=64,
        num_channels_dec=64,
        num_flow_pairs=1 if variant == "flow" else 0,
    )
    config.data.update(
        source="tfds", name="celeb_a", resize="celeba", flip=True
    )
    config.train.update(epochs=90, batch_size=16, regularization=1e-1)
    presets.set_cadence(config)
    config.precision = "mixed_float16"
    return config
