"""Finds the training images closest to samples, to see whether any is a copy.

    nvae nearest --workdir=runs/demo --num=16 --output=nearest.png
    nvae nearest --workdir=runs/demo --space=features --k=8

Each row shows an image and its nearest training images, with their distances.
A model that has learned rather than memorised is as far from its training
images as held-out ones are, so the distances of as many of those are printed
beside.  To look up images of your own (or held-out ones) instead of samples:

    nvae nearest --workdir=runs/demo --images=pictures/
    nvae nearest --workdir=runs/demo --indices=0,1,2
"""

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.draw_flags import DrawFlags
from nvae_tf.commands.model_flags import ModelFlags

_MODEL = ModelFlags()
_DRAW = DrawFlags(_MODEL)
_DEFAULT_NUM = 16
_IMAGES = common_flags.ImageFlags(num=_DEFAULT_NUM)
_SEED = common_flags.define_seed("Of the first sample, and of binarisation.")
_SPACE = flags.DEFINE_enum(
    "space",
    "pixels",
    ["pixels", "features"],
    "Compare pixels, or directions of the encoder's top features, which "
    "forgive shifts and noise.",
)
_PIXELS = common_flags.PixelsFlag()
_K = flags.DEFINE_integer("k", 5, "Neighbours of each.", lower_bound=1)
_BATCH_SIZE = common_flags.define_batch_size()
_OUTPUT = common_flags.define_output("nearest.png", "The PNG to write.")


def main(argv) -> None:
    """Loads, draws, searches the training images, writes a row for each."""
    del argv
    values.require_suffix(_OUTPUT.value, ".png")
    # Before TensorFlow is loaded.
    _DRAW.read(_MODEL.read_config().model)
    import numpy as np

    from nvae_tf.datasets import image_input
    from nvae_tf.sampling import captions, images
    from nvae_tf.sampling.illustrator import Illustrator

    model, config, info = _MODEL.load()
    illustrator = Illustrator(model)
    if _IMAGES.are_given:
        _DRAW.require_unused()
        queries = _own_images(config)
        others = None
    else:
        queries = _samples(illustrator, info)
        source, held_out = _IMAGES.open(
            config, num=len(queries), labelled=False
        )
        others = image_input.read(source, held_out, _SEED.value).images
    everything = (
        queries if others is None else np.concatenate([queries, others])
    )
    found = _search(illustrator, config, everything)
    number = len(queries)
    shown = np.concatenate(
        [
            images.to_uint8(illustrator.crop(queries))[:, None],
            found.images[:number],
        ],
        axis=1,
    )
    texts = [
        text
        for row in found.distances[:number]
        for text in ["", *(f"{d:.3g}" for d in row)]
    ]
    grid = captions.captioned_grid(
        shown.reshape(-1, *shown.shape[2:]), texts, shown.shape[1]
    )
    images.write_png(_OUTPUT.value, grid)
    _report(found, number)


def _samples(illustrator, info):
    """Draws as the model would see them, `[N, Hp, Wp, C]` in [0, 1]."""
    import numpy as np

    num = _IMAGES.num or _DEFAULT_NUM
    labels = _IMAGES.labels.of_draws(illustrator.model.config, num)
    temperature = _DRAW.prepare(illustrator.model, info)
    drawn = illustrator.draw(
        num,
        temperature,
        _SEED.value,
        min(num, _BATCH_SIZE.value),
        pixels=_PIXELS.choose(illustrator.model.config),
        labels=labels,
    )
    return illustrator.to_model(np.concatenate([*drawn]))


def _own_images(config):
    from nvae_tf.datasets import image_input

    # The encoder alone looks at them, which is not told their classes.
    source, config = _IMAGES.open(config, labelled=False)
    return image_input.read(source, config, _SEED.value).images


def _search(illustrator, config, queries):
    """The nearest training images of all queries."""
    from nvae_tf.core.progress import progress
    from nvae_tf.datasets import image_input, pipeline
    from nvae_tf.evaluation.neighbours import NeighbourSearch
    from nvae_tf.sampling import images
    from nvae_tf.sampling.inference import Inference

    inference = Inference(illustrator.model)

    def vectors(x):
        if _SPACE.value == "features":
            return inference.features(x).numpy()
        return illustrator.crop(x)

    source = pipeline.open_source(config, "train")
    batch_size = min(_BATCH_SIZE.value, len(source))
    search = NeighbourSearch(
        image_input.in_batches(vectors, queries, batch_size), _K.value
    )
    for batch in progress(
        image_input.stream(source, config, batch_size, _SEED.value),
        total=-(-len(source) // batch_size),
        unit="batch",
        desc="searching train",
    ):
        found = vectors(batch.images)
        shown = images.to_uint8(illustrator.crop(batch.images))
        search.add(
            found[batch.valid], batch.numbers[batch.valid], shown[batch.valid]
        )
    return search.result()


def _report(found, number) -> None:
    import numpy as np

    nearest = found.distances[:, 0]
    closest = int(np.argmin(nearest[:number]))
    print(
        f"Distance to the nearest training image, in {_SPACE.value}: median "
        f"{np.median(nearest[:number]):.4g}, least {nearest[closest]:.4g} "
        f"(row {closest}, training image {found.indices[closest, 0]})"
    )
    if len(nearest) > number:
        others = nearest[number:]
        print(
            f"The same of {len(others)} held-out images: median "
            f"{np.median(others):.4g}, least {others.min():.4g}"
        )
    print(f"{number} images and their neighbours in {_OUTPUT.value}")
