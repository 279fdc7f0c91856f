"""CelebA, cropped and resized to 64x64: 35 latent groups at three scales.

    nvae train --config=celeba64 --workdir=runs/celeba64 --num_processes=8

Devices: the paper's run took 8 V100 GPUs with 16 images each, in mixed
precision, 92 hours.
The paper: 2.03 bits/dim with flow, 2.04 without.

Variants: `flow` (default) and `no_flow`.

To one GPU of 16, 24 or 80 GB they are fitted by `+16gb`, `+24gb` or `+80gb`,
as in `--config=celeba64:no_flow+24gb` or `--config=celeba64:24gb`, with
as many passes a step as make up the paper's batch.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant, gpu = presets.split_gpu(variant)
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
    presets.fit_one_gpu(
        config,
        gpu,
        128,
        {
            "16gb": (16, "bn_swish"),
            "24gb": (16, "bn_swish"),
            "80gb": (64, "bn_swish"),
        },
    )
    return config
