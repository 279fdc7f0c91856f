"""Dynamically binarised MNIST, 28x28: 15 latent groups at two scales.

    nvae train --config=mnist --workdir=runs/mnist --num_processes=2

Devices: the paper's run took 2 V100 GPUs with 200 images each, 21 hours.
The paper: 78.01 nats without flow, 78.19 with (NLL, 1000 importance samples).

Variants: `no_flow` (default, the better one); `flow`, with one pair of
flow cells per group (that number is ours, the paper does not give its own);
and `small`, ours too: 6 groups of half the width, for two CPU cores. By
`+labels`, as in `--config=mnist:small+labels` or `--config=mnist:labels`, prior
and decoder are told the digit; the paper has no such model. From
MNIST's four IDX files in a folder instead of TFDS:
`--config.data.source=idx --config.data.path=DIR`.

To one GPU of 16, 24 or 80 GB they are fitted by `+16gb`, `+24gb` or `+80gb`,
as in `--config=mnist:no_flow+24gb` or `--config=mnist:24gb`, with
as many passes a step as make up the paper's batch.
"""

from nvae_tf.config import presets


def get_config(variant=None):
    variant, has_labels = presets.split_labels(variant)
    variant, gpu = presets.split_gpu(variant)
    sizes = () if gpu else ("small",)
    variant = presets.choose(variant, "no_flow", "flow", *sizes)
    config = presets.create(f"mnist_{variant}")
    config.model.update(
        image_size=28,
        image_channels=1,
        padding=2,
        num_bits=1,
        likelihood="bernoulli",
        num_latent_scales=2,
        num_groups_per_scale=10,
        adaptive_groups=True,
        num_channels_enc=32,
        num_channels_dec=32,
        num_preprocess_blocks=2,
        num_preprocess_cells=3,
        num_postprocess_cells=3,
        num_flow_pairs=1 if variant == "flow" else 0,
    )
    config.data.update(source="tfds", name="mnist", binarize=True)
    config.train.update(epochs=400, batch_size=200, regularization=1e-2)
    presets.set_cadence(config)
    if variant == "small":
        config.model.update(
            num_groups_per_scale=4,
            num_channels_enc=16,
            num_channels_dec=16,
            num_preprocess_cells=2,
            num_postprocess_cells=2,
            num_cells_enc=1,
            num_cells_dec=1,
        )
        config.train.update(epochs=8, batch_size=50, warmup_epochs=1)
        presets.set_cadence(config)
        config.evaluation.update(every_epochs=2, final_importance_samples=10)
    presets.fit_one_gpu(
        config,
        gpu,
        400,
        {
            "16gb": (400, "bn_swish"),
            "24gb": (400, "bn_swish"),
            "80gb": (400, "bn_swish"),
        },
    )
    if has_labels:
        presets.tell_classes(config, 10)
    return config
