"""Writes ONNX files, for everyone without TensorFlow.

    nvae export onnx --workdir=runs/mnist --output=nvae.onnx

Besides the sampler, `nvae.onnx`, there are `nvae_decode.onnx`,
`nvae_encode.onnx`, `nvae_reconstruct.onnx` and `nvae_score.onnx`, and
`onnx_sampler.py`, which draws the noise that the graphs take.
"""

import json
import os
import pathlib
from collections.abc import Sequence

from nvae_tf.core.errors import ExportError
from nvae_tf.core.files import scratch_folder, sync
from nvae_tf.export import onnx_file, onnx_sampler
from nvae_tf.export.beside import class_labels, noise_streams, picture_grid
from nvae_tf.export.beside.single_file import single_file
from nvae_tf.export.model_card import describe
from nvae_tf.export.onnx_convert import MAX_INLINE_BYTES, save
from nvae_tf.export.onnx_graphs import OnnxGraphs
from nvae_tf.export.onnx_runner import (
    ALL_GRAPHS,
    GRAPHS,
    OnnxRunner,
    graph_path,
    require_packages,
)
from nvae_tf.export.parity import Reference
from nvae_tf.export.runners import check
from nvae_tf.export.served.triton import configuration
from nvae_tf.export.source import Source

__all__ = ["export_onnx"]

DEFAULT_OPSET = 17
# The program that draws with an export, beside it.
SAMPLER = "onnx_sampler.py"
_TRITON = ".pbtxt"


def export_onnx(
    source: Source,
    output: str | os.PathLike,
    *,
    graphs: Sequence[str] = GRAPHS,
    opset: int = DEFAULT_OPSET,
    fixed_batch: int | None = None,
    fp16: bool = False,
    temperature: float = 0.7,
    overwrite: bool = False,
    triton: bool = False,
    max_inline_bytes: int = MAX_INLINE_BYTES,
) -> list[pathlib.Path]:
    """Writes a file per graph, and `onnx_sampler.py` beside them.

    Args:
      source: what to export.
      output: the `.onnx` file of the sampler; names the others.
      graphs: which to write, some of `ALL_GRAPHS`.
      opset: version of ONNX's operators.
      fixed_batch: rows that the graphs take; None for any number.
      fp16: run the networks in half precision.
      temperature: what the model is meant to be sampled at.
      overwrite: take the place of existing files; graphs of an earlier
        export of this name that are not written again are removed.
      triton: also write a `.pbtxt` beside each graph; see `served.triton`.
      max_inline_bytes: larger weights go to files of their own, `.data`.

    Returns:
      The `.onnx` files, in the order of `graphs`.

    Raises:
      ExportError: if a package is missing, a file cannot be written, or a
        graph differs from the live model.
    """
    require_packages()
    output = pathlib.Path(output)
    _check_arguments(output, graphs, fixed_batch, overwrite, triton)
    precision = "float16" if fp16 else "float32"
    facts = describe(source, temperature, precision)
    converter = OnnxGraphs(
        source,
        opset=opset,
        fixed_batch=fixed_batch,
        fp16=fp16,
        metadata={
            "nvae_facts": json.dumps(facts),
        },
    )
    reference = Reference(source, range(fixed_batch or 2), temperature)
    try:
        with scratch_folder(output) as folder:
            for name in graphs:
                save(
                    converter.convert(name),
                    graph_path(folder / output.name, name),
                    max_inline_bytes,
                )
            (folder / SAMPLER).write_bytes(_sampler_program())
            runner = OnnxRunner(folder / output.name, full_check=True)
            check(runner, reference, precision)
            for name in graphs if triton else ():
                path = graph_path(folder / output.name, name)
                text = configuration(
                    path.stem, runner.inputs(name), runner.outputs(name)
                )
                path.with_suffix(_TRITON).write_text(text)
            del runner
            old = _left_over(folder, output, graphs) if overwrite else []
            _move(folder, output)
            for path in old:
                path.unlink()
    except OSError as error:
        raise ExportError(f"Cannot write {output}: {error}.") from error
    return [graph_path(output, name) for name in graphs]


def _check_arguments(output, graphs, fixed_batch, overwrite, triton) -> None:
    if output.suffix != ".onnx":
        raise ExportError(f"--output={output} must end in .onnx.")
    unknown = sorted(set(graphs) - set(ALL_GRAPHS))
    if unknown or not graphs:
        raise ExportError(
            f"There is no graph {', '.join(unknown) or 'to write'}; there are "
            f"{', '.join(ALL_GRAPHS)}."
        )
    if fixed_batch is not None and fixed_batch < 1:
        raise ExportError(
            f"The fixed batch is {fixed_batch}; it must be positive."
        )
    paths = [graph_path(output, name) for name in graphs]
    configurations = [path.with_suffix(_TRITON) for path in paths]
    for path in (
        *paths,
        *(configurations if triton else ()),
        output.with_name(SAMPLER),
    ):
        if path.name == SAMPLER and _is_ours(path):
            continue
        if path.exists() and not overwrite:
            raise ExportError(
                f"{path} exists already: name another --output, or replace it "
                "with --overwrite."
            )


def _is_ours(path: pathlib.Path) -> bool:
    """Whether a sampler beside the export is the one that is to be written."""
    return path.is_file() and path.read_bytes() == _sampler_program()


def _sampler_program() -> bytes:
    """The sampler and what it imports of ours, as one file."""
    return single_file(
        onnx_sampler, class_labels, noise_streams, picture_grid, onnx_file
    )


def _left_over(
    folder: pathlib.Path, output: pathlib.Path, graphs: Sequence[str]
) -> list[pathlib.Path]:
    """Files of an earlier export that the new one, in `folder`, has not.

    Readers take all graphs beside the sampler as one export.
    """
    found = []
    for name in ALL_GRAPHS:
        path = graph_path(output, name)
        if not _is_graph(path, name):
            continue
        found.append(path.with_name(f"{path.name}.data"))
        if name not in graphs:
            found += [path, path.with_suffix(_TRITON)]
    return [
        path
        for path in found
        if path.is_file() and not (folder / path.name).exists()
    ]


def _is_graph(path: pathlib.Path, name: str) -> bool:
    """Whether a file is that graph of an export."""
    try:
        return onnx_file.read_metadata(path).get("nvae_graph") == name
    except ValueError:
        return False


def _move(folder: pathlib.Path, output: pathlib.Path) -> None:
    """Moves files into place, each whole; the sampler's comes last."""
    files = sorted(folder.iterdir(), key=lambda f: (f.name == output.name, f))
    for file in files:
        sync(file)
    for file in files:
        os.replace(file, output.with_name(file.name))
