r"""Writes StableHLO, for XLA on any device, without TensorFlow.

    nvae export stablehlo --workdir=runs/mnist --batch=16 --output=stablehlo
    python stablehlo/stablehlo_program.py stablehlo --num=64 --output=grid.png

A portable artifact for each graph, which compilers of later versions take as
well, the weights as safetensors, and a program that runs them with JAX, NumPy
and safetensors alone.
"""

from nvae_tf.commands.export.flags import FolderFlags
from nvae_tf.core.extras import require_installed

_FOLDER = FolderFlags("stablehlo", batch=16)


def main(argv) -> None:
    """The command."""
    del argv
    # Before TensorFlow and the model are loaded.
    require_installed("stablehlo", "A StableHLO export")
    _FOLDER.require()
    from nvae_tf.export.stablehlo.export import export_stablehlo

    _FOLDER.write(export_stablehlo)
