r"""Shows a batch exactly as the model sees it.

    nvae data preview --config=mnist_demo --output=grid.png
    nvae data preview --config=image_folder --config.data.path=PICTURES \
        --split=validation

writes the batch as a grid of images and prints its shape, the range of its
values and how many images and batches there are.
"""

from absl import flags

from nvae_tf.commands import command_line, values
from nvae_tf.commands import flags as common_flags

command_line.define_config()
_OUTPUT = common_flags.define_output("grid.png", "A .png for the grid.")
_SPLIT = common_flags.define_split("train")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 0, "Images; 0: the configuration's.", lower_bound=0
)


def main(argv) -> None:
    """Reads a batch, writes the grid and prints."""
    del argv
    config = command_line.config_from_flags()
    values.require_suffix(_OUTPUT.value, ".png")
    from nvae_tf.datasets.preview import preview
    from nvae_tf.sampling import images

    shown = preview(config, _SPLIT.value, _BATCH_SIZE.value)
    batch = shown.batch
    images.write_png(_OUTPUT.value, images.grid(images.to_uint8(batch), gap=2))
    print(f"source:  {shown.source}")
    print(f"images:  {shown.num_images:,}")
    print(f"batches: {shown.num_batches:,} of {len(batch)} per epoch")
    print(f"shape:   {list(batch.shape)} {batch.dtype}")
    print(
        f"values:  {batch.min():g} to {batch.max():g}, mean "
        f"{batch.mean():.4f}, {shown.num_levels} levels"
    )
    if shown.labels is not None:
        print(f"labels:  {' '.join(map(str, shown.labels))}")
    if shown.skipped:
        print(f"skipped: {shown.skipped} unreadable images")
    print(f"grid:    {_OUTPUT.value}")
