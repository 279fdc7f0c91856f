"""Emoji of several vendors, 32x32, colour: 11 latent groups.

    python -m examples.emoji --output=data/emoji
    nvae train --config=examples/presets/emoji.py --workdir=runs/emoji

Devices: one GPU.
The paper has no result to compare with.

Three scales, 16x16, 8x8 and 4x4, with 6, 3 and 2 groups: the coarsest sees the
whole picture, without which colours and outlines do not fit together. 20
channels, one residual cell per group, 3.6 million parameters. 5 bits, as the
paper takes for its large images: flat colours need no more. There are few
images, so they are mirrored at random, though mirrored letters are none, and
lambda is that of the paper's faces, annealed from 1.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    """The locked `ConfigDict` of the run."""
    presets.choose(variant, "default")
    config = presets.read("image_folder")
    config.name = "emoji_20_channels"
    config.model.update(
        image_size=32,
        num_groups_per_scale=6,
        num_channels_enc=20,
        num_channels_dec=20,
        num_cells_enc=1,
        num_cells_dec=1,
    )
    config.data.update(path="data/emoji", resize="resize", split_by="folder")
    config.train.update(
        epochs=140, batch_size=128, warmup_epochs=2, log_every=100
    )
    config.evaluation.update(every_epochs=10, final_importance_samples=100)
    return config
