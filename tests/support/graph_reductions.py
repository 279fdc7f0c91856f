"""The reductions over replicas in a graph."""

import tensorflow as tf

__all__ = ["reductions"]


def reductions(graph) -> list[tf.Operation]:
    """The operations that are or hold one, such as a loop or a call."""
    functions = {
        function.signature.name: function
        for function in graph.as_graph_def().library.function
    }

    def has_one(node) -> bool:
        if node.op == "CollectiveReduceV2":
            return True
        called = [
            value.func.name
            for value in node.attr.values()
            if value.WhichOneof("value") == "func"
        ]
        return any(
            has_one(inner)
            for name in called
            for inner in functions[name].node_def
        )

    return [op for op in graph.get_operations() if has_one(op.node_def)]
