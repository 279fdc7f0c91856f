"""Shows held-out images, each beside its reconstruction.

    python -m nvae_tf.reconstruct --workdir=runs/demo --num=32 \
        --output=reconstructions.png

Originals are as the model saw them: binarised, or at its bits.
"""

from absl import flags

from nvae_tf import command_line
from nvae_tf.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "Which images."
)
_NUM = flags.DEFINE_integer("num", 32, "Number of images.", lower_bound=1)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Of binarisation and noise.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images at once.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", "reconstructions.png", "The PNG to write."
)


def main(argv) -> None:
    """Loads, reconstructs, writes one grid of pairs."""
    del argv
    if not _OUTPUT.value.lower().endswith(".png"):
        raise UserError(f"--output={_OUTPUT.value} must end in .png.")
    import numpy as np

    from nvae_tf import datasets, images, workdir
    from nvae_tf.illustrator import Illustrator
    from nvae_tf.progress import progress

    model, config, _ = workdir.load_model(_WORKDIR.value)
    source = datasets.open_source(config, _SPLIT.value)
    num = min(_NUM.value, len(source))
    batch_size = min(_BATCH_SIZE.value, num)
    illustrator = Illustrator(model)
    stream = datasets.batches(
        source,
        config,
        training=False,
        batch_size=batch_size,
        seed=_SEED.value,
    )
    pairs = []
    for batch, _ in zip(
        stream,
        progress(
            range(-(-num // batch_size)), unit="batch", desc="reconstructing"
        ),
        strict=False,
    ):
        pairs.append(illustrator.reconstruct(batch.images, _SEED.value))
    stream.close()
    pairs = np.concatenate(pairs)[:num]
    images.write_png(_OUTPUT.value, illustrator.grid_of_pairs(pairs))
    print(f"{num} images and their reconstructions in {_OUTPUT.value}")


if __name__ == "__main__":
    command_line.run(main)
