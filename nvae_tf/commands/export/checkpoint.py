"""Writes a trained model as a checkpoint of the authors' PyTorch program.

    nvae export checkpoint --workdir=runs/demo --output=demo.pt

Weights, statistics, the optimiser's moments, the epoch and the arguments their
program needs. Where the run keeps averaged weights those are written, and then
no moments; --noema writes the others, with them. PyTorch is not needed.
docs/checkpoints.md says more.
"""

import sys

from absl import flags

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.model_flags import ModelFlags

_MODEL = ModelFlags(with_precision=False)
_OUTPUT = common_flags.define_output("checkpoint.pt", "The file to write.")
_DATASET = flags.DEFINE_string(
    "dataset",
    "",
    "Their program's name of the data, which decides the likelihood and the "
    "size of images there; by default what fits the model.",
)


def main(argv) -> None:
    """Loads, writes, says what the file holds."""
    del argv
    values.require_suffix(_OUTPUT.value, ".pt", ".pth")
    # Before TensorFlow is loaded.
    _MODEL.read_config()
    from nvae_tf.authors import reference_export, torch_file
    from nvae_tf.runs import workdir

    model, config, info = _MODEL.load()
    dataset = _DATASET.value or reference_export.suitable_dataset(config)
    size = reference_export.dataset_size(dataset)
    if size not in (None, config.model.image_size):
        print(
            f"warning: images of {dataset!r} have {size} pixels a side in the "
            f"authors' program, those of this model {config.model.image_size}.",
            file=sys.stderr,
        )
    if _MODEL.folder is None:
        # Nobody knows of the epochs, and nobody goes on with its moments.
        progress = reference_export.Progress(0, info["step"] or 0)
    else:
        # The one that was loaded: a run that goes on writes others.
        checkpoints = workdir.Workdir(_MODEL.folder).checkpoints()
        progress = reference_export.progress_of(
            checkpoints.restore(info["step"]), with_moments=not info["ema"]
        )
    content = reference_export.checkpoint_values(
        model, config, dataset, progress
    )
    torch_file.write(_OUTPUT.value, content)
    moments = "with" if content["optimizer"]["state"] else "without"
    print(
        f"{len(content['state_dict'])} tensors in {_OUTPUT.value}, as dataset "
        f"{dataset!r}: epoch {content['epoch']}, "
        f"step {content['global_step']}, {moments} the optimiser's moments"
        + (
            ", which are of other weights (--noema writes those, with them)"
            if info["ema"] and _MODEL.folder
            else ""
        )
    )
