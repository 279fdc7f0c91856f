"""TensorFlow functions as StableHLO, with every variable an argument."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import tensorflow as tf

from nvae_tf.model import ops
from nvae_tf.model.flat import PackedVariable

__all__ = ["lower", "traced_for_accelerators", "variables_by_name"]


def variables_by_name(named: dict[str, Any]) -> dict[str, tf.Variable]:
    """TensorFlow's variables behind those that checkpoints name.

    A packed one has a variable for each of its parts: "name/0", "name/1", ...

    Args:
      named: Keras's, TensorFlow's and packed variables.
    """
    variables = {}
    for name, variable in named.items():
        if isinstance(variable, PackedVariable):
            for number, piece in enumerate(variable.pieces):
                variables[f"{name}/{number}"] = piece
        else:
            # Keras's variables hold one of TensorFlow's.
            variables[name] = getattr(variable, "value", variable)
            if callable(variables[name]):
                variables[name] = variable
    return variables


@contextlib.contextmanager
def traced_for_accelerators() -> Iterator[None]:
    """Functions traced in here leave out what is written for CPUs."""
    with mock.patch.object(ops, "_has_cpus_only", return_value=False):
        yield


def lower(
    function: Callable[..., dict[str, Any]],
    arguments: dict[str, tf.TensorSpec],
    variables: dict[str, tf.Variable],
) -> tuple[bytes, dict[str, Any]]:
    """Lowers a function that may read and assign variables.

    Args:
      function: of tensors with these names; gives tensors by name.
      arguments: what it takes.
      variables: all that it may use, by name.

    Returns:
      The serialised module; and what it takes and gives: "inputs" and
      "outputs", each a name, a shape and a dtype. Variables are inputs; the
      assigned ones are outputs after the others, under the same names.
    """
    names = {
        id(variable.handle): (name, variable)
        for name, variable in variables.items()
    }
    specs = list(arguments.values())

    def positional(*values):
        return function(**dict(zip(arguments, values, strict=True)))

    compiled = tf.function(positional, autograph=False, jit_compile=True)
    with traced_for_accelerators():
        concrete = compiled.get_concrete_function(*specs)
        module = compiled.experimental_get_compiler_ir(*specs)(
            stage="stablehlo_serialized"
        )
    inputs = [_described(name, spec) for name, spec in arguments.items()]
    for handle in concrete.captured_inputs:
        name, variable = names[id(handle)]
        inputs.append(_described(name, variable))
    # A dictionary's values come in the order of its sorted keys.
    outputs = [
        _described(name, concrete.structured_outputs[name])
        for name in sorted(concrete.structured_outputs)
    ]
    return module, {"inputs": inputs, "outputs": outputs}


def _described(name: str, tensor) -> dict[str, Any]:
    return {
        "name": name,
        "shape": tensor.shape.as_list(),
        "dtype": tf.as_dtype(tensor.dtype).name,
    }
