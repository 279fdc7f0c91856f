r"""Writes a SavedModel for TF Serving.

    nvae export savedmodel --workdir=runs/mnist --output=models/nvae
    nvae export savedmodel --workdir=runs/mnist --output=models/nvae \
        --checkpoint=best --temperature=0.8 --readjust_bn

The output is the folder of a served model, with a sub-folder for every
version; export/README.md has the signatures.
"""

from absl import flags

from nvae_tf.commands.export.flags import SourceFlags
from nvae_tf.commands.flags import define_overwrite
from nvae_tf.core.extras import require_installed

_SOURCE = SourceFlags()
_OUTPUT = flags.DEFINE_string(
    "output", "models/nvae", "Folder of the served model."
)
_VERSION = flags.DEFINE_integer(
    "version", None, "Sub-folder; by default one more than the latest."
)
_OVERWRITE = define_overwrite()
_WARMUP = flags.DEFINE_bool(
    "warmup", True, "Write warm-up requests; needs the extra 'serving'."
)


def main(argv) -> None:
    """The command."""
    del argv
    # Before TensorFlow and the model are loaded.
    if _WARMUP.value:
        require_installed(
            "serving",
            "Writing warm-up requests (--nowarmup leaves them out)",
            "tensorflow_serving",
        )
    _SOURCE.require()
    from nvae_tf.export.saved_model import export_saved_model

    path = export_saved_model(
        _SOURCE.load(),
        _OUTPUT.value,
        version=_VERSION.value,
        temperature=_SOURCE.temperature,
        overwrite=_OVERWRITE.value,
        warmup_batch_sizes=(1, 8) if _WARMUP.value else (),
    )
    print(f"Wrote {path}; it agrees with the live model.")
