"""Lowers functions of TensorFlow to StableHLO, with all variables arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nvae_tf.distribute.rounding import tf32
from nvae_tf.export.graphs import describe_tensor

__all__ = ["Lowered", "lower_function"]


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program, and what it takes and gives.

    Attributes:
      module: StableHLO, as TensorFlow serialises it; see `portable`.
      description: "inputs", the arguments first, then the variables that it
        reads or assigns, and "outputs", what it returns: of each its "name",
        "shape" and "dtype".
    """

    module: bytes
    description: dict[str, Any]


def lower_function(
    function: Callable[..., dict[str, Any]],
    arguments: dict[str, tf.TensorSpec],
    variables: dict[str, tf.Variable],
) -> Lowered:
    """Lowers a function that may read and assign variables.

    Args:
      function: of tensors with these names; returns tensors by name.
      arguments: what it takes.
      variables: all that it may use, by name; see `variables_by_name`.

    Raises:
      KeyError: if it uses another variable.
    """
    names = {
        id(variable.handle): (name, variable)
        for name, variable in variables.items()
    }
    specs = list(arguments.values())

    def positional(*values):
        return function(**dict(zip(arguments, values, strict=True)))

    compiled = tf.function(positional, autograph=False, jit_compile=True)
    # How exact products are is for the program's user to say: see `portable`.
    with tf32(True):
        concrete = compiled.get_concrete_function(*specs)
        module = compiled.experimental_get_compiler_ir(*specs)(
            stage="stablehlo_serialized"
        )
    inputs = [describe_tensor(*pair) for pair in arguments.items()]
    inputs += [describe_tensor(*names[id(h)]) for h in concrete.captured_inputs]
    # The values of a dictionary come in the order of its sorted keys.
    returned = sorted(concrete.structured_outputs.items())
    outputs = [describe_tensor(name, tensor) for name, tensor in returned]
    return Lowered(module, {"inputs": inputs, "outputs": outputs})
