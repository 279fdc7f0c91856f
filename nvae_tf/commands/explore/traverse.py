r"""Shows what the channels of a latent group do.

    nvae traverse --workdir=runs/demo --group=0 --output=group0.png
    nvae traverse --workdir=runs/demo --indices=7 --group=1 \
        --channels=0,4 --range=4 --steps=11

A row per channel.  Along it the channel moves, everywhere in space at once,
from below its value to above it, in standard deviations of the prior; the
middle shows the image itself.  Groups above stay; those below keep their noise
and follow.  Without --channels, the ones that change the picture most come
first.  The image is a draw (--seed), or one of the data (--indices, --images),
encoded.
"""

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.draw_flags import DrawFlags
from nvae_tf.commands.model_flags import ModelFlags
from nvae_tf.core.errors import UserError

_MODEL = ModelFlags()
_DRAW = DrawFlags(_MODEL)
_IMAGES = common_flags.ImageFlags(num=1)
_SEED = common_flags.define_seed("Of the draw, and of binarisation.")
_GROUP = flags.DEFINE_integer(
    "group", 0, "Whose channels, top-down from 0.", lower_bound=0
)
_CHANNELS = flags.DEFINE_list(
    "channels", "", "Which channels, from 0; empty: those with most effect."
)
_NUM_CHANNELS = flags.DEFINE_integer(
    "num_channels", 8, "How many, without --channels.", lower_bound=1
)
_RANGE = flags.DEFINE_float(
    "range", 3.0, "How far to go either way, in sigmas.", lower_bound=0.0
)
_STEPS = common_flags.define_steps()
_BATCH_SIZE = common_flags.define_batch_size()
_OUTPUT = common_flags.define_output("traversal.png", "The PNG to write.")


def main(argv) -> None:
    """Loads, moves every channel, writes a row for each."""
    del argv
    values.require_suffix(_OUTPUT.value, ".png")
    # Before TensorFlow is loaded.
    _DRAW.read(_MODEL.read_config().model)
    import numpy as np

    from nvae_tf.sampling import captions, exploration, images
    from nvae_tf.sampling.illustrator import Illustrator

    model, config, info = _MODEL.load()
    channels = _checked_channels(model.config)
    illustrator = Illustrator(model)
    if _IMAGES.are_given:
        _DRAW.require_unused()
        (eps, label), temperature = _encode(model, config), 1.0
    else:
        temperature = _DRAW.prepare(model, info)
        eps = illustrator.noise([_SEED.value])
        label = _label_of_draw(model.config)
    rows = exploration.shifted(eps, _GROUP.value, _RANGE.value, _STEPS.value)
    batch_size = min(_BATCH_SIZE.value, len(rows[0]))
    drawn = exploration.images_of(
        illustrator, rows, batch_size, temperature, label
    )
    drawn = drawn.reshape(-1, _STEPS.value, *drawn.shape[1:])
    if not channels:
        ends = drawn[:, -1].astype(np.float32) - drawn[:, 0]
        effect = np.abs(ends).reshape(len(drawn), -1).mean(axis=1)
        order = np.argsort(-effect, kind="stable")
        channels = order[: _NUM_CHANNELS.value].tolist()
    labels = [f"channel {channel}" for channel in channels]
    grid = captions.labelled_grid(drawn[channels], labels)
    images.write_png(_OUTPUT.value, grid)
    print(
        f"{len(channels)} channels of group {_GROUP.value} "
        f"({', '.join(map(str, channels))}) in {_OUTPUT.value}"
    )


def _checked_channels(config) -> list[int]:
    if _GROUP.value >= config.num_groups:
        raise UserError(
            f"--group={_GROUP.value}, but this model has groups 0 to "
            f"{config.num_groups - 1}."
        )
    channels = values.whole_numbers("channels", _CHANNELS.value)
    for channel in channels:
        if channel >= config.num_latent_per_group:
            raise UserError(
                f"--channels names {channel}, but a group of this model has "
                f"channels 0 to {config.num_latent_per_group - 1}."
            )
    return channels


def _label_of_draw(config) -> int | None:
    """The class of `--labels`, or the first; None of a model without any."""
    labels = _IMAGES.labels.read(config)
    if labels is None:
        return 0 if config.num_classes else None
    if len(labels) > 1:
        raise UserError(
            f"--labels names {len(labels)} classes, but there is one draw."
        )
    return labels[0]


def _encode(model, config) -> tuple:
    """Noise of one image, L arrays `[1, h, w, d]`, and its class."""
    from nvae_tf.datasets import image_input
    from nvae_tf.sampling.inference import Inference

    source, config = _IMAGES.open(config, num=1)
    batch = image_input.read(source, config, _SEED.value)
    code = Inference(model)(
        batch.images, batch.numbers, draw=False, labels=batch.labels
    )
    label = None if batch.labels is None else int(batch.labels[0])
    return [e.numpy() for e in code.eps], label
