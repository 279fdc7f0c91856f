"""Writes a StableHLO export.

    DIR/
      sample.stablehlo         a portable artifact for each graph
      weights.safetensors      what they take after their inputs
      graphs.json              names, shapes and order of all that they take
      stablehlo_program.py     runs them with JAX

An artifact is what any later XLA takes, whatever the device.  Weights are
arguments: one copy serves every graph, and compilers need not look at them.
"""

import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import ExportError
from nvae_tf.export.folder.export import GRAPHS, Format, export_folder
from nvae_tf.export.graphs import GraphDefinition
from nvae_tf.export.source import Source
from nvae_tf.export.stablehlo.lowering import Lowered, lower_function
from nvae_tf.export.stablehlo.runner import StableHloRunner, require_packages

__all__ = ["PROGRAM", "export_stablehlo"]

PROGRAM = "stablehlo_program.py"


def export_stablehlo(
    source: Source,
    output: str | os.PathLike,
    batch: int,
    *,
    graphs: Sequence[str] = GRAPHS,
    temperature: float = 0.7,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a folder, whole or not at all; see `export_folder`.

    Raises:
      ExportError: also if a package is missing.
    """
    require_packages()
    from nvae_tf.export.stablehlo import program

    write = functools.partial(_write, _draws_differ(source))
    return export_folder(
        source,
        output,
        batch,
        Format(write, StableHloRunner, program, PROGRAM),
        graphs=graphs,
        temperature=temperature,
        overwrite=overwrite,
    )


def _write(draws_differ, folder, graphs) -> dict[str, dict]:
    """Writes artifacts and weights; see `Format`."""
    from safetensors.numpy import save_file

    from nvae_tf.export.stablehlo import portable, program

    described, weights = {}, {}
    for name, graph in graphs:
        # Draws may have other statistics.
        prefix = "draw/" if name == "sample" and draws_differ else ""
        lowered = _lower(graph, prefix)
        artifact = portable.to_portable(lowered.module).artifact
        artifact = portable.edit(artifact, portable.compute_exactly)
        if portable.foreign_calls(artifact):
            raise ExportError(f"{name} holds what other compilers lack.")
        (folder / f"{name}.stablehlo").write_bytes(artifact)
        count = len(graph.specs)
        inputs = lowered.description["inputs"]
        described[name] = {
            "inputs": inputs[:count],
            "weights": inputs[count:],
            "outputs": lowered.description["outputs"],
        }
        taken = {spec["name"].removeprefix(prefix) for spec in inputs[count:]}
        weights |= {prefix + key: graph.weights[key] for key in taken}
    save_file(
        {key: np.ascontiguousarray(value) for key, value in weights.items()},
        folder / program.WEIGHTS,
    )
    return described


def _lower(graph: GraphDefinition, prefix: str) -> Lowered:
    variables = {
        key: tf.Variable(value, trainable=False)
        for key, value in graph.weights.items()
    }

    def run(**inputs):
        return graph.function(
            [inputs[spec.name] for spec in graph.specs], variables
        )

    return lower_function(
        run,
        {spec.name: spec for spec in graph.specs},
        {f"{prefix}{key}": value for key, value in variables.items()},
    )


def _draws_differ(source: Source) -> bool:
    return source.draw_params is not source.params
