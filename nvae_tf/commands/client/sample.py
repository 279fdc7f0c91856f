"""Draws images with a model on a TF Serving server.

    nvae client sample --target=HOST:8500 --num=64 --output=grid.png
    nvae client sample --rest=http://HOST:8501 --temperature=1,0.9,0.7

Image i has the seed SEED + i; `nvae sample` draws the same from the same seed.
A model that is told classes draws those of --labels.
"""

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.client.flags import (
    ClassFlag,
    ServerFlags,
    check_output,
    write_images,
)

_SERVER = ServerFlags()
_NUM = flags.DEFINE_integer(
    "num", 64, "Number of images.", lower_bound=1, upper_bound=10_000_000
)
_SEED = common_flags.define_seed("Of the first image.")
_TEMPERATURE = flags.DEFINE_list(
    "temperature",
    "0.7",
    "Multiplies the prior's sigma: one number, or one per latent group, "
    "top-down, as in 1,0.9,0.8.",
)
_CLASSES = ClassFlag()
_OUTPUT = common_flags.define_output(
    "grid.png", "A .png for one grid, or a folder, ending in /."
)


def main(argv) -> None:
    """Draws and writes."""
    del argv
    check_output(_OUTPUT.value)
    temperature = values.numbers("temperature", _TEMPERATURE.value)
    labels = _CLASSES.read()
    seeds = range(_SEED.value, _SEED.value + _NUM.value)
    with _SERVER.connect() as client:
        images = client.sample(
            seeds,
            temperature[0] if len(temperature) == 1 else temperature,
            labels,
        )
    write_images(_OUTPUT.value, images, [f"seed_{seed}" for seed in seeds])
    print(f"Wrote {len(images)} images to {_OUTPUT.value}.")
