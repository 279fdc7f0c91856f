"""Files of lowered programs: StableHLO that any later XLA takes.

A file is a description and a module, compressed.  Needs jaxlib, but not
TensorFlow; what is described is NumPy's and JSON's.
"""

from __future__ import annotations

import json
import lzma
from typing import Any

import numpy as np
from jax._src.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
from jaxlib.mlir.passmanager import PassManager

__all__ = ["edit", "pack", "unpack"]

_PRODUCTS = ("stablehlo.convolution", "stablehlo.dot_general", "stablehlo.dot")


def pack(module: bytes, description: dict[str, Any]) -> bytes:
    """A program's file.

    Args:
      module: as TensorFlow serialises it; see `lower.Lowered`.
      description: "inputs" and "outputs", each a list of dictionaries of
        "name", "shape" and "dtype", and whatever else JSON holds.  The outputs
        are those that the function returns.

    Returns:
      The content of a file.  In its description the outputs go on with the
      variables that the program assigns, under the names of their inputs;
      "results" is the number of those before.
    """
    artifact, aliases, operations = _portable(module)
    outputs = list(description["outputs"])
    results = len(outputs)
    for output in sorted(aliases):
        if output != len(outputs):
            raise ValueError(
                f"Output {output} of the module is neither returned nor "
                "assigned."
            )
        outputs.append(description["inputs"][aliases[output]])
    described = {
        **description,
        "outputs": outputs,
        "results": results,
        "operations": operations,
    }
    head = json.dumps(described, separators=(",", ":")).encode()
    return lzma.compress(len(head).to_bytes(8, "little") + head + artifact)


def unpack(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The description and the portable artifact of a program's file."""
    raw = lzma.decompress(content)
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def edit(
    artifact: bytes, *, exact: bool = False, known_rounds: bool = False
) -> tuple[bytes, int]:
    """A portable artifact, changed.

    Args:
      artifact: see `unpack`.
      exact: compute products of float32 as such, where devices would round
        the factors (TF32).
      known_rounds: tell XLA how often the loops of gradients run.  TensorFlow
        reads that off the counter with which the forward loop has ended, at
        run time; a GPU waits for the host every round of a loop whose number
        of rounds the compiler does not know.

    Returns:
      The artifact, and how many loops' counters became known.
    """
    counted = 0
    with mlir.make_ir_context() as context, ir.Location.unknown():
        module = stablehlo.deserialize_portable_artifact(context, artifact)

        def visit(op):
            nonlocal counted
            if exact:
                _compute_exactly(op)
            if known_rounds:
                counted += _tell_last_counter(op)

        _walk(module.operation, visit)
        module.operation.verify()
        return _serialized(module), counted


def _portable(module: bytes) -> tuple[bytes, dict[int, int], int]:
    """The artifact; output -> the input it replaces; operations."""
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

        _walk(parsed.operation, visit)
        PassManager.parse("builtin.module(strip-debuginfo)").run(
            parsed.operation
        )
        parsed.operation.verify()
        return _serialized(parsed), aliases, count


def _serialized(module) -> bytes:
    version = stablehlo.get_current_version()
    return stablehlo.serialize_portable_artifact(module, version)


def _walk(op, visit) -> None:
    """Visits the operations in an operation, inner ones first."""
    for region in op.regions:
        for block in region.blocks:
            for inner in list(block.operations):
                _walk(inner.operation, visit)
                visit(inner.operation)


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


def _compute_exactly(op) -> None:
    if op.name in _PRODUCTS and any(
        str(ir.ShapedType(operand.type).element_type) == "f32"
        for operand in op.operands
    ):
        highest = stablehlo.PrecisionAttr.get("HIGHEST")
        op.attributes["precision_config"] = ir.ArrayAttr.get([highest] * 2)


def _tell_last_counter(op) -> bool:
    """Puts in what a forward loop's counters end with.

    TensorFlow's loops carry (counter, most rounds, own counter, ...), and those
    of `nvae_tf.model.scan` always run as often as they may at most.
    """
    if op.name != "stablehlo.while" or len(op.operands) < 4:
        return False
    counter, rounds, own = (_constant(op.operands[i]) for i in range(3))
    if counter != 0 or own != 0 or not rounds:
        return False
    with ir.InsertionPoint.after(op):
        last = stablehlo.ConstantOp(
            ir.DenseIntElementsAttr.get(
                np.array(rounds, np.int32),
                type=ir.IntegerType.get_signless(32),
                shape=[],
            )
        ).result
    op.results[0].replace_all_uses_with(last)
    op.results[2].replace_all_uses_with(last)
    return True


def _constant(value) -> int | None:
    """The number of a constant int32 scalar; None for anything else."""
    op = value.owner
    is_constant = getattr(op, "name", "") == "stablehlo.constant"
    if not is_constant or str(value.type) != "tensor<i32>":
        return None
    return int(ir.DenseIntElementsAttr(op.attributes["value"])[0])
