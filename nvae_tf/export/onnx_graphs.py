"""The graphs of an ONNX export; see `nvae_tf.export.graphs`."""

import json
from collections.abc import Mapping
from typing import Any

from nvae_tf.export.graphs import Graphs
from nvae_tf.export.onnx_convert import convert
from nvae_tf.export.programs import unrolled
from nvae_tf.export.source import Source

__all__ = ["OnnxGraphs"]


class OnnxGraphs:
    """Converts a model's graphs.

    Args:
      source: the model and its parameters.
      opset: version of ONNX's operators.
      fixed_batch: number of rows; None for any.
      fp16: run the networks in half precision.
      metadata: properties of every model.
    """

    def __init__(
        self,
        source: Source,
        *,
        opset: int,
        fixed_batch: int | None = None,
        fp16: bool = False,
        metadata: Mapping[str, str] | None = None,
    ):
        dtype = "mixed_float16" if fp16 else "float32"
        self._graphs = Graphs(
            source, fixed_batch, unrolled(source.model, dtype)
        )
        self._opset = opset
        self._metadata = {
            **(metadata or {}),
            "nvae_num_groups": str(source.model.config.num_groups),
            "nvae_fixed_batch": str(fixed_batch or 0),
        }
        classes = source.model.config.num_classes
        if classes:
            self._metadata["nvae_num_classes"] = str(classes)

    def convert(self, name: str) -> Any:
        """Converts a graph.

        Args:
          name: one of `nvae_tf.export.onnx_runner.ALL_GRAPHS`.

        Returns:
          An `onnx.ModelProto`.

        Raises:
          ExportError: see `nvae_tf.export.onnx_convert.convert`.
        """
        graph = self._graphs.define(name)
        return convert(
            graph.function,
            graph.specs,
            graph.weights,
            opset=self._opset,
            metadata={
                **self._metadata,
                "nvae_graph": name,
                "nvae_noise": json.dumps([s._asdict() for s in graph.noise]),
            },
        )
