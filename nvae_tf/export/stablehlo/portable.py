"""StableHLO that any later XLA, and other compilers, take.

What TensorFlow serialises is of one version and holds operations of its own;
here it becomes a portable artifact.  Needs jaxlib, but not TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax._src.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
from jaxlib.mlir.passmanager import PassManager

__all__ = [
    "Portable",
    "compute_exactly",
    "edit",
    "foreign_calls",
    "to_portable",
    "walk",
]

_PRODUCTS = ("stablehlo.convolution", "stablehlo.dot_general", "stablehlo.dot")


class Portable(NamedTuple):
    """A module for every later version.

    Attributes:
      artifact: its content.
      aliases: output -> the input that it replaces.
      operations: how many it has.
    """

    artifact: bytes
    aliases: dict[int, int]
    operations: int


def to_portable(module: bytes) -> Portable:
    """A portable artifact.

    Args:
      module: as TensorFlow serialises it; see `lowering.Lowered`.
    """
    count = 0
    with mlir.make_ir_context(), ir.Location.unknown():
        parsed = ir.Module.parse(module)
        aliases = _aliases(parsed.operation.attributes)
        _drop_foreign_attributes(parsed.operation)

        def visit(op):
            nonlocal count
            count += 1
            _drop_foreign_attributes(op)
            if op.name == "mhlo.copy":  # All that is not StableHLO.
                op.results[0].replace_all_uses_with(op.operands[0])
                op.erase()

        walk(parsed.operation, visit)
        PassManager.parse("builtin.module(strip-debuginfo)").run(
            parsed.operation
        )
        parsed.operation.verify()
        return Portable(_serialized(parsed), aliases, count)


def edit(artifact: bytes, visit: Callable[[Any], None]) -> bytes:
    """An artifact with its operations changed.

    Args:
      artifact: see `to_portable`.
      visit: of an operation of MLIR, which it may change.
    """
    with mlir.make_ir_context() as context, ir.Location.unknown():
        module = stablehlo.deserialize_portable_artifact(context, artifact)
        walk(module.operation, visit)
        module.operation.verify()
        return _serialized(module)


def compute_exactly(op) -> None:
    """Has products of float32 computed as such.

    Devices would round the factors otherwise, to TF32 or bfloat16.
    """
    if op.name in _PRODUCTS and any(
        str(ir.ShapedType(operand.type).element_type) == "f32"
        for operand in op.operands
    ):
        highest = stablehlo.PrecisionAttr.get("HIGHEST")
        op.attributes["precision_config"] = ir.ArrayAttr.get([highest] * 2)


def foreign_calls(artifact: bytes) -> int:
    """How often an artifact calls what is not in it.

    Raises:
      ValueError: if it is none that can be read.
    """
    count = 0

    def visit(op):
        nonlocal count
        count += op.name == "stablehlo.custom_call"

    try:
        with mlir.make_ir_context() as context, ir.Location.unknown():
            module = stablehlo.deserialize_portable_artifact(context, artifact)
            walk(module.operation, visit)
    except Exception as error:
        # MLIR has kinds of its own.
        raise ValueError("it is no StableHLO that can be read") from error
    return count


def walk(op, visit: Callable[[Any], None]) -> None:
    """Visits the operations in an operation, inner ones first."""
    for region in op.regions:
        for block in region.blocks:
            for inner in list(block.operations):
                walk(inner.operation, visit)
                visit(inner.operation)


def _serialized(module) -> bytes:
    version = stablehlo.get_current_version()
    return stablehlo.serialize_portable_artifact(module, version)


def _aliases(attributes) -> dict[int, int]:
    aliases = {}
    if "mhlo.input_output_alias" in attributes:
        for entry in ir.ArrayAttr(attributes["mhlo.input_output_alias"]):
            entry = ir.DictAttr(entry)
            alias = ir.DictAttr(entry["alias"])
            parameter = ir.IntegerAttr(alias["parameter_number"]).value
            index = list(ir.DenseI64ArrayAttr(entry["output_index"]))
            aliases[index[0] if index else 0] = parameter
    return aliases


def _drop_foreign_attributes(op) -> None:
    attributes = op.attributes
    for name in [n for n in attributes.keys() if n.startswith("mhlo.")]:  # noqa: SIM118
        del attributes[name]
