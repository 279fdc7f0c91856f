"""Files of lowered programs: StableHLO that any later XLA takes.

A file is a description and a module, compressed.  Needs jaxlib, but not
TensorFlow; what is described is NumPy's and JSON's.
"""

from __future__ import annotations

import json
import lzma
from typing import Any

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from nvae_tf.export.stablehlo import portable

__all__ = ["edit", "pack", "unpack"]


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
    artifact, aliases, operations = portable.to_portable(module)
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

    def visit(op):
        nonlocal counted
        if exact:
            portable.compute_exactly(op)
        if known_rounds:
            counted += _tell_last_counter(op)

    return portable.edit(artifact, visit), counted


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
