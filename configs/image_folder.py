r"""Your own colour images, 64x64, on one small GPU.

    nvae train --config=image_folder --config.data.path=DIR \
        --workdir=runs/mine

Devices: 1 GPU with 8 GB, 16 images; hours not measured.
The paper has no result to compare with. The sizes are ours: half the width and
fewer groups than its CelebA 64, and 5 bits, as in its large images: a small
model spends much of what it can do on the noise of the last three.

Variants: `default`; and `small`, 6 groups of a quarter of the width, for
two CPU cores.

PNG, JPEG, WebP and BMP, in nested folders; a tenth is held out. What most
people change: `--config.model.image_size`, `--config.model.image_channels=1`
for gray images, `--config.data.flip=False` where left and right matter,
`--config.train.epochs` (aim at 100,000 steps) and `--config.train.batch_size`;
add `--dry_run` to see what a change means before it runs.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant = presets.choose(variant, "default", "small")
    config = presets.create("image_folder")
    config.model.update(
        image_size=64,
        num_bits=5,
        num_latent_scales=3,
        num_groups_per_scale=8,
        adaptive_groups=True,
        min_groups_per_scale=2,
        num_channels_enc=32,
        num_channels_dec=32,
        num_flow_pairs=0,
    )
    config.data.update(
        source="image_folder", resize="crop", flip=True, alpha="white"
    )
    config.train.update(
        ema_decay=0.999,
        epochs=300,
        batch_size=16,
        learning_rate=5e-3,
        regularization_init=1.0,
        regularization=1e-1,
    )
    config.evaluation.update(every_epochs=5, final_importance_samples=100)
    if variant == "small":
        config.model.update(
            num_latent_scales=2,
            num_groups_per_scale=4,
            num_channels_enc=16,
            num_channels_dec=16,
            num_preprocess_blocks=2,
            num_cells_enc=1,
            num_cells_dec=1,
        )
        config.train.update(epochs=24, warmup_epochs=1)
        config.evaluation.update(final_importance_samples=10)
    return config
