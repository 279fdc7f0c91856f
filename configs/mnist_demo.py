"""The demonstration: 5,000 digits of MNIST, on two CPU cores.

    nvae train --config=mnist_demo --workdir=runs/demo

Devices: 2 CPU cores; nothing is downloaded.
The paper trains on all 60,000 digits for 42 GPU hours and reaches 78.01 nats;
this aims at digits that a person recognises and at less than 120 nats on the
500 held out.

Variants: `default`; and `labels`, whose prior and decoder are told the digit.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant = presets.choose(variant, "default", "labels")
    config = presets.create("mnist_demo")
    config.model.update(
        image_size=28,
        image_channels=1,
        padding=2,
        num_bits=1,
        likelihood="bernoulli",
        num_latent_scales=2,
        num_groups_per_scale=2,
        adaptive_groups=True,
        num_channels_enc=16,
        num_channels_dec=16,
        num_preprocess_blocks=2,
        num_preprocess_cells=2,
        num_postprocess_cells=2,
        num_cells_enc=1,
        num_cells_dec=1,
    )
    config.data.update(source="mnist_5k", binarize=True)
    config.train.update(epochs=13, batch_size=50, warmup_epochs=1)
    config.evaluation.update(every_epochs=3, final_importance_samples=10)
    if variant == "labels":
        presets.tell_classes(config, 10)
    return config
