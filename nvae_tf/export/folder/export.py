"""Writes exports that are folders of graphs.

A file for each graph and what they share, a description of what they take and
give, and a program that runs them.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from nvae_tf.core.errors import ExportError
from nvae_tf.core.files import new_folder, require_replaceable
from nvae_tf.core.reading import sha256
from nvae_tf.export.beside import (
    class_labels,
    graph_folder,
    noise_streams,
    picture_grid,
)
from nvae_tf.export.beside.single_file import single_file
from nvae_tf.export.folder.runner import FolderRunner, describes_export
from nvae_tf.export.graphs import GraphDefinition, Graphs
from nvae_tf.export.model_card import describe
from nvae_tf.export.onnx_runner import ALL_GRAPHS
from nvae_tf.export.parity import Reference
from nvae_tf.export.runners import check
from nvae_tf.export.source import Source
from nvae_tf.model.nvae import NVAE

__all__ = ["GRAPHS", "Format", "export_folder"]

# What an export has unless told otherwise.
GRAPHS = ("sample", "decode", "encode")


class Format(NamedTuple):
    """How graphs are written and read.

    Attributes:
      write: from the folder and pairs of a name and a graph, writes all but
        the description and the program; returns what is described of each
        graph, see `GraphFolder.describe`.
      runner: opens a folder that was written.
      program: becomes the program in it.
      program_name: of that file.
    """

    write: Callable[
        [pathlib.Path, Iterator[tuple[str, GraphDefinition]]],
        dict[str, dict[str, Any]],
    ]
    runner: Callable[[pathlib.Path], FolderRunner]
    program: ModuleType
    program_name: str


def export_folder(
    source: Source,
    output: str | os.PathLike,
    batch: int,
    form: Format,
    *,
    graphs: Sequence[str],
    temperature: float,
    overwrite: bool,
) -> pathlib.Path:
    """Writes a folder, whole or not at all.

    Args:
      source: what to export.
      output: the folder.
      batch: rows that the graphs take.
      form: of the graphs.
      graphs: which to write, some of `onnx_runner.ALL_GRAPHS`.
      temperature: what the model is meant to be sampled at.
      overwrite: take the place of such a folder; never of another.

    Returns:
      The folder.

    Raises:
      ExportError: if the folder exists or cannot be written, or a graph
        differs from the live model.
    """
    output = pathlib.Path(output)
    require_replaceable(
        output,
        describes_export,
        "a StableHLO or LiteRT export",
        overwrite=overwrite,
        error=ExportError,
    )
    unknown = sorted(set(graphs) - set(ALL_GRAPHS))
    if unknown or not graphs:
        raise ExportError(
            f"There is no graph {', '.join(unknown) or 'to write'}; there are "
            f"{', '.join(ALL_GRAPHS)}."
        )
    if batch < 1:
        raise ExportError(f"The batch is {batch}; it must be positive.")
    facts = describe(source, temperature)
    # Not what the CPU of this machine likes: engines have operations of their
    # own.
    model = NVAE(source.model.config, seed=None, unroll=True, device="GPU")
    definitions = Graphs(source, batch, model)
    classes = model.config.num_classes
    noise = {}

    def defined():
        for name in graphs:
            graph = definitions.define(name)
            noise[name] = [spec._asdict() for spec in graph.noise]
            yield name, graph

    with new_folder(output, overwrite=overwrite, error=ExportError) as folder:
        described = form.write(folder, defined())
        digests = {path.name: sha256(path) for path in folder.iterdir()}
        content = {
            "format": form.program.Graphs.FORMAT,
            "batch": batch,
            "num_groups": source.model.config.num_groups,
            **({"num_classes": classes} if classes else {}),
            "graphs": {
                name: {**graph, "noise": noise[name]}
                for name, graph in described.items()
            },
            "sha256": digests,
            "facts": facts,
        }
        (folder / graph_folder.DESCRIPTION).write_text(
            json.dumps(content, indent=1) + "\n"
        )
        (folder / form.program_name).write_bytes(
            single_file(
                form.program,
                graph_folder,
                class_labels,
                noise_streams,
                picture_grid,
            )
        )
        reference = Reference(source, range(batch), temperature)
        check(form.runner(folder), reference)
    return output
