"""Writes a StableHLO export.

    DIR/
      sample.stablehlo         a portable artifact for each graph
      weights.safetensors      what they take after their inputs
      graphs.json              names, shapes and order of all that they take
      stablehlo_program.py     runs them with JAX

An artifact is what any later XLA takes, whatever the device.  Weights are
arguments: one copy serves every graph, and compilers need not look at them.
"""

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import ExportError
from nvae_tf.core.files import new_folder
from nvae_tf.export.beside import noise_streams, picture_grid
from nvae_tf.export.beside.single_file import single_file
from nvae_tf.export.graphs import GraphDefinition, Graphs
from nvae_tf.export.model_card import describe
from nvae_tf.export.onnx_runner import ALL_GRAPHS
from nvae_tf.export.parity import Reference
from nvae_tf.export.runners import check
from nvae_tf.export.source import Source
from nvae_tf.export.stablehlo.lowering import Lowered, lower_function
from nvae_tf.export.stablehlo.runner import (
    DESCRIPTION,
    StableHloRunner,
    require_packages,
)
from nvae_tf.model.nvae import NVAE

__all__ = ["GRAPHS", "PROGRAM", "export_stablehlo"]

GRAPHS = ("sample", "decode", "encode")
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
    """Writes a folder, whole or not at all.

    Args:
      source: what to export.
      output: the folder.
      batch: rows that the graphs take.
      graphs: which to write, some of `onnx_runner.ALL_GRAPHS`.
      temperature: what the model is meant to be sampled at.
      overwrite: take the place of an existing folder.

    Returns:
      The folder.

    Raises:
      ExportError: if a package is missing, the folder exists or cannot be
        written, or a graph differs from the live model.
    """
    require_packages()
    unknown = sorted(set(graphs) - set(ALL_GRAPHS))
    if unknown or not graphs:
        raise ExportError(
            f"There is no graph {', '.join(unknown) or 'to write'}; there are "
            f"{', '.join(ALL_GRAPHS)}."
        )
    if batch < 1:
        raise ExportError(f"The batch is {batch}; it must be positive.")
    output = pathlib.Path(output)
    with new_folder(output, overwrite=overwrite, error=ExportError) as folder:
        _write(source, folder, batch, graphs, describe(source, temperature))
        runner = StableHloRunner(folder)
        check(runner, Reference(source, range(batch), temperature))
    return output


def _write(source, folder, batch, names, facts) -> None:
    """Writes all files; see above."""
    from safetensors.numpy import save_file

    from nvae_tf.export.stablehlo import portable, program

    # Not what the CPU of this machine likes: XLA has operations of its own.
    model = NVAE(source.model.config, unroll=True, device="GPU")
    definitions = Graphs(source, batch, model)
    described, weights = {}, {}
    for name in names:
        graph = definitions.define(name)
        # Draws may have other statistics.
        prefix = "draw/" if name == "sample" and _draws_differ(source) else ""
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
            "noise": [spec._asdict() for spec in graph.noise],
        }
        taken = {spec["name"].removeprefix(prefix) for spec in inputs[count:]}
        weights |= {prefix + key: graph.weights[key] for key in taken}
    save_file(
        {key: np.ascontiguousarray(value) for key, value in weights.items()},
        folder / program.WEIGHTS,
    )
    content = {
        "batch": batch,
        "num_groups": source.model.config.num_groups,
        "graphs": described,
        "facts": facts,
    }
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n")
    (folder / PROGRAM).write_bytes(
        single_file(program, noise_streams, picture_grid)
    )


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
