"""Writes a LiteRT export.

    DIR/
      sample.tflite         a model for each graph
      graphs.json           names, shapes and order of all that they take
      litert_program.py     runs them with LiteRT

Models have operations of LiteRT's own alone, and one signature with the names
of what they take and give, for `Interpreter.get_signature_runner` of every
language.
"""

import os
import pathlib
from collections.abc import Sequence

import tensorflow as tf

from nvae_tf.core.errors import ExportError, one_line
from nvae_tf.export.folder.export import GRAPHS, Format, export_folder
from nvae_tf.export.graphs import GraphDefinition, describe_tensor
from nvae_tf.export.litert.runner import LiteRtRunner, require_packages
from nvae_tf.export.source import Source

__all__ = ["PROGRAM", "export_litert"]

PROGRAM = "litert_program.py"
# Places in a model are signed numbers of 32 bits; some room for the graph.
_MOST_WEIGHT_BYTES = 2**31 - 2**26


def export_litert(
    source: Source,
    output: str | os.PathLike,
    batch: int = 1,
    *,
    graphs: Sequence[str] = GRAPHS,
    temperature: float = 0.7,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a folder, whole or not at all; see `export_folder`.

    Raises:
      ExportError: also if a package is missing, or LiteRT cannot hold or run
        a graph.
    """
    require_packages()
    from nvae_tf.export.litert import program

    return export_folder(
        source,
        output,
        batch,
        Format(_write, LiteRtRunner, program, PROGRAM),
        graphs=graphs,
        temperature=temperature,
        overwrite=overwrite,
    )


def _write(folder, graphs) -> dict[str, dict]:
    """Writes models; see `Format`."""
    described = {}
    for name, graph in graphs:
        size = sum(value.nbytes for value in graph.weights.values())
        if size > _MOST_WEIGHT_BYTES:
            raise ExportError(
                f"{name} has {size / 2**30:.1f} GB of weights, and a LiteRT "
                "model holds less than 2 GB: export it as ONNX or StableHLO."
            )
        model, described[name] = _convert(name, graph)
        (folder / f"{name}.tflite").write_bytes(model)
    return described


def _convert(name: str, graph: GraphDefinition) -> tuple[bytes, dict]:
    """A model, and what it takes and gives."""
    module = tf.Module()
    module.run = tf.function(
        lambda *inputs: graph.function(
            [*inputs], {key: tf.constant(v) for key, v in graph.weights.items()}
        ),
        input_signature=graph.specs,
        autograph=False,
    )
    concrete = module.run.get_concrete_function()
    try:
        model = tf.lite.TFLiteConverter.from_concrete_functions(
            [concrete], module
        ).convert()
    except Exception as error:
        # The converter has kinds of its own.
        raise ExportError(
            f"LiteRT's converter refuses {name}: {one_line(error, 300)}"
        ) from error
    outputs = sorted(concrete.structured_outputs.items())
    return model, {
        "inputs": [describe_tensor(spec.name, spec) for spec in graph.specs],
        "outputs": [describe_tensor(*item) for item in outputs],
    }
