"""Tells what an export is, and whether it works.

    nvae verify models/nvae
    nvae verify nvae.onnx --workdir=runs/mnist
    nvae verify site --model=NAME

Takes a SavedModel, an ONNX file, a StableHLO or LiteRT export or a web page,
whose files are compared with its manifest first.
Runs every signature: outputs must be finite, the same each time, and no row
may depend on those around it.  With --workdir or --model they are compared with
the live model.  Exits with status 1 if one fails.
"""

import pathlib

from absl import flags

from nvae_tf.core.errors import ExportError, UserError

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run that it was exported from."
)
_MODEL = flags.DEFINE_string(
    "model", "", "The pretrained model that it was exported from."
)

POSITIONAL = "EXPORT"


def main(argv) -> int:
    """The command."""
    if _WORKDIR.value and _MODEL.value:
        raise UserError("Give one of --workdir and --model, not both.")
    path = pathlib.Path(argv[1])
    if not path.exists():
        # Before TensorFlow is loaded.
        raise ExportError(f"There is no export {path}.")
    from nvae_tf.export import verify
    from nvae_tf.export.source import load_source
    from nvae_tf.web import manifest
    from nvae_tf.web.verify import open_site

    is_page = manifest.is_site(path)
    export = (open_site if is_page else verify.open_export)(path)
    source = None
    if _WORKDIR.value or _MODEL.value:
        # What was exported, whatever the default is now.
        options = {"ema": False, **export.facts["source_options"]}
        source = load_source(_WORKDIR.value, pretrained=_MODEL.value, **options)
    results = verify.verify(export, source)
    print(verify.report(export, results))
    return int(any(result.problem for result in results))
