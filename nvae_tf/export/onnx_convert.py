"""From a function of tensors to an ONNX model, whatever the size.

Weights enter the conversion as inputs of the graph and become its constants
afterwards.  So they are never part of a TensorFlow graph, which is limited to
2 GB, nor pass through tf2onnx's path for large models, which NumPy 2 breaks.
"""

import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import ExportError
from nvae_tf.core.extras import require

__all__ = ["OPSETS", "convert", "save"]

# The version of ONNX's operators: what tf2onnx can write and what has all the
# operators a model needs.
OPSETS = range(13, 19)

# A protocol buffer holds 2 GB; from here on weights go to a file beside it.
MAX_INLINE_BYTES = 2**30

_PURPOSE = "Exporting to ONNX"


def convert(
    function: Callable[..., Mapping],
    specs: Sequence[tf.TensorSpec],
    weights: Mapping[str, np.ndarray],
    *,
    opset: int,
    metadata: Mapping[str, str],
) -> Any:
    """Converts a function to ONNX.

    Args:
      function: `(inputs, weights) -> outputs`: a list and a dictionary of
        tensors to a dictionary of tensors.
      specs: of the inputs, with names.
      weights: constants of the graph, by name.
      opset: version of ONNX's operators.
      metadata: properties of the model.

    Returns:
      An `onnx.ModelProto`.

    Raises:
      ExportError: if a package is missing, or an opset is not supported.
    """
    require("onnx", "onnx", _PURPOSE, ExportError)
    tf2onnx = require("tf2onnx", "onnx", _PURPOSE, ExportError)
    if opset not in OPSETS:
        raise ExportError(
            f"The opset is {opset}; it must be {OPSETS[0]} to {OPSETS[-1]}."
        )
    weight_specs = [
        tf.TensorSpec(value.shape, value.dtype, f"weight_{i}")
        for i, value in enumerate(weights.values())
    ]

    @tf.function(autograph=False)
    def run(*tensors):
        inputs, values = tensors[: len(specs)], tensors[len(specs) :]
        return function(list(inputs), dict(zip(weights, values, strict=True)))

    concrete = run.get_concrete_function(*specs, *weight_specs)
    names = {
        tensor.name: spec.name
        for tensor, spec in zip(
            concrete.inputs, [*specs, *weight_specs], strict=True
        )
    }
    outputs = {
        tensor.name: name
        for name, tensor in zip(
            # As TensorFlow flattens dictionaries.
            sorted(concrete.structured_outputs),
            concrete.outputs,
            strict=True,
        )
    }
    graph_def = tf2onnx.tf_loader.from_function(
        concrete, list(names), list(outputs)
    )
    with tf.Graph().as_default() as tf_graph:
        tf.import_graph_def(graph_def, name="")
        graph = tf2onnx.tfonnx.process_tf_graph(
            tf_graph,
            opset=opset,
            input_names=list(names),
            output_names=list(outputs),
            tensors_to_rename=names | outputs,
        )
    model = graph.make_model("nvae")
    values = {
        spec.name: value
        for spec, value in zip(weight_specs, weights.values(), strict=True)
    }
    _fold_constants(model, values)
    _remove_inputs(model, values)
    model = _optimize(model)
    _share_constants(model)
    for tensor in [*model.graph.input, *model.graph.output]:
        batch = tensor.type.tensor_type.shape.dim[0]
        if not batch.dim_value:
            batch.dim_param = "batch"
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


def _optimize(model: Any) -> Any:
    """Removes transpositions between TensorFlow's layout and ONNX's.

    Once weights are folded: the time that tf2onnx's optimisers take grows with
    the square of the nodes, and the rest of them find little more.  They copy
    every constant a dozen times, so kernels, which they leave alone, stay away.
    """
    from onnx import helper
    from tf2onnx.graph import GraphUtil
    from tf2onnx.optimizer import (
        back_to_back_optimizer,
        identity_optimizer,
        transpose_optimizer,
    )

    graph = model.graph
    names = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    constants = [*graph.initializer]
    kernels = [tensor for tensor in constants if tensor.name in names]
    del graph.initializer[:]
    graph.initializer.extend(t for t in constants if t.name not in names)
    graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        for t in kernels
    )
    model = GraphUtil.optimize_model_proto(
        model,
        optimizers={
            "transpose": transpose_optimizer.TransposeOptimizer,
            "back_to_back": back_to_back_optimizer.BackToBackOptimizer,
            "identity": identity_optimizer.IdentityOptimizer,
        },
    )
    model.graph.initializer.extend(kernels)
    _remove_inputs(model, names)
    return model


def _remove_inputs(model: Any, names: Collection[str]) -> None:
    kept = [given for given in model.graph.input if given.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def save(
    model: Any, path: pathlib.Path, max_inline_bytes: int = MAX_INLINE_BYTES
) -> list[pathlib.Path]:
    """Writes a model, with the weights in a file of their own if it is large.

    Args:
      model: an `onnx.ModelProto`.
      path: the `.onnx` file; the weights' file has `.data` appended.
      max_inline_bytes: of a model in one file.

    Returns:
      The files that were written.
    """
    onnx = require("onnx", "onnx", _PURPOSE, ExportError)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size <= max_inline_bytes:
        onnx.save_model(model, path)
        return [path]
    data = path.with_name(path.name + ".data")
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data.name,
        size_threshold=1024,
    )
    return [path, data]


def _fold_constants(model: Any, values: dict[str, np.ndarray]) -> None:
    """Computes what depends on weights alone, and drops what does nothing.

    Args:
      model: its graph takes the weights as inputs; changed in place.
      values: the weights; what is computed is added.
    """
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    opsets = {o.domain: o.version for o in model.opset_import}
    for tensor in graph.initializer:
        values[tensor.name] = numpy_helper.to_array(tensor)
    values[""] = None
    renamed: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        kept = _without_effect(node, values)
        if kept is not None and node.output[0] not in _outputs(graph):
            renamed[node.output[0]] = kept
        elif node.input and all(name in values for name in node.input):
            evaluator = ReferenceEvaluator(node, opsets=opsets)
            feed = {name: values[name] for name in node.input if name}
            results = evaluator.run(None, feed)
            values.update(zip(node.output, results, strict=True))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input} | _outputs(graph)
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in values.items()
        if name and name in used
    )


def _share_constants(model: Any) -> None:
    """Keeps one of constants that are equal.

    A graph that walks down the decoder twice has its weights twice: each walk
    folds its own.
    """
    from onnx import numpy_helper

    kept: dict[tuple, Any] = {}
    renamed = {}
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        key = (value.dtype, value.shape, value.tobytes())
        renamed[tensor.name] = kept.setdefault(key, tensor).name
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    outputs = _outputs(model.graph)
    constants = [
        tensor
        for tensor in model.graph.initializer
        if renamed[tensor.name] == tensor.name or tensor.name in outputs
    ]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)


def _without_effect(node: Any, values: Mapping) -> str | None:
    """The input that a multiplication by 1 or addition of 0 returns."""
    neutral = {"Mul": 1, "Add": 0}.get(node.op_type)
    if neutral is None:
        return None
    for this, other in (node.input, node.input[::-1]):
        constant = values.get(this)
        if constant is not None and constant.size == 1 and constant == neutral:
            return other
    return None


def _outputs(graph: Any) -> set[str]:
    return {output.name for output in graph.output}
