r"""Writes StableHLO, for XLA on any device, without TensorFlow.

    nvae export stablehlo --workdir=runs/mnist --batch=16 --output=stablehlo
    python stablehlo/stablehlo_program.py stablehlo --num=64 --output=grid.png

A portable artifact for each graph, which compilers of later versions take as
well, the weights as safetensors, and a program that runs them with JAX, NumPy
and safetensors alone.
"""

from absl import flags

from nvae_tf.commands.export.flags import SourceFlags
from nvae_tf.commands.flags import define_output, define_overwrite
from nvae_tf.export.stablehlo import runner

_SOURCE = SourceFlags()
_OUTPUT = define_output("stablehlo", "Folder of the export.")
_BATCH = flags.DEFINE_integer(
    "batch",
    16,
    "Rows that the graphs take.",
    lower_bound=1,
    upper_bound=65_536,
)
_GRAPHS = flags.DEFINE_list(
    "graphs", ["sample", "decode", "encode"], "Which graphs to write."
)
_OVERWRITE = define_overwrite()


def main(argv) -> None:
    """The command."""
    del argv
    # Before TensorFlow and the model are loaded.
    runner.require_packages()
    from nvae_tf.export.stablehlo.export import export_stablehlo

    path = export_stablehlo(
        _SOURCE.load(),
        _OUTPUT.value,
        _BATCH.value,
        graphs=_GRAPHS.value,
        temperature=_SOURCE.temperature,
        overwrite=_OVERWRITE.value,
    )
    print(f"Wrote {path}; it agrees with the live model.")
