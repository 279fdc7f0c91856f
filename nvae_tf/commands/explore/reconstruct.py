r"""Shows images, each beside its reconstruction.

    nvae reconstruct --workdir=runs/demo --num=32 \
        --output=reconstructions.png

Originals are as the model saw them: binarised, or at its bits.  How much the
upper latents hold by themselves:

    nvae reconstruct --workdir=runs/demo --top_groups=2 \
        --output=top.png

Your own pictures, of any size:

    nvae reconstruct --workdir=runs/demo --images=pictures/
"""

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.model_flags import ModelFlags
from nvae_tf.core.errors import UserError

_MODEL = ModelFlags()
_IMAGES = common_flags.ImageFlags(num=32)
_SEED = common_flags.define_seed("Of binarisation and noise.")
_LATENTS = common_flags.define_latents()
_TOP_GROUPS = flags.DEFINE_integer(
    "top_groups",
    None,
    "Reconstruct from so many upper groups; the others come from the prior.",
    lower_bound=0,
)
_LOWER_GROUPS = flags.DEFINE_enum(
    "lower_groups",
    "mean",
    ["mean", "sample"],
    "With --top_groups, what the other groups are: the prior's mean given "
    "those above, or draws.",
)
_TEMPERATURE = flags.DEFINE_list(
    "temperature",
    "1",
    "Multiplies the prior's sigma in --lower_groups=sample: one number, or one "
    "per latent group, top-down.",
)
_NELBO = flags.DEFINE_bool(
    "nelbo",
    True,
    "Write the bound on each image's negative log-likelihood, with all groups, "
    "below it: nats for binary images, bits per dimension for others.",
)
_PER_ROW = flags.DEFINE_integer("per_row", 4, "Pairs per row.", lower_bound=1)
_BATCH_SIZE = common_flags.define_batch_size()
_OUTPUT = common_flags.define_output("reconstructions.png", "The PNG to write.")


def main(argv) -> None:
    """Loads, reconstructs, writes one grid of pairs."""
    del argv
    values.require_suffix(_OUTPUT.value, ".png")
    values.numbers("temperature", _TEMPERATURE.value)
    # Before TensorFlow is loaded.
    _MODEL.read_config()
    import numpy as np

    from nvae_tf.core.progress import progress
    from nvae_tf.datasets import image_input
    from nvae_tf.sampling import captions, images
    from nvae_tf.sampling.illustrator import Illustrator
    from nvae_tf.sampling.inference import Inference

    model, config, _ = _MODEL.load()
    count = _TOP_GROUPS.value
    if count is not None and count > model.config.num_groups:
        raise UserError(
            f"--top_groups={count}, but this model has "
            f"{model.config.num_groups} latent groups."
        )
    source, config = _IMAGES.open(config)
    batch_size = min(_BATCH_SIZE.value, len(source))
    illustrator, inference = Illustrator(model), Inference(model)
    pairs, bounds = [], []
    for batch in progress(
        image_input.stream(source, config, batch_size, _SEED.value),
        total=-(-len(source) // batch_size),
        unit="batch",
        desc="reconstructing",
    ):
        seeds = _SEED.value + batch.numbers
        code = inference(
            batch.images,
            seeds,
            draw=_LATENTS.value == "sample",
            with_noise=count is not None,
            with_bounds=_NELBO.value,
            labels=batch.labels,
        )
        originals = images.to_uint8(illustrator.crop(batch.images))
        shown = _reconstruct(illustrator, code, seeds, count, batch.labels)
        pairs.append(np.stack([originals, shown], axis=1)[batch.valid])
        if _NELBO.value:
            bounds += code.nelbo.numpy()[batch.valid].tolist()
    if not pairs:
        raise UserError(f"No image of {source.name} can be read.")
    pairs = np.concatenate(pairs)
    grid = illustrator.grid_of_pairs(pairs, _PER_ROW.value)
    if _NELBO.value:
        grid = captions.captioned_grid(
            pairs.reshape(-1, *pairs.shape[2:]),
            [captions.describe_bound(b, model.config) for b in bounds],
            _PER_ROW.value,
            group=2,
        )
    images.write_png(_OUTPUT.value, grid)
    print(f"{len(pairs)} images and their reconstructions in {_OUTPUT.value}")


def _reconstruct(illustrator, code, seeds, count, labels):
    """uint8 `[B, H, W, C]`, from all groups or the upper ones."""
    if count is None:
        return illustrator.from_logits(code.logits)
    import numpy as np

    from nvae_tf.sampling.exploration import top_groups_only
    from nvae_tf.sampling.temperatures import parse_temperatures

    noise = None
    if _LOWER_GROUPS.value == "sample":
        noise = illustrator.noise(seeds)
    config = illustrator.model.config
    temperature = np.ones(config.num_groups, np.float32)
    lower = parse_temperatures(config, _TEMPERATURE.value)
    temperature[count:] = np.broadcast_to(lower, temperature.shape)[count:]
    eps = top_groups_only([e.numpy() for e in code.eps], count, noise)
    return illustrator.from_noise(eps, temperature, labels=labels)
