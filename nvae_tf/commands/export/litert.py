r"""Writes LiteRT models, once TensorFlow Lite, for phones and small devices.

    nvae export litert --workdir=runs/mnist --output=litert
    python litert/litert_program.py litert --num=64 --output=grid.png

A model for each graph, of LiteRT's own operations alone and with a signature
that names what it takes and gives, and a program that runs them with
ai-edge-litert and NumPy.  Noise is an input: the same seed gives the same
picture as everywhere else.
"""

from nvae_tf.commands.export.flags import FolderFlags
from nvae_tf.core.extras import require_installed

_FOLDER = FolderFlags("litert", batch=1)


def main(argv) -> None:
    """The command."""
    del argv
    # Before TensorFlow and the model are loaded.
    require_installed("litert", "A LiteRT export")
    _FOLDER.require()
    from nvae_tf.export.litert.export import export_litert

    _FOLDER.write(export_litert)
