r"""Draws images from a trained model.

A grid, or as many images as you like in a folder, to go on with later:

    nvae sample --workdir=runs/demo --num=64 --output=samples.png
    nvae sample --workdir=runs/demo --num=10000 --output=samples/

A row for each number of upper scales of latents that are kept as in the first
image while the rest is drawn anew, or for each class that the model knows:

    nvae sample --workdir=runs/demo --fix_groups=scales --num=8
    nvae sample --workdir=runs/digits --labels=all --num=10

Image i, of a row if there are rows, has the seed SEED + i and depends on
nothing else but temperature, class and model; an exported model draws the same
image, but that here the pixels of a model of fewer than 8 bits are at its
levels.
"""

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.draw_flags import DrawFlags
from nvae_tf.commands.model_flags import ModelFlags
from nvae_tf.core.errors import UserError

_MOST_COLUMNS = 20

_MODEL = ModelFlags()
_DRAW = DrawFlags(_MODEL)
_NUM = flags.DEFINE_integer(
    "num",
    64,
    "Number of images; with --fix_groups=scales or groups, or several "
    "--labels in a grid, per row.",
    lower_bound=1,
    upper_bound=10_000_000,
)
_SEED = common_flags.define_seed("Of the first image.")
_PIXELS = common_flags.PixelsFlag()
_TRUNCATION = flags.DEFINE_float(
    "truncation",
    None,
    "Restrict the noise of the latents to this many standard deviations, "
    "before the temperature: typical images at the cost of variety.",
)
_FIX_GROUPS = flags.DEFINE_string(
    "fix_groups",
    "0",
    "Keep so many upper groups as in the first image; or 'scales' or "
    "'groups', which makes a figure with a row for each number of them.",
)
_LABELS = common_flags.LabelsFlag(
    "draw 7, or a row each (in a folder, in turn) of 0,1,2 or all; by "
    "default all in turn."
)
_COLUMNS = flags.DEFINE_integer(
    "columns",
    0,
    "Images per row of a grid; 0: about square, or one of each class.",
    lower_bound=0,
)
_BATCH_SIZE = common_flags.define_batch_size()
_OUTPUT = common_flags.define_output(
    "samples.png",
    "A .png for one grid, or a folder, ending in /, for a file per image, "
    "named by its seed. Files that are there already are kept.",
)


def main(argv) -> None:
    """Loads, draws, writes a grid, a figure or a folder."""
    del argv
    fixed = _FIX_GROUPS.value
    is_figure = fixed in ("scales", "groups")
    is_folder = _OUTPUT.value.endswith("/")
    if not (is_folder or _OUTPUT.value.lower().endswith(".png")):
        raise UserError(
            f"--output={_OUTPUT.value} must end in .png, for one grid, or in "
            "/, for a folder of images."
        )
    values.require_writable(_OUTPUT.value)
    if is_figure and is_folder:
        raise UserError(
            f"--fix_groups={fixed} makes one figure: give an --output that "
            "ends in .png."
        )
    if not is_figure:
        (fixed,) = values.whole_numbers("fix_groups", [fixed])
    if _TRUNCATION.value is not None and not _TRUNCATION.value > 0:
        raise UserError(
            f"--truncation={_TRUNCATION.value:g} must be above 0; for mean "
            "latents use --temperature=0."
        )
    # Before TensorFlow is loaded, and weights are read.
    config = _MODEL.read_config().model
    counts = _fixed_counts(config, fixed)
    _DRAW.read(config)
    _LABELS.read(config)
    from nvae_tf.sampling.illustrator import Illustrator

    model, _, info = _MODEL.load()
    # Before statistics are re-adjusted, which another device rounds otherwise.
    weights = _weights(model, info) if is_folder else {}
    temperature = _DRAW.prepare(model, info)
    illustrator = Illustrator(model)
    labels = _LABELS.read(model.config)
    if is_figure:
        _write_figure(illustrator, counts, temperature)
    elif labels and len(labels) > 1 and not is_folder:
        _write_rows(illustrator, counts[0], temperature, labels)
    elif is_folder:
        _write_folder(illustrator, counts[0], temperature, info, weights)
    else:
        _write_grid(illustrator, counts[0], temperature)


def _fixed_counts(config, fixed) -> list[int]:
    """How many upper groups are fixed, for each row of a figure."""
    if fixed == "groups":
        return list(range(config.num_groups))
    if fixed == "scales":
        if config.num_latent_scales == 1:
            raise UserError(
                "--fix_groups=scales compares scales, but this model has one: "
                "use --fix_groups=groups."
            )
        groups = config.groups_top_down
        return [sum(groups[:s]) for s in range(len(groups))]
    if fixed > config.num_groups:
        raise UserError(
            f"--fix_groups={fixed}, but this model has {config.num_groups} "
            "latent groups."
        )
    return [fixed]


def _options(illustrator) -> dict:
    return {
        "pixels": _PIXELS.choose(illustrator.model.config),
        "truncation": _TRUNCATION.value,
    }


def _write_figure(illustrator, counts, temperature) -> None:
    from nvae_tf.sampling import captions, exploration, images

    rows = exploration.levels(
        illustrator,
        counts,
        _NUM.value,
        temperature,
        _SEED.value,
        min(_BATCH_SIZE.value, _NUM.value),
        labels=_LABELS.of_draws(illustrator.model.config, _NUM.value),
        **_options(illustrator),
    )
    unit = _FIX_GROUPS.value
    names = [
        unit.removesuffix("s") if row == 1 else unit
        for row in range(len(counts))
    ]
    labels = [f"{row} {name} fixed" for row, name in enumerate(names)]
    images.write_png(_OUTPUT.value, captions.labelled_grid(rows, labels))
    print(
        f"{len(counts)} rows, from nothing fixed to {len(counts) - 1} {unit}, "
        f"in {_OUTPUT.value}"
    )


def _write_rows(illustrator, fix_groups, temperature, labels) -> None:
    """A row for each class, all of the same seeds."""
    import numpy as np

    from nvae_tf.core.progress import progress
    from nvae_tf.sampling import captions, images

    rows = [
        np.concatenate(
            [
                *illustrator.draw(
                    _NUM.value,
                    temperature,
                    _SEED.value,
                    min(_BATCH_SIZE.value, _NUM.value),
                    fix_groups=fix_groups,
                    labels=label,
                    **_options(illustrator),
                )
            ]
        )
        for label in progress(labels, unit="class", desc="sampling")
    ]
    grid = captions.labelled_grid(
        np.stack(rows), [f"class {label}" for label in labels]
    )
    images.write_png(_OUTPUT.value, grid)
    print(f"{len(labels)} rows, one for each class, in {_OUTPUT.value}")


def _write_grid(illustrator, fix_groups, temperature) -> None:
    import numpy as np

    from nvae_tf.core.progress import progress
    from nvae_tf.sampling import images

    batch_size = min(_BATCH_SIZE.value, _NUM.value)
    batches = progress(
        illustrator.draw(
            _NUM.value,
            temperature,
            _SEED.value,
            batch_size,
            fix_groups=fix_groups,
            labels=_LABELS.of_draws(illustrator.model.config, _NUM.value),
            **_options(illustrator),
        ),
        total=-(-_NUM.value // batch_size),
        unit="batch",
        desc="sampling",
    )
    drawn = np.concatenate([*batches])
    columns = _COLUMNS.value
    if not columns and not _LABELS.is_given:
        # A column for each class, where they are few.
        classes = illustrator.model.config.num_classes
        columns = classes if classes <= _MOST_COLUMNS else 0
    grid = images.grid(drawn, columns, gap=2)
    images.write_png(_OUTPUT.value, grid)
    print(f"{len(drawn)} samples in {_OUTPUT.value}")


def _weights(model, info) -> dict:
    """What tells the weights from others, as a folder's settings say it."""
    from nvae_tf.evaluation.partial_results import weights_digest
    from nvae_tf.sampling.sample_folder import RUN_WEIGHTS

    if "sha256" in info:
        return {"weights": info["sha256"]}
    return {RUN_WEIGHTS: weights_digest(model)}


def _write_folder(illustrator, fix_groups, temperature, info, weights) -> None:
    import functools

    import numpy as np

    from nvae_tf.core.progress import progress
    from nvae_tf.sampling.classes import take_labels
    from nvae_tf.sampling.sample_folder import write_samples

    options = {"fix_groups": fix_groups, **_options(illustrator)}
    config = illustrator.model.config
    if fix_groups or config.num_classes:
        options["first_seed"] = _SEED.value
    if config.num_classes:
        chosen = _LABELS.read(config) or range(config.num_classes)
        options["labels"] = list(chosen)
    labels = _LABELS.of_draws(config, _NUM.value)

    def draw(seeds):
        return illustrator.draw_seeds(
            seeds,
            temperature,
            fix_groups=fix_groups,
            top_seeds=np.full(len(seeds), _SEED.value),
            labels=take_labels(labels, seeds - _SEED.value),
            **_options(illustrator),
        )

    count = write_samples(
        draw,
        _OUTPUT.value,
        range(_SEED.value, _SEED.value + _NUM.value),
        min(_BATCH_SIZE.value, _NUM.value),
        {
            "step": info["step"],
            "ema": info["ema"],
            # Another model may have taken as many steps.
            **weights,
            "readjust_bn": _DRAW.readjusts,
            # Folders of before do not say, and are of float32 as a rule.
            **(
                {"precision": _MODEL.precision}
                if _MODEL.precision != "float32"
                else {}
            ),
            "temperature": np.asarray(temperature).tolist(),
            **options,
        },
        functools.partial(progress, unit="batch", desc="sampling"),
    )
    print(
        f"{count} samples drawn, {_NUM.value - count} were there already, in "
        f"{_OUTPUT.value}"
    )
