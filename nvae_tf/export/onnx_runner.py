"""Running ONNX exports; see `nvae_tf.export.runners`."""

import json
import os
import pathlib
from typing import Any

from nvae_tf.core.errors import ExportError, one_line
from nvae_tf.core.extras import require
from nvae_tf.core.reading import shown
from nvae_tf.export import onnx_file

__all__ = [
    "ALL_GRAPHS",
    "GRAPHS",
    "OnnxRunner",
    "graph_path",
    "require_packages",
]

# What an export has unless told otherwise, and all that there is.
GRAPHS = ("sample", "decode", "encode", "reconstruct", "score")
ALL_GRAPHS = (*GRAPHS, "from_noise", "infer")

_DTYPES = {"float": "float32", "uint8": "uint8", "int32": "int32"}


def require_packages() -> None:
    """Raises ExportError, naming the extra, if what exports need is missing."""
    for package in ("onnx", "tf2onnx", "onnxruntime"):
        require(package, "onnx", "An ONNX export", ExportError)


def graph_path(path: str | os.PathLike, name: str) -> pathlib.Path:
    """Where a graph is, next to the sampler's file."""
    path = pathlib.Path(path)
    if name == "sample":
        return path
    return path.with_name(f"{path.stem}_{name}{path.suffix}")


class OnnxRunner:
    """The graphs of an ONNX export, in ONNX Runtime on the CPU.

    Args:
      path: the sampler's file, whose neighbours are loaded too, or another
        graph's alone.
      full_check: also run ONNX's checker with shape inference.

    Raises:
      ExportError: if a file cannot be loaded, or is not such an export.
    """

    def __init__(self, path: str | os.PathLike, *, full_check: bool = False):
        path = pathlib.Path(path)
        self._sessions: dict[str, Any] = {}
        self.metadata: dict[str, str] = {}
        for candidate in (graph_path(path, name) for name in ALL_GRAPHS):
            if candidate.exists():
                self._load(candidate, full_check)
        if not self._sessions:
            raise ExportError(f"There is no ONNX file {path}.")
        self.names = sorted(self._sessions)

    def _load(self, path: pathlib.Path, full_check: bool) -> None:
        metadata = _read_metadata(path)
        onnxruntime = require(
            "onnxruntime", "onnx", "Running an ONNX export", ExportError
        )
        try:
            if full_check:
                onnx = require(
                    "onnx", "onnx", "Checking an ONNX export", ExportError
                )
                onnx.checker.check_model(str(path), full_check=True)
            session = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(
                f"{path} is not an ONNX file that loads: {one_line(error, 300)}"
            ) from error
        for value in (*session.get_inputs(), *session.get_outputs()):
            if _dtype(value) is None:
                raise ExportError(
                    f"{path} is not an export of nvae_tf: {shown(value.name)} "
                    f"is a {shown(value.type)}."
                )
        self._sessions[metadata["nvae_graph"]] = session
        self.metadata = metadata

    @property
    def fixed_batch(self) -> int:
        """Rows that the graphs take; 0 for any number."""
        return int(self.metadata["nvae_fixed_batch"])

    def noise(self, name: str) -> list[dict[str, Any]]:
        """The noise that a graph takes: dicts of name, kind, stream, shape."""
        metadata = self._sessions[name].get_modelmeta().custom_metadata_map
        return json.loads(metadata["nvae_noise"])

    def inputs(self, name):
        """See `nvae_tf.export.runners.Runner`."""
        return _specs(self._sessions[name].get_inputs())

    def outputs(self, name):
        """See `nvae_tf.export.runners.Runner`."""
        return _specs(self._sessions[name].get_outputs())

    def run(self, name, inputs):
        """See `nvae_tf.export.runners.Runner`."""
        outputs = list(self.outputs(name))
        feed = {key: inputs[key] for key in self.inputs(name)}
        values = self._sessions[name].run(outputs, feed)
        return dict(zip(outputs, values, strict=True))


def _read_metadata(path: pathlib.Path) -> dict[str, str]:
    """The properties of an export, of which nothing was run yet.

    Raises:
      ExportError: if it is none, or reads weights from anywhere.
    """
    try:
        metadata = onnx_file.read_metadata(path)
    except ValueError as error:
        raise ExportError(one_line(error)) from error
    batch = metadata.get("nvae_fixed_batch", "")
    if metadata.get("nvae_graph") not in ALL_GRAPHS or not (
        batch.isascii() and batch.isdecimal() and len(batch) < 6
    ):
        raise ExportError(f"{path} is not an export of nvae_tf.")
    return metadata


def _dtype(value) -> str | None:
    """The name of a tensor's dtype, None if no export has it."""
    return _DTYPES.get(value.type.removeprefix("tensor(").removesuffix(")"))


def _specs(values) -> dict[str, tuple]:
    return {
        value.name: (
            _dtype(value),
            [d if isinstance(d, int) else None for d in value.shape],
        )
        for value in values
    }
