"""Programs that were lowered elsewhere, as functions of JAX.

Needs JAX and NumPy alone.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import pathlib
from typing import Any

import jax
import numpy as np
from jax import export

__all__ = ["Program"]


class Program:
    """A function with state, as one of arrays by name.

    Args:
      path: of what `portable.pack` made.

    Attributes:
      inputs: what it takes: name, shape and dtype of each.
      results: names of what it gives.
      assigned: names of the variables that it gives new values.
    """

    def __init__(self, path: pathlib.Path):
        raw = lzma.decompress(path.read_bytes())
        size = int.from_bytes(raw[:8], "little")
        description = json.loads(raw[8 : 8 + size])
        self.inputs = description["inputs"]
        outputs = description["outputs"]
        self.results = [o["name"] for o in outputs[: description["results"]]]
        self.assigned = [o["name"] for o in outputs[description["results"] :]]
        self._function = _exported(
            path.stem, raw[8 + size :], self.inputs, outputs
        )

    def input(self, name: str) -> jax.ShapeDtypeStruct:
        """Shape and dtype of what it takes under a name."""
        (found,) = [i for i in self.inputs if i["name"] == name]
        return _shaped(found)

    def __call__(self, values: dict[str, Any]) -> tuple[dict, dict]:
        """Runs; to be called within `jax.jit`.

        Args:
          values: arrays by name, arguments and variables; there may be more.

        Returns:
          The results, and the new values of variables, both by name.
        """
        outputs = self._function(*[values[i["name"]] for i in self.inputs])
        count = len(self.results)
        return (
            dict(zip(self.results, outputs[:count], strict=True)),
            dict(zip(self.assigned, outputs[count:], strict=True)),
        )


def _shaped(described: dict[str, Any]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        tuple(described["shape"]), np.dtype(described["dtype"])
    )


def _exported(name: str, module: bytes, inputs: list, outputs: list):
    """The module, as what `jax.export` deserialises."""
    results = [_shaped(output) for output in outputs]

    def of_that_type(*_):
        return [jax.numpy.zeros(r.shape, r.dtype) for r in results]

    of_that_type.__name__ = name
    like = export.export(
        jax.jit(of_that_type, keep_unused=True),
        platforms=[export.default_export_platform()],
        disabled_checks=[
            export.DisabledSafetyCheck.custom_call("Sharding"),
        ],
    )(*[_shaped(i) for i in inputs])
    return dataclasses.replace(
        like,
        mlir_module_serialized=module,
        module_kept_var_idx=tuple(range(len(inputs))),
    ).call
