r"""ImageNet, down-sampled to 32x32: 28 latent groups at 16x16.

    srun --nodes=3 --ntasks-per-node=8 --gpus-per-node=8 \
        nvae train --config=imagenet32 --workdir=runs/imagenet32

Devices: the paper's run took 24 V100 GPUs with 24 images each, in mixed
precision, 70 hours.
The paper: 3.92 bits/dim with flow; it has no result without.

Variants: `flow` (default) and `no_flow`.

To one GPU of 16, 24 or 80 GB they are fitted by `+16gb`, `+24gb` or `+80gb`,
as in `--config=imagenet32:no_flow+24gb` or `--config=imagenet32:24gb`, with
as many passes a step as make up the paper's batch.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant, gpu = presets.split_gpu(variant)
    variant = presets.choose(variant, "flow", "no_flow")
    config = presets.create(f"imagenet32_{variant}")
    config.model.update(
        image_size=32,
        num_latent_scales=1,
        num_groups_per_scale=28,
        num_channels_enc=192,
        num_channels_dec=192,
        num_flow_pairs=1 if variant == "flow" else 0,
    )
    config.data.update(
        source="tfds", name="downsampled_imagenet/32x32", flip=True
    )
    config.train.update(
        epochs=45,
        batch_size=24,
        warmup_epochs=1,
        regularization_init=1.0,
        regularization=1e-2,
    )
    presets.set_cadence(config)
    config.precision = "mixed_float16"
    presets.fit_one_gpu(
        config,
        gpu,
        576,
        {
            "16gb": (16, "bn_swish"),
            "24gb": (24, "bn_swish"),
            "80gb": (96, "bn_swish"),
        },
    )
    return config
