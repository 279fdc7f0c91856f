"""Tells what an export is, and whether it works.

    nvae verify models/nvae
    nvae verify nvae.onnx --workdir=runs/mnist
    nvae verify site

Takes a SavedModel, an ONNX file or a web page, whose files are compared with
its manifest first.
Runs every signature: outputs must be finite, the same each time, and no row
may depend on those around it.  With --workdir they are compared with the live
model.  Exits with status 1 if one fails.
"""

import pathlib

from absl import flags

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run that it was exported from."
)

POSITIONAL = "EXPORT"


def main(argv) -> int:
    """The command."""
    from nvae_tf.export import verify
    from nvae_tf.export.source import load_source
    from nvae_tf.web import manifest
    from nvae_tf.web.verify import open_site

    path = pathlib.Path(argv[1])
    is_page = manifest.is_site(path)
    export = (open_site if is_page else verify.open_export)(path)
    source = None
    if _WORKDIR.value:
        # What was exported, whatever the default is now.
        options = {"ema": False, **export.facts["source_options"]}
        source = load_source(_WORKDIR.value, **options)
    results = verify.verify(export, source)
    print(verify.report(export, results))
    return int(any(result.problem for result in results))
