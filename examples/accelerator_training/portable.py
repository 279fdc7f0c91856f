"""What TensorFlow lowered, as a module that any later JAX takes.

    python -m examples.accelerator_training.portable FOLDER

Needs JAX alone.  Every NAME.mlirbc of the folder, with NAME.json beside it,
becomes NAME.program: see `program`.
"""

from __future__ import annotations

import json
import lzma
import os
import pathlib
import sys
from typing import Any

import numpy as np
from jax._src.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
from jaxlib.mlir.passmanager import PassManager

__all__ = ["convert", "main", "pack"]


def convert(module: bytes, exact: bool = False) -> tuple[bytes, dict[int, int]]:
    """A module of TensorFlow's bytecode as a portable artifact.

    Its loops get a number of rounds that XLA can tell: a gradient's loop runs
    as often as the forward one did, which TensorFlow reads off a counter at run
    time, and a GPU would wait for the host every round.

    Args:
      module: of TensorFlow's bytecode.
      exact: whether products of float32 are to be exact on all devices, where
        some would round their factors.

    Returns:
      The artifact, and the number of the input that each output replaces.
    """
    with mlir.make_ir_context(), ir.Location.unknown():
        parsed = ir.Module.parse(module)
        attributes = parsed.operation.attributes
        aliases = _aliases(attributes)
        # Iterating gives attributes, not names.
        for name in _foreign(attributes.keys()):
            del attributes[name]
        _walk(parsed.operation, _only_stablehlo)
        _walk(parsed.operation, _count_rounds)
        if exact:
            _walk(parsed.operation, _exact)
        PassManager.parse("builtin.module(strip-debuginfo)").run(
            parsed.operation
        )
        parsed.operation.verify()
        version = stablehlo.get_current_version()
        return stablehlo.serialize_portable_artifact(parsed, version), aliases


def pack(module: bytes, description: dict[str, Any]) -> bytes:
    """A program: its description and its module, compressed.

    Args:
      module: of TensorFlow's bytecode.
      description: "inputs" and "outputs", see `lowering.lower`.
    """
    artifact, aliases = convert(module, description["exact"])
    outputs = list(description["outputs"])
    named = len(outputs)
    for output in sorted(aliases):
        if output != len(outputs):
            raise ValueError(f"Output {output} is not the next one.")
        outputs.append(description["inputs"][aliases[output]])
    head = json.dumps(
        {**description, "outputs": outputs, "results": named}
    ).encode()
    return lzma.compress(len(head).to_bytes(8, "little") + head + artifact)


def _aliases(attributes) -> dict[int, int]:
    """Number of an output -> number of the input that it replaces."""
    aliases = {}
    if "mhlo.input_output_alias" in attributes:
        for entry in ir.ArrayAttr(attributes["mhlo.input_output_alias"]):
            entry = ir.DictAttr(entry)
            alias = ir.DictAttr(entry["alias"])
            number = ir.IntegerAttr(alias["parameter_number"]).value
            output = list(ir.DenseI64ArrayAttr(entry["output_index"]))
            aliases[output[0] if output else 0] = number
    return aliases


def _walk(op, visit) -> None:
    for region in op.regions:
        for block in region.blocks:
            for inner in list(block.operations):
                _walk(inner.operation, visit)
                visit(inner.operation)


def _foreign(names) -> list[str]:
    return [name for name in names if name.startswith("mhlo.")]


def _only_stablehlo(op) -> None:
    for name in _foreign(op.attributes.keys()):
        del op.attributes[name]
    if op.name == "mhlo.copy":
        op.results[0].replace_all_uses_with(op.operands[0])
        op.erase()


def _exact(op) -> None:
    if op.name in ("stablehlo.convolution", "stablehlo.dot_general"):
        highest = stablehlo.PrecisionAttr.get("HIGHEST")
        op.attributes["precision_config"] = ir.ArrayAttr.get([highest] * 2)


def _integer(value) -> int | None:
    """The number of a constant int32 scalar; None for anything else."""
    op = value.owner
    is_constant = getattr(op, "name", "") == "stablehlo.constant"
    if not is_constant or str(value.type) != "tensor<i32>":
        return None
    return int(ir.DenseIntElementsAttr(op.attributes["value"])[0])


def _count_rounds(op) -> None:
    """Says how a forward loop's counters end: (counter, rounds, counter, ..."""
    if op.name != "stablehlo.while" or len(op.operands) < 4:
        return
    counter, rounds, own = (_integer(op.operands[i]) for i in range(3))
    if counter != 0 or own != 0 or not rounds:
        return
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


def main(folder: str) -> None:
    """Packs every module of a folder, and removes what it was made of."""
    for path in sorted(pathlib.Path(folder).rglob("*.mlirbc")):
        described = path.with_suffix(".json")
        data = pack(path.read_bytes(), json.loads(described.read_text()))
        out = path.with_suffix(".program")
        temporary = out.with_suffix(".partial")
        temporary.write_bytes(data)
        os.replace(temporary, out)
        path.unlink()
        described.unlink()
        print(f"{out}: {len(data):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
