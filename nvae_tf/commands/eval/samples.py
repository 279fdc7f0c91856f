r"""Compares images that a model draws with real ones: FID, KID and more.

    nvae eval samples --workdir=runs/cifar10 --num=50000 \
        --features=classify_image_graph_def.pb

Prints, and writes to sample_quality.json in the workdir or --output,

- the Frechet distance of the sets' features: 0 if they are alike; lower for
  larger sets, so compare numbers of the same --num only. It is called FID with
  the network above alone, which published FIDs are computed with;
- KID, an unbiased kernel distance, with its standard error;
- precision, the share of samples that look real, and recall, the share of real
  images that the model could draw.

Numbers of different --features cannot be compared: see docs/evaluation.md.  The
real images, at 8 bits, are those of --split.
"""

import pathlib

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.draw_flags import DrawFlags
from nvae_tf.commands.model_flags import ModelFlags
from nvae_tf.core.errors import ConfigError, DataError

_MODEL = ModelFlags()
_DRAW = DrawFlags(
    _MODEL, default="1", note="Published FIDs are of draws at 1, the default."
)
_NUM = flags.DEFINE_integer(
    "num",
    50000,
    "Samples to draw, or to take of --samples at most.",
    lower_bound=10,
)
_PIXELS = common_flags.PixelsFlag()
_SEED = common_flags.define_seed("Of the first sample, and of KID's blocks.")
_BATCH_SIZE = common_flags.define_batch_size()
_SAMPLES = flags.DEFINE_string(
    "samples",
    "",
    "Samples to use in place of drawing: a folder of images, a .npy or .npz "
    "file with uint8 [N, H, W, C], or a .tfrecord of --samples_output.",
)
_OUTPUT = flags.DEFINE_string(
    "samples_output",
    "",
    "Keep the samples: a folder for PNG files, or a file that ends in .npz or "
    ".tfrecord.",
)
_FOLDER = common_flags.define_output(
    "", "Folder for the result; by default the workdir."
)
_FEATURES = flags.DEFINE_string(
    "features",
    "inception",
    "The network: 'inception' (Keras', downloaded), a SavedModel's folder, a "
    ".keras file, or that of published FIDs, classify_image_graph_def.pb. It "
    "is a program: take it from those alone whom you trust.",
)
_FEATURES_OUTPUT = flags.DEFINE_string(
    "features_output",
    "",
    "Which output of a SavedModel, or layer of a .keras file, to take.",
)
_SPLIT = common_flags.define_split("train")
_NUM_REAL = flags.DEFINE_integer(
    "num_real", 0, "The first so many real images; 0: all.", lower_bound=0
)
_NEIGHBOURS = flags.DEFINE_integer(
    "num_neighbours",
    3,
    "k of the manifolds of precision and recall.",
    lower_bound=1,
)
_CACHE = flags.DEFINE_string(
    "reference_cache",
    "",
    "Folder for features of real images; by default in that of the result.",
)


def main(argv) -> None:
    """Loads or draws, takes features, compares, writes and prints."""
    del argv
    # Before TensorFlow is loaded.
    config = _MODEL.read_config()
    if _FOLDER.value:
        values.require_writable(f"{_FOLDER.value}/")
    if _SAMPLES.value:
        _DRAW.require_unused()
    else:
        _DRAW.read(config.model)
    from nvae_tf.datasets import pipeline
    from nvae_tf.evaluation import features, sample_files
    from nvae_tf.runs.results import write_result

    folder = pathlib.Path(_FOLDER.value) if _FOLDER.value else _MODEL.folder
    if _OUTPUT.value:
        if _SAMPLES.value:
            raise ConfigError(
                "--samples_output keeps drawn samples; with --samples there "
                "are none. Leave one of them away."
            )
        sample_files.check_output(_OUTPUT.value)
    network = features.load_features(_FEATURES.value, _FEATURES_OUTPUT.value)
    real = pipeline.open_source(config, _SPLIT.value)
    num_real = min(_NUM_REAL.value or len(real), len(real))
    if _SAMPLES.value:
        given = sample_files.open_samples(_SAMPLES.value)
        _require_enough(min(_NUM.value, len(given)), num_real)
        batches, origin = _read_samples(given), {"samples": _SAMPLES.value}
    else:
        _require_enough(_NUM.value, num_real)
        batches, origin = _drawn_samples()
    # These first: they are kept, and what is wrong with them shows before
    # hours of drawing.
    of_real = _real_features(network, real, num_real, config, folder)
    of_samples = network.extract(batches)
    record = {
        **origin,
        "features": _FEATURES.value,
        "features_fingerprint": network.fingerprint,
        "split": _SPLIT.value,
        **_compare(of_real, of_samples, network.gives_fid),
    }
    if folder is None:
        print(describe(record))
        print("Not written; --output=FOLDER keeps it.")
        return
    path = folder / "sample_quality.json"
    print(describe(write_result(path, record)))
    print(f"Written to {path}")


def describe(record: dict) -> str:
    """The numbers as lines a person reads."""
    from nvae_tf.evaluation.sample_quality import frechet_title
    from nvae_tf.runs.results import number_text

    error = record["kid_standard_error"]
    spread = "" if error is None else f" +- {error:.2g}"
    frechet = frechet_title(record)
    width = max(len(frechet), len("precision"))
    return "\n".join(
        [
            f"{record['num_samples']} samples, {record['num_real']} real "
            f"images ({record['split']}), {record['num_features']} features",
            *(
                f"  {title:{width}}  {number_text(record[name], form)}{more}"
                for title, name, form, more in (
                    (frechet, "frechet_distance", "10.3f", ""),
                    ("KID", "kid", "10.5g", spread),
                    ("precision", "precision", "10.3f", ""),
                    ("recall", "recall", "10.3f", ""),
                )
            ),
        ]
    )


def _bar(batches, num: int, what: str):
    from nvae_tf.core.progress import progress

    return progress(
        batches, total=-(-num // _BATCH_SIZE.value), unit="batch", desc=what
    )


def _require_enough(num_samples: int, num_real: int) -> None:
    """Raises DataError for too few images to have neighbours."""
    if min(num_samples, num_real) <= _NEIGHBOURS.value:
        raise DataError(
            f"There are {num_samples} samples and {num_real} real images; "
            f"--num_neighbours={_NEIGHBOURS.value} needs more than that."
        )


def _read_samples(source):
    """Yields batches; nothing is read, nor shown, before the first."""
    from nvae_tf.evaluation import sample_files

    num = min(_NUM.value, len(source))
    batches = sample_files.in_batches(source, num, _BATCH_SIZE.value)
    yield from _bar(batches, num, "features of samples")


def _drawn_samples():
    """`(batches, where they come from)`; they are drawn when asked for."""
    import numpy as np

    from nvae_tf.evaluation import sample_files
    from nvae_tf.sampling.illustrator import Illustrator

    model, config, info = _MODEL.load()
    temperature = _DRAW.prepare(model, info)
    pixels = _PIXELS.choose(config.model)
    batch_size = min(_BATCH_SIZE.value, _NUM.value)

    def drawn():
        batches = Illustrator(model).draw(
            _NUM.value, temperature, _SEED.value, batch_size, pixels=pixels
        )
        batches = _bar(batches, _NUM.value, "sampling")
        if _OUTPUT.value:
            sample_files.write_samples(_OUTPUT.value, batches)
            batches = _read_samples(sample_files.open_samples(_OUTPUT.value))
        yield from batches

    return drawn(), {
        "step": info["step"],
        "ema": info["ema"],
        "temperature": np.asarray(temperature).tolist(),
        "readjust_bn": _DRAW.readjusts,
        "pixels": pixels,
        "computed_in": _MODEL.precision,
        "seed": _SEED.value,
    }


def _real_features(network, source, num, config, folder):
    from nvae_tf.evaluation.reference_features import FOLDER, reference_features

    if _CACHE.value:
        kept = _CACHE.value
    else:
        kept = None if folder is None else folder / FOLDER
    return reference_features(
        network,
        source,
        config,
        split=_SPLIT.value,
        num=num,
        batch_size=_BATCH_SIZE.value,
        folder=kept,
        progress=lambda batches: _bar(batches, num, "features of real images"),
    )


def _compare(real, samples, gives_fid: bool) -> dict:
    """All distances of two sets of features."""
    from nvae_tf.evaluation import sample_quality

    # Unreadable images may have been left out.
    _require_enough(len(samples), len(real))
    fewest, width = min(len(real), len(samples)), real.shape[1]
    if fewest <= width:
        print(
            f"Note: the Frechet distance of {fewest} images with {width} "
            "features is mostly bias; use more images than features, or read "
            "KID."
        )
    frechet = sample_quality.frechet_distance(real, samples)
    kernel = sample_quality.kernel_distance(real, samples, _SEED.value)
    manifolds = sample_quality.precision_recall(
        real, samples, _NEIGHBOURS.value
    )
    return {
        "num_samples": len(samples),
        "num_real": len(real),
        "num_features": width,
        "frechet_distance": frechet,
        **({"fid": frechet} if gives_fid else {}),
        "kid": kernel.value,
        "kid_standard_error": kernel.standard_error,
        "kid_blocks": kernel.num_blocks,
        "kid_block_size": kernel.block_size,
        "num_neighbours": _NEIGHBOURS.value,
        "precision": manifolds.precision,
        "recall": manifolds.recall,
    }
