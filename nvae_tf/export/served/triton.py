"""What NVIDIA's Triton Inference Server is told of an ONNX graph.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

from collections.abc import Mapping

__all__ = ["configuration"]

_TYPES = {
    "float32": "TYPE_FP32",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
}

_TEMPLATE = """\
# For a model repository of Triton, copy the graph to {name}/1/model.onnx there
# and this file to {name}/config.pbtxt; then
#
#   tritonserver --model-repository=DIR
#
# Noise is an input; onnx_sampler.py draws it.
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {most}
{tensors}
"""

_BATCHING = """\
# Requests are merged; a row depends on no other.
dynamic_batching { max_queue_delay_microseconds: 5000 }
"""


def configuration(
    name: str, inputs: Mapping[str, tuple], outputs: Mapping[str, tuple]
) -> str:
    """The content of `config.pbtxt`: every tensor has one shape.

    Args:
      name: the model's folder in Triton's repository.
      inputs: name -> (dtype, shape with the batch first, None if it is open).
      outputs: likewise.
    """
    batches = {shape[0] for _, shape in (*inputs.values(), *outputs.values())}
    is_open = batches == {None}
    tensors = [
        _tensor(side, key, dtype, shape[1:] if is_open else shape)
        for side, specs in (("input", inputs), ("output", outputs))
        for key, (dtype, shape) in specs.items()
    ]
    text = _TEMPLATE.format(
        name=name, most=32 if is_open else 0, tensors="\n".join(tensors)
    )
    return text + _BATCHING if is_open else text


def _tensor(side: str, name: str, dtype: str, shape) -> str:
    # Without axes beside the batch: "Reshape" of that document.
    dims = ", ".join(map(str, shape)) or "1"
    reshape = "" if shape else " reshape { shape: [ ] }"
    return (
        f'{side} {{ name: "{name}" data_type: {_TYPES[dtype]} '
        f"dims: [ {dims} ]{reshape} }}"
    )
