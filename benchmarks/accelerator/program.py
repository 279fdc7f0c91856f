"""Lowered programs as functions of JAX; needs JAX and NumPy alone.

    program = Program(pathlib.Path("step.program"))
    compiled = program.compile()
    results, variables = compiled(variables, {"x": images, "seed": seed, ...})

All arrays go by name; `variables` may hold more than the program uses.  The
arrays of variables that it assigns are given up to it: their memory becomes
that of the new ones.  Variables of 64 bits (the counters of a training step)
need `jax.config.update("jax_enable_x64", True)` at the start.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any

import jax
import numpy as np
from jax import export

from benchmarks.accelerator import artifact

__all__ = ["Compiled", "Program"]


class Program:
    """A function with state, as one of arrays by name.

    Args:
      file: path of a file that `artifact.pack` made, or its content.
      exact: see `artifact.edit`; False allows TF32.
      known_rounds: see `artifact.edit`.

    Attributes:
      description: all that the file says of it.
      inputs: what it takes, arguments first, then variables: name, shape and
        dtype of each.
      results: names of what it returns.
      assigned: names of the variables that it gives new values.
      known_loops: of how many loops the rounds became known.
    """

    def __init__(
        self,
        file: pathlib.Path | bytes,
        *,
        exact: bool = True,
        known_rounds: bool = True,
    ):
        content = file if isinstance(file, bytes) else file.read_bytes()
        self.description, module = artifact.unpack(content)
        module, self.known_loops = artifact.edit(
            module, exact=exact, known_rounds=known_rounds
        )
        self.inputs = self.description["inputs"]
        outputs = self.description["outputs"]
        count = self.description["results"]
        self.results = [o["name"] for o in outputs[:count]]
        self.assigned = [o["name"] for o in outputs[count:]]
        self._function = _exported(module, self.inputs, outputs)

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

    def compile(
        self, sharding: jax.sharding.Sharding | None = None
    ) -> Compiled:
        """Compiles for a device.

        Args:
          sharding: of all arrays, which tells the device, even one that is
            not there; None for JAX's default device.
        """
        # JAX pairs given-up arrays with outputs of their shape, in order: in
        # that of the outputs every variable gets the memory it had.
        kept = [n["name"] for n in self.inputs]
        kept = [name for name in kept if name not in set(self.assigned)]

        def call(assigned, others):
            values = dict(zip(self.assigned, assigned, strict=True))
            results, new = self(values | dict(zip(kept, others, strict=True)))
            return list(results.values()), list(new.values())

        call.__name__ = self.description.get("kind", "program")

        def arguments(names):
            return [
                jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding)
                for s in map(self.input, names)
            ]

        began = time.perf_counter()
        lowered = jax.jit(call, donate_argnums=0).lower(
            arguments(self.assigned), arguments(kept)
        )
        traced = time.perf_counter()
        compiled = lowered.compile()
        return Compiled(
            self,
            kept,
            compiled,
            traced - began,
            time.perf_counter() - traced,
        )


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program for a device.

    Attributes:
      program: the program.
      kept: names of the inputs that it does not assign.
      executable: JAX's.
      trace_seconds: what it took to give the program to the compiler.
      compile_seconds: what the compiler took.
    """

    program: Program
    kept: list[str]
    executable: Any
    trace_seconds: float
    compile_seconds: float

    def __call__(self, variables: dict, arguments: dict) -> tuple[dict, dict]:
        """Runs.

        Args:
          variables: arrays by name; those to be assigned are given up.
          arguments: likewise, what is no variable.

        Returns:
          The results, and all variables after it; not waited for.
        """
        program, values = self.program, {**variables, **arguments}
        results, new = self.executable(
            [values[name] for name in program.assigned],
            [values[name] for name in self.kept],
        )
        return (
            dict(zip(program.results, results, strict=True)),
            {**variables, **dict(zip(program.assigned, new, strict=True))},
        )

    def memory(self) -> dict[str, int]:
        """Bytes on the device, as the compiler has laid them out.

        "peak": arguments, outputs that are none of them, and temporaries.
        """
        stats = self.executable.memory_analysis()
        sizes = {
            name: int(getattr(stats, f"{name}_size_in_bytes", 0) or 0)
            for name in ("argument", "output", "alias", "temp")
        }
        peak = sizes["argument"] + sizes["output"] + sizes["temp"]
        return {"peak": peak - sizes["alias"], **sizes}


def _shaped(described: dict[str, Any]) -> jax.ShapeDtypeStruct:
    dtype = np.dtype(described["dtype"])
    if dtype.itemsize == 8 and not jax.config.jax_enable_x64:
        raise ValueError(
            f"{described['name']!r} is {dtype}: say "
            'jax.config.update("jax_enable_x64", True) first.'
        )
    return jax.ShapeDtypeStruct(tuple(described["shape"]), dtype)


def _exported(module: bytes, inputs: list, outputs: list):
    """The module, as what `jax.export` deserialises."""
    results = [_shaped(output) for output in outputs]

    def of_that_type(*_):
        return [jax.numpy.zeros(r.shape, r.dtype) for r in results]

    # Lowered for whatever platform it is called on: there is nothing in it
    # that differs between them.
    like = export.export(
        jax.jit(of_that_type, keep_unused=True),
        platforms=["cpu"],
        disabled_checks=[export.DisabledSafetyCheck.platform()],
    )(*[_shaped(i) for i in inputs])
    return dataclasses.replace(
        like,
        mlir_module_serialized=module,
        module_kept_var_idx=tuple(range(len(inputs))),
    ).call
