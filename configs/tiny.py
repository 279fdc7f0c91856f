"""Every code path, small: flow, scales, mixture, annealing.

    nvae train --config=tiny --workdir=runs/tiny

Devices: 1 CPU core; nothing is downloaded.
The paper has no result to compare with: this is for tests and for trying things
out, on digits of MNIST shrunk to 8x8 and taken as colour images.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    presets.choose(variant, "default")
    config = presets.create("tiny")
    config.model.update(
        image_size=8,
        image_channels=3,
        num_mixtures=2,
        num_latent_scales=2,
        num_groups_per_scale=4,
        adaptive_groups=True,
        num_latent_per_group=4,
        num_channels_enc=8,
        num_channels_dec=8,
        num_preprocess_cells=1,
        num_postprocess_cells=1,
        num_cells_enc=1,
        num_cells_dec=1,
        num_flow_pairs=1,
    )
    config.data.update(source="mnist_5k", resize="resize", flip=True)
    config.train.update(
        epochs=2,
        batch_size=250,
        warmup_epochs=1,
        regularization_init=1.0,
        regularization=1e-2,
        log_every=5,
    )
    config.evaluation.update(
        num_importance_samples=2, final_importance_samples=4
    )
    return config
