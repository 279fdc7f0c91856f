"""Runs exported LiteRT graphs, without TensorFlow.

    python litert_program.py DIR --num=64 --seed=0 --output=grid.png

A single file that needs ai-edge-litert and NumPy, and Pillow to write PNG.  As
a module:

    graphs = Graphs("DIR")
    images = graphs.sample(seeds=range(64), temperature=0.7)
    latents = graphs.run("encode", {"images": images[:N], "eps_0": ...})

The graphs take a fixed number of rows.  They have no random operations: noise
comes in, drawn by `noise_rows`.
"""

import os
import struct
import sys

import numpy as np

from nvae_tf.export.beside.graph_folder import GraphFolder, draw_images

__all__ = ["Graphs", "check_model", "main"]

_IDENTIFIER = b"TFL3"
_MOST_GRAPH_BYTES = 2**31
_MOST_PARTS = 2**20


class Graphs(GraphFolder):
    """The graphs of an export, in LiteRT; see `GraphFolder`."""

    FORMAT = "LiteRT"

    def __init__(self, folder):
        super().__init__(folder)
        self._runners = {}

    def open(self, name):
        """A graph that is ready to be run.

        Args:
          name: of the graph.

        Returns:
          A function of arrays by name that returns arrays by name, LiteRT's
          `SignatureRunner`.

        Raises:
          OSError: if the file cannot be read.
          ValueError: if it is no graph that LiteRT runs with operations of its
            own, or takes or gives other than the export tells.
        """
        if name in self._runners:
            return self._runners[name]
        content = self._read(f"{name}.tflite", _MOST_GRAPH_BYTES)
        try:
            check_model(content)
            from ai_edge_litert import interpreter as litert

            # Its own operations look at what they are given, those for the
            # processor at hand, which take their place below, do not.
            litert.Interpreter(
                model_content=content,
                experimental_op_resolver_type=(
                    litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                ),
            ).allocate_tensors()
            runner = litert.Interpreter(
                model_content=content, num_threads=os.cpu_count()
            ).get_signature_runner()
            sides = runner.get_input_details(), runner.get_output_details()
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{name}.tflite is not a graph that loads: {reason}"
            ) from error
        for side, found in zip(self.SIDES, sides, strict=True):
            described = self._graphs[name][side]
            told = {s["name"]: (s["dtype"], s["shape"]) for s in described}
            if told != {key: _spec(value) for key, value in found.items()}:
                raise ValueError(
                    f"{name}.tflite has other {side} than {self.FORMAT}'s "
                    "description tells"
                )
        self._runners[name] = runner
        return runner

    def run(self, name, inputs):
        """See `GraphFolder.run`."""
        given = self._given(name, inputs)
        try:
            return self.open(name)(**given)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{name} does not run: {reason}") from error


def check_model(content):
    """Looks through a model before LiteRT does.

    Args:
      content: of a `.tflite` file, bytes.

    Raises:
      ValueError: if it is none, or needs what is not in it: operations that
        come with an application or other libraries, or weights that lie
        elsewhere.
    """
    from ai_edge_litert import schema_py_generated as schema

    if content[4:8] != _IDENTIFIER:
        raise ValueError("it is not a LiteRT model")
    custom = schema.BuiltinOperator.CUSTOM
    try:
        model = schema.Model.GetRootAs(content)
        counts = model.OperatorCodesLength(), model.BuffersLength()
        if max(counts) > _MOST_PARTS:
            raise ValueError("it has more parts than any export")
        for i in range(model.OperatorCodesLength()):
            code = model.OperatorCodes(i)
            kinds = code.BuiltinCode(), code.DeprecatedBuiltinCode()
            if custom in kinds or code.CustomCode() is not None:
                raise ValueError("it has operations that LiteRT lacks")
        for i in range(model.BuffersLength()):
            # Larger files have theirs behind the model.
            if model.Buffers(i).Offset() > 1:
                raise ValueError("its weights lie elsewhere")
        if model.ExternalBuffersLength() or model.ExternalBufferGroupsLength():
            raise ValueError("its weights lie elsewhere")
    except (AttributeError, IndexError, TypeError, struct.error) as error:
        raise ValueError("it is damaged") from error


def _spec(details):
    """Dtype and shape as exports describe them."""
    return np.dtype(details["dtype"]).name, details["shape_signature"].tolist()


def main(argv=None):
    """The command.

    Args:
      argv: arguments, by default the command line's.

    Returns:
      Exit status: 0, or 2 after a message.
    """
    return draw_images(Graphs, argv)


if __name__ == "__main__":
    sys.exit(main())
