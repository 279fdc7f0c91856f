r"""Makes a workdir from a checkpoint of the authors' PyTorch program.

    nvae import --checkpoint=ckpt.pt --workdir=runs/ffhq

Weights, statistics, the optimiser's moments and the epoch are taken over, so
that nvae train can go on and every other command works. A checkpoint does not
know where the images are: say so with --data_source, --data_path, --data_dir
and --data_resize, or give --config=FILE.py with any --config.KEY=VALUE; its
architecture must be the checkpoint's, everything else of it counts. PyTorch is
not needed. docs/checkpoints.md says more.
"""

import dataclasses
import pathlib
import sys

from absl import flags

from nvae_tf.commands import command_line, values
from nvae_tf.core.errors import UserError

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "File that the authors' program wrote."
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder to make; a new one.")
_WEIGHTS_ONLY = flags.DEFINE_bool(
    "weights_only",
    False,
    "Take no optimiser state and begin with epoch 0: to fine-tune on other "
    "images.",
)
_DATA_FLAGS = {
    "source": flags.DEFINE_string("data_source", None, "Sets data.source."),
    "path": flags.DEFINE_string("data_path", None, "Sets data.path."),
    "data_dir": flags.DEFINE_string("data_dir", None, "Sets data.data_dir."),
    "resize": flags.DEFINE_string("data_resize", None, "Sets data.resize."),
}
command_line.define_config()


def main(argv) -> None:
    """Reads, compares, writes the workdir and says how to go on."""
    del argv
    if not _CHECKPOINT.value:
        raise UserError("Name the file to import with --checkpoint=FILE.pt.")
    values.require_workdir(_WORKDIR.value)
    if not pathlib.Path(_CHECKPOINT.value).exists():
        # Before TensorFlow is loaded.
        raise UserError(f"There is no checkpoint {_CHECKPOINT.value}.")
    from nvae_tf.authors import reference_import, reference_table
    from nvae_tf.authors.imported_run import write_run
    from nvae_tf.authors.reference_config import config_from_reference
    from nvae_tf.runs.workdir import Workdir
    from nvae_tf.training.new_run import require_new

    folder = Workdir(_WORKDIR.value)
    require_new(folder)
    checkpoint = reference_import.read(_CHECKPOINT.value)
    own = config_from_reference(
        checkpoint.args, checkpoint.state_dict, checkpoint.path
    )
    config = _merge(own)
    print(
        reference_table.format_table(
            reference_table.comparison(checkpoint.args, own, config)
        )
    )
    unused = reference_table.unused(checkpoint.args)
    if unused:
        print(f"Without a counterpart here: {', '.join(unused)}")
    sys.stdout.flush()
    reference_table.require_same(own.model, config.model, checkpoint.path)
    # What decides nothing may differ: the checkpoint's values stay.
    config = dataclasses.replace(config, model=own.model)
    summary = write_run(
        folder, checkpoint, config, weights_only=_WEIGHTS_ONLY.value
    )
    print(f"\n{summary}\nWritten to {folder.path}. To go on training:")
    print(
        f"  nvae train --config=workdir:{folder.path} --workdir={folder.path}"
    )


def _merge(own):
    """The run's configuration: `--config` over `own`, data flags over both."""
    config = own
    if flags.FLAGS["config"].value is not None:
        config = command_line.config_from_flags()
    data = {k: f.value for k, f in _DATA_FLAGS.items() if f.value is not None}
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, **data)
    )
