r"""Ranks images by how unlikely the model finds them.

    nvae outliers --workdir=runs/demo --split=train \
        --output=outliers.csv
    nvae outliers --workdir=runs/demo --images=pictures/ \
        --num_importance_samples=10 --output=outliers.json

Writes every image with its bits per dimension, the worst first, and beside it
a picture of the worst and the best (outliers.png): damaged or mislabelled
pictures, rotated scans and other strangers stand at the top.  Bits per
dimension favour simple images: one of a single colour is likely under any
model, whatever it was trained on.
"""

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.model_flags import ModelFlags
from nvae_tf.core.errors import UserError

_MODEL = ModelFlags()
_IMAGES = common_flags.ImageFlags(num=0)
_SEED = common_flags.define_seed("Of binarisation and noise.")
_SAMPLES = common_flags.define_importance_samples(1)
_SHOWN = flags.DEFINE_integer(
    "num_shown", 16, "So many of the worst, and of the best.", lower_bound=1
)
_BATCH_SIZE = common_flags.define_batch_size()
_OUTPUT = common_flags.define_output("outliers.csv", "A .csv or .json.")


def main(argv) -> None:
    """Loads, scores, writes the ranking and the picture."""
    del argv
    suffix = values.require_suffix(_OUTPUT.value, ".csv", ".json")
    # Before TensorFlow is loaded.
    _MODEL.read_config()
    import pathlib

    from nvae_tf.core.files import write_bytes
    from nvae_tf.sampling import captions, images

    model, config, _ = _MODEL.load()
    source, config = _IMAGES.open(config)
    ranking = _rank(model, config, source)
    records = ranking.records(source, model.config)
    text = _csv(records) if suffix == ".csv" else _json(records)
    # A file's name may be no text: in CSV it is kept as it is.
    write_bytes(_OUTPUT.value, text.encode(errors="surrogateescape"))
    path = pathlib.Path(_OUTPUT.value).with_suffix(".png")
    shown, bounds = ranking.shown()
    texts = [captions.describe_bound(bound, model.config) for bound in bounds]
    columns = min(8, len(shown) // 2)
    images.write_png(path, captions.captioned_grid(shown, texts, columns))
    print(
        f"{len(records)} images, {records[0]['bits_per_dim']:.4f} to "
        f"{records[-1]['bits_per_dim']:.4f} bits/dim, the worst first, in "
        f"{_OUTPUT.value}; the worst and the best in {path}"
    )


def _rank(model, config, source):
    from nvae_tf.core.progress import progress
    from nvae_tf.datasets import image_input
    from nvae_tf.evaluation.ranking import Ranking
    from nvae_tf.sampling import images
    from nvae_tf.sampling.illustrator import Illustrator
    from nvae_tf.sampling.inference import Inference

    inference, illustrator = Inference(model), Illustrator(model)
    ranking = Ranking(min(_SHOWN.value, len(source)))
    batch_size = min(_BATCH_SIZE.value, len(source))
    for batch in progress(
        image_input.stream(source, config, batch_size, _SEED.value),
        total=-(-len(source) // batch_size),
        unit="batch",
        desc="scoring",
    ):
        bounds = inference.bounds(
            batch.images,
            _SEED.value + batch.numbers,
            _SAMPLES.value,
            batch.labels,
        )
        shown = images.to_uint8(illustrator.crop(batch.images))
        ranking.add(
            bounds[batch.valid], batch.places[batch.valid], shown[batch.valid]
        )
    if not ranking.bounds:
        raise UserError(f"No image of {source.name} can be read.")
    return ranking


def _csv(records) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _json(records) -> str:
    import json

    return json.dumps(records, indent=2) + "\n"
