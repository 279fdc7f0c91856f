"""Cartoon faces, 32x32, colour: 7 latent groups, for two CPU cores.

    python -m examples.cartoon_faces --output=data/cartoon_faces
    nvae train --config=examples/presets/cartoon_faces.py --workdir=runs/faces

Devices: two CPU cores, some two hours.
The paper has no result to compare with.

Two scales, 8x8 and 4x4, with 5 and 2 groups: the pictures are halved twice
before the first, where most of the computing is.  20 channels, one residual
cell per group, 3.7 million parameters.  5 bits, as the paper takes for its
large images: flat colours need no more.  All faces look to one side, so none
is mirrored.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    """The locked `ConfigDict` of the run."""
    presets.choose(variant, "default")
    config = presets.read("image_folder:small")
    config.name = "cartoon_faces"
    config.recompute = "none"
    config.model.update(
        image_size=32,
        num_groups_per_scale=5,
        num_channels_enc=20,
        num_channels_dec=20,
    )
    config.data.update(
        path="data/cartoon_faces",
        resize="resize",
        flip=False,
        split_by="folder",
    )
    config.train.update(epochs=10, batch_size=32, warmup_epochs=1)
    config.evaluation.update(every_epochs=10, final_importance_samples=10)
    return config
