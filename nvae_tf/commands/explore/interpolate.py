r"""Interpolates between images, or between draws.

    nvae interpolate --workdir=runs/demo --indices=0,7 \
        --output=way.png
    nvae interpolate --workdir=runs/demo --images=a.png,b.png \
        --steps=30 --output=way.gif
    nvae interpolate --workdir=runs/demo --seeds=3,8,5 \
        --temperature=0.7 --output=way.gif

Goes through noise space: images are encoded (the mean of the posterior) and
expressed as noise of the prior, group by group, so the way begins and ends at
their reconstructions and every image on it is a draw that the prior could have
made.  More than two images make a longer way.  A .png shows a row from each to
the next, a .gif or .mp4 runs through all and back (the latter needs the extra
`video`), and a folder (ending in /) gets one file per frame.  A frame has the
class of the nearer end, if any; draws have --labels, or all, in turn.
"""

import pathlib

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.draw_flags import DrawFlags
from nvae_tf.commands.model_flags import ModelFlags
from nvae_tf.core.errors import UserError

_MODEL = ModelFlags()
_DRAW = DrawFlags(_MODEL)
_IMAGES = common_flags.ImageFlags(num=2)
_SEEDS = flags.DEFINE_list(
    "seeds", "", "In place of images, the seeds of two draws or more."
)
_SEED = common_flags.define_seed("Of binarisation.")
_STEPS = common_flags.define_steps()
_PATH = flags.DEFINE_enum(
    "path",
    "spherical",
    ["spherical", "linear"],
    "Turn the noise along great circles, or go straight.",
)
_ORIGINALS = flags.DEFINE_bool(
    "originals",
    True,
    "In a .png, put the images themselves before and after each row.",
)
_FRAMES_PER_SECOND = flags.DEFINE_float(
    "fps", 12.0, "Of a .gif or .mp4.", lower_bound=0.1, upper_bound=50.0
)
_BATCH_SIZE = common_flags.define_batch_size()
_OUTPUT = common_flags.define_output(
    "interpolation.png", "A .png, .gif or .mp4, or a folder ending in /."
)


def main(argv) -> None:
    """Loads, goes the way, writes a strip, an animation or frames."""
    del argv
    _check_output()
    if _SEEDS.value and _IMAGES.are_given:
        raise UserError(
            "--seeds interpolates between draws, --images and --indices "
            "between images: give one of them."
        )
    seeds = values.whole_numbers("seeds", _SEEDS.value)
    if len(seeds) == 1:
        raise UserError("--seeds names one draw; two are needed.")
    # Before TensorFlow is loaded.
    config = _MODEL.read_config()
    if seeds:
        _DRAW.read(config.model)
    from nvae_tf.sampling import exploration
    from nvae_tf.sampling.illustrator import Illustrator

    model, config, info = _MODEL.load()
    illustrator = Illustrator(model)
    if seeds:
        temperature = _DRAW.prepare(model, info)
        eps, originals = illustrator.noise(seeds), None
        labels = _IMAGES.labels.of_draws(model.config, len(seeds))
    else:
        _DRAW.require_unused()
        temperature = 1.0
        eps, originals, labels = _encode(illustrator, config)
    _require_no_longer_way((len(eps[0]) - 1) * (_STEPS.value - 1) + 1)
    way = exploration.interpolated(eps, _STEPS.value, _PATH.value)
    batch_size = min(_BATCH_SIZE.value, len(way[0]))
    frames = exploration.images_of(
        illustrator,
        way,
        batch_size,
        temperature,
        exploration.labels_between(labels, _STEPS.value),
    )
    _write(frames, originals if _ORIGINALS.value else None)
    print(
        f"From each of {len(eps[0])} {'draws' if seeds else 'images'} to the "
        f"next in {_STEPS.value} steps, in {_OUTPUT.value}"
    )


def _check_output() -> None:
    if _OUTPUT.value.endswith("/"):
        values.require_writable(_OUTPUT.value)
        return
    suffix = values.require_suffix(_OUTPUT.value, ".png", ".gif", ".mp4")
    if suffix == ".mp4":
        from nvae_tf.sampling.video import require_av

        require_av()


def _frame_name(number: int) -> str:
    """A frame's file in a folder."""
    return f"{number:05d}.png"


def _require_no_longer_way(count: int) -> None:
    """Refuses a folder with more than the `count` frames it would be given.

    They would be taken for the end of this way, and to remove them could cost
    pictures that are no frames.
    """
    folder = pathlib.Path(_OUTPUT.value)
    if not (_OUTPUT.value.endswith("/") and folder.is_dir()):
        return
    later = [
        path.name
        for path in folder.glob("[0-9]" * 5 + ".png")
        if int(path.stem) >= count
    ]
    if later:
        raise UserError(
            f"{_OUTPUT.value} of --output has {min(later)}, but this way has "
            f"{count} frames, from {_frame_name(0)} to "
            f"{_frame_name(count - 1)}: name another folder, or remove those "
            "after them."
        )


def _encode(illustrator, config):
    """Noise of the images, the images as uint8, and their classes."""
    from nvae_tf.datasets import image_input
    from nvae_tf.sampling import images
    from nvae_tf.sampling.inference import Inference

    source, config = _IMAGES.open(config)
    batch = image_input.read(source, config, _SEED.value)
    if len(batch.numbers) < 2:
        raise UserError(
            "Two images are needed; name them with --indices=0,1 or "
            "--images=a.png,b.png."
        )
    code = Inference(illustrator.model)(
        batch.images, batch.numbers, draw=False, labels=batch.labels
    )
    return (
        [e.numpy() for e in code.eps],
        images.to_uint8(illustrator.crop(batch.images)),
        batch.labels,
    )


def _write(frames, originals) -> None:
    """Writes `[K * steps, H, W, C]` as `--output` says."""
    import numpy as np

    from nvae_tf.sampling import images

    rows = frames.reshape(-1, _STEPS.value, *frames.shape[1:])
    if _OUTPUT.value.lower().endswith(".png"):
        if originals is not None:
            rows = np.concatenate(
                [originals[:-1, None], rows, originals[1:, None]], axis=1
            )
        grid = images.grid(
            rows.reshape(-1, *rows.shape[2:]), rows.shape[1], gap=2
        )
        images.write_png(_OUTPUT.value, grid)
        return
    # Each station once.
    frames = np.concatenate([rows[0, :1], *rows[:, 1:]])
    if _OUTPUT.value.endswith("/"):
        for number, frame in enumerate(frames):
            images.write_png(_OUTPUT.value + _frame_name(number), frame)
        return
    there_and_back = np.concatenate([frames, frames[-2:0:-1]])
    _write_animation(images.enlarged(there_and_back, 128))


def _write_animation(frames) -> None:
    from nvae_tf.sampling import images, video

    is_video = _OUTPUT.value.lower().endswith(".mp4")
    write = video.write_mp4 if is_video else images.write_gif
    write(_OUTPUT.value, frames, _FRAMES_PER_SECOND.value)
