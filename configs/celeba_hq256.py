r"""CelebA HQ, 256x256, 5 bits: 36 latent groups at five scales.

    srun --nodes=3 --ntasks-per-node=8 --gpus-per-node=8 \
        nvae train --config=celeba_hq256 --workdir=runs/celeba_hq256

Devices: the paper's run took 24 V100 GPUs of 32 GB with 4 images each, in
mixed precision, 94 hours.
The paper: 0.70 bits/dim with flow; it has no result without.

Variants: `flow` (default), `no_flow`, and `channels_24`, the narrower model
with flow that trains on 8 GPUs, 6 images on each, and costs
0.01 bits/dim.

The images must be downloaded by hand: the first start says what goes where.

To one GPU of 16, 24 or 80 GB they are fitted by `+16gb`, `+24gb` or `+80gb`,
as in `--config=celeba_hq256:no_flow+24gb` or `--config=celeba_hq256:24gb`, with
as many passes a step as make up the paper's batch.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant, gpu = presets.split_gpu(variant)
    variant = presets.choose(variant, "flow", "no_flow", "channels_24")
    config = presets.create(f"celeba_hq256_{variant}")
    channels = 24 if variant == "channels_24" else 30
    config.model.update(
        image_size=256,
        num_bits=5,
        num_latent_scales=5,
        num_groups_per_scale=16,
        adaptive_groups=True,
        min_groups_per_scale=4,
        num_channels_enc=channels,
        num_channels_dec=channels,
        num_flow_pairs=0 if variant == "no_flow" else 2,
    )
    config.data.update(source="tfds", name="celeb_a_hq/256", flip=True)
    config.train.update(
        epochs=300,
        batch_size=6 if variant == "channels_24" else 4,
        regularization_init=1.0,
        regularization=1e-2,
    )
    presets.set_cadence(config)
    config.precision = "mixed_float16"
    presets.fit_one_gpu(
        config,
        gpu,
        48 if variant == "channels_24" else 96,
        {
            "16gb": (4, "cell"),
            "24gb": (6, "cell"),
            "80gb": (8, "bn_swish"),
        },
    )
    return config
