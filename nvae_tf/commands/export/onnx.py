"""Writes ONNX files, for everyone without TensorFlow.

    nvae export onnx --workdir=runs/mnist --output=nvae.onnx
    python onnx_sampler.py nvae.onnx --num=64 --output=grid.png

The sampler beside the export needs NumPy, ONNX Runtime and Pillow alone.
"""

from absl import flags

from nvae_tf.commands.export.flags import SourceFlags
from nvae_tf.commands.flags import define_overwrite
from nvae_tf.core.extras import require_installed
from nvae_tf.export import onnx_runner

_SOURCE = SourceFlags()
_OUTPUT = flags.DEFINE_string("output", "nvae.onnx", "The sampler's file.")
_GRAPHS = flags.DEFINE_list(
    "graphs", list(onnx_runner.GRAPHS), "Which graphs to write."
)
_OPSET = flags.DEFINE_integer("opset", 17, "Of ONNX's operators.")
_FIXED_BATCH = flags.DEFINE_integer(
    "fixed_batch", None, "Rows; any number if left out."
)
_FP16 = flags.DEFINE_bool("fp16", False, "Run the networks in half precision.")
_TRITON = flags.DEFINE_bool(
    "triton", False, "Also write a config.pbtxt for each graph, as GRAPH.pbtxt."
)
_OVERWRITE = define_overwrite()


def main(argv) -> None:
    """The command."""
    del argv
    # Before TensorFlow and the model are loaded.
    require_installed("onnx", "An ONNX export")
    _SOURCE.require()
    from nvae_tf.export.onnx import export_onnx

    paths = export_onnx(
        _SOURCE.load(),
        _OUTPUT.value,
        graphs=_GRAPHS.value,
        opset=_OPSET.value,
        fixed_batch=_FIXED_BATCH.value,
        fp16=_FP16.value,
        temperature=_SOURCE.temperature,
        overwrite=_OVERWRITE.value,
        triton=_TRITON.value,
    )
    for path in paths:
        print(f"Wrote {path}; it agrees with the live model.")
