"""Draws images from a trained model.

    python -m nvae_tf.sample --workdir=runs/demo --num=64 --temperature=0.7 \
        --seed=0 --output=samples.png

Shows the mean image of every draw, without padding.
"""

import functools

from absl import flags

from nvae_tf import command_line
from nvae_tf.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_NUM = flags.DEFINE_integer("num", 64, "Number of images.", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float(
    "temperature",
    0.7,
    "Multiplies the prior's sigma; the paper shows 0.5 to 0.7 for colour "
    "images and 1 for likelihood.",
    lower_bound=0.0,
)
_READJUST = flags.DEFINE_bool(
    "readjust_bn",
    False,
    "First let batch normalisation settle on draws at this temperature, as "
    "the paper does for colour images.",
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the draws.", lower_bound=0, upper_bound=2**31 - 1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images at once.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string("output", "samples.png", "The PNG to write.")


def main(argv) -> None:
    """Loads, draws, writes one grid."""
    del argv
    if not _OUTPUT.value.lower().endswith(".png"):
        raise UserError(f"--output={_OUTPUT.value} must end in .png.")
    import numpy as np

    from nvae_tf import images, readjust, workdir
    from nvae_tf.illustrator import Illustrator
    from nvae_tf.progress import progress

    model, _, _ = workdir.load_model(_WORKDIR.value)
    if _READJUST.value:
        readjust.readjust_batch_norm(
            model,
            _TEMPERATURE.value,
            seed=_SEED.value,
            progress=functools.partial(progress, desc="re-adjusting"),
        )
    batches = progress(
        Illustrator(model).draw(
            _NUM.value, _TEMPERATURE.value, _SEED.value, _BATCH_SIZE.value
        ),
        total=-(-_NUM.value // _BATCH_SIZE.value),
        unit="batch",
        desc="sampling",
    )
    drawn = np.concatenate([*batches])
    images.write_png(_OUTPUT.value, images.grid(drawn, gap=2))
    print(f"{len(drawn)} samples in {_OUTPUT.value}")


if __name__ == "__main__":
    command_line.run(main)
