r"""Prepares images once, so that training never decodes a large file again.

    nvae data prepare --config=image_folder --config.data.path=PICTURES \
        --output=DIR

writes every split of the configuration's source, decoded and resized, to
sharded TFRecord files with an index.  An interrupted preparation goes on where
it stopped when the same command is run again.  Train on the result with
`--config.data.source=tfrecord --config.data.path=DIR`.
"""

import shlex

from absl import flags

from nvae_tf.commands import command_line
from nvae_tf.commands import flags as common_flags
from nvae_tf.core.errors import ConfigError

command_line.define_config()
_OUTPUT = common_flags.define_output("", "Folder to write to.")
_IMAGES_PER_SHARD = flags.DEFINE_integer(
    "images_per_shard", 4096, "Images per file.", lower_bound=1
)


def main(argv) -> None:
    """Prepares, and says how to train on the result."""
    del argv
    config = command_line.config_from_flags()
    if not _OUTPUT.value:
        raise ConfigError("Name the folder to write to with --output=DIR.")
    from nvae_tf.datasets.preparation import prepare

    prepared = prepare(
        config,
        _OUTPUT.value,
        images_per_shard=_IMAGES_PER_SHARD.value,
        progress=True,
    )
    for split, count in prepared.counts.items():
        print(f"{split}: {count:,} images")
    if prepared.skipped:
        print(f"Skipped as unreadable: {prepared.skipped:,} images")
    print(
        "Train with --config.data.source=tfrecord "
        f"--config.data.path={shlex.quote(_OUTPUT.value)}"
        f"{' --config.data.labels=True' if config.data.labels else ''}"
    )
