"""Floating-point operations and bytes of the operations of a traced graph.

What an operation has to do follows from the shapes of its inputs and outputs.
They are looked up by the names that operations have in a profile: TensorFlow
puts the bodies of loops and branches in line, and fuses operations, under names
that still say where each one came from.
"""

import math
import re
import typing

__all__ = ["GraphWork", "Work"]

# Before the name of an operation in the body of a loop, or in a branch, stand
# the name of the loop and a number: "while/body/_12/mul".
_INLINE = re.compile(r"/(?P<function>body|cond|then|else)/_\d+/")
_FUNCTIONS = {
    "body": "body",
    "cond": "cond",
    "then": "then_branch",
    "else": "else_branch",
}
# Outputs by name, for kinds of operations with several.
_OUTPUTS = {
    "FusedBatchNormGradV3": ("x_backprop", "scale_backprop"),
    "FusedBatchNormV3": ("y", "batch_mean", "batch_variance"),
    "TensorListPopBack": ("output_handle", "tensor"),
}
# What a fused operation is named after uses the result of such a one.
_FUSED = {
    "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    "FusedConv2D": "Conv2D",
    "FusedMatMul": "MatMul",
    "Swish": "Sigmoid",
}
# They pass on lists, and do not touch what is in them.
_LISTS = frozenset(
    {"EmptyTensorList", "TensorListPopBack", "TensorListPushBack"}
)
# They pass on what they get.
_VIEWS = frozenset({"Identity", "ReadVariableOp", "Reshape", "Squeeze"})
# Attributes that name the type of the outputs, the one that counts first.
_TYPES = ("DstT", "element_dtype", "dtype", "T")
_BYTES = {1: 4, 2: 8, 3: 4, 9: 8, 10: 1, 14: 2, 19: 2}  # By DataType.


class Work(typing.NamedTuple):
    """What an operation has to do.

    Attributes:
      flop: multiplications and additions of convolutions and products of
        matrices; 0 for all others.
      bytes: of inputs and outputs, each counted once.
    """

    flop: int
    bytes: int


class GraphWork:
    """Looks up the work of operations.

    Args:
      graph: a traced `tf.Graph`, before optimisation.
    """

    def __init__(self, graph):
        definition = graph.as_graph_def(add_shapes=True)
        self._main = _Function(definition.node, {})
        self._functions = {
            function.signature.name: _Function(
                function.node_def, _arguments(function)
            )
            for function in definition.library.function
        }

    def work(self, name: str, kind: str) -> Work | None:
        """The work of one operation.

        Args:
          name: in a profile.
          kind: in a profile.

        Returns:
          None for what is not in the graph as traced: TensorFlow's optimiser
          made it; or if a shape is not known before the step runs.
        """
        function, inner = self._find(name)
        node = function.nodes.get(inner) if function else None
        if node is None:
            return None
        heart = node
        fused = next((name for name in _FUSED if kind.endswith(name)), None)
        if fused:
            heart = function.upstream(node, _FUSED[fused])
            if heart is None:
                return None
        if heart.op in _LISTS or heart.op in _VIEWS:
            return Work(0, 0)
        inputs = [function.tensor(x) for x in _data_inputs(heart)]
        outputs = _output_tensors(node)
        tensors = {*inputs, *outputs}
        if heart.op.startswith("FusedBatchNorm"):
            # What one direction leaves for the other is empty on CPUs.
            tensors.discard(None)
        if None in tensors:
            return None
        size = sum(tensor.bytes for tensor in tensors)
        return Work(_flop(heart, inputs, outputs), size)

    def _find(self, name: str):
        """The function that an operation is in, and its name there."""
        function = self._main
        while match := _INLINE.search(name):
            node = function.nodes.get(name[: match.start()])
            attribute = _FUNCTIONS[match["function"]]
            if node is None or attribute not in node.attr:
                return None, name
            function = self._functions[node.attr[attribute].func.name]
            name = name[match.end() :]
        return function, name


class _Tensor(typing.NamedTuple):
    name: str
    shape: tuple[int, ...]
    bytes: int


class _Function:
    """Nodes by name, and tensors by the names that nodes call them."""

    def __init__(self, nodes, arguments: dict):
        self.nodes = {node.name: node for node in nodes}
        self._arguments = arguments

    def tensor(self, reference: str) -> _Tensor | None:
        """What "node", "node:1" or "node:output:1" names."""
        reference = self._source(reference)
        if reference in self._arguments:
            return self._arguments[reference]
        node, index = self._output(reference)
        outputs = _output_tensors(node) if node is not None else []
        return outputs[index] if index < len(outputs) else None

    def upstream(self, node, kind: str):
        """The node of a kind that this one, or its bias, is computed from."""
        for reference in _data_inputs(node):
            before, _ = self._output(self._source(reference))
            if before is not None and before.op == "BiasAdd":
                first = _data_inputs(before)[0]
                before, _ = self._output(self._source(first))
            if before is not None and before.op == kind:
                return before
        return None

    def _source(self, reference: str) -> str:
        """Where a tensor that is only passed on was made."""
        while True:
            node, index = self._output(reference)
            if node is None or node.op not in ("Identity", "IdentityN"):
                return reference
            reference = _data_inputs(node)[index]

    def _output(self, reference: str):
        """The node of a tensor, None for an argument, and which output."""
        name, *place = reference.split(":")
        node = self.nodes.get(name)
        index = int(place[-1]) if place else 0
        if node is not None and len(place) == 2:
            names = _OUTPUTS.get(node.op, ())
            index += names.index(place[0]) if place[0] in names else 0
        return node, index


def _arguments(function) -> dict[str, _Tensor | None]:
    shapes = function.attr["_input_shapes"].list.shape
    return {
        argument.name: _tensor(argument.name, shape, argument.type)
        for argument, shape in zip(
            function.signature.input_arg, shapes, strict=True
        )
    }


def _data_inputs(node) -> list[str]:
    return [name for name in node.input if not name.startswith("^")]


def _output_tensors(node) -> list[_Tensor | None]:
    name = next((name for name in _TYPES if name in node.attr), "T")
    kind = node.attr[name].type
    return [
        _tensor(f"{node.name}:{i}", shape, kind)
        for i, shape in enumerate(node.attr["_output_shapes"].list.shape)
    ]


def _tensor(name: str, shape, data_type: int) -> _Tensor | None:
    sizes = tuple(dim.size for dim in shape.dim)
    if shape.unknown_rank or -1 in sizes:
        return None
    # Lists, resources and the like are passed on, not read.
    return _Tensor(name, sizes, math.prod(sizes) * _BYTES.get(data_type, 0))


def _flop(node, inputs, outputs) -> int:
    """Two for each multiplication and addition."""
    if node.op in ("MatMul", "BatchMatMulV2"):
        # [..., m, k] and [..., k, n], or either transposed.
        transposed = node.attr["transpose_a"].b or node.attr["adj_x"].b
        reduced = inputs[0].shape[-2 if transposed else -1]
        return 2 * math.prod(outputs[0].shape) * reduced
    # What is convolved [kh, kw, c_in, c_out], and the side with the stride.
    if node.op in ("Conv2D", "DepthwiseConv2dNative"):
        kernel, result = inputs[1].shape, outputs[0].shape
    elif node.op.endswith("BackpropInput"):
        kernel, result = inputs[1].shape, inputs[2].shape
    elif node.op.endswith("BackpropFilter"):
        kernel, result = outputs[0].shape, inputs[2].shape
    else:
        return 0
    if node.op.startswith("Depthwise"):
        # Every output is of one channel: [kh, kw, c, multiplier].
        kernel = (*kernel[:2], 1, 1)
    return 2 * math.prod(result) * math.prod(kernel[:-1])
