"""Runs exported StableHLO graphs with JAX, without TensorFlow.

    python stablehlo_program.py DIR --num=64 --seed=0 --output=grid.png

A single file that needs JAX, NumPy and safetensors, and Pillow to write PNG.
As a module:

    graphs = Graphs("DIR")
    images = graphs.sample(seeds=range(64), temperature=0.7)
    latents = graphs.run("encode", {"images": images[:N], "eps_0": ...})

The graphs take any device of JAX's, and a fixed number of rows.  They have no
random operations: noise comes in, drawn by `noise_rows`.
"""

import dataclasses
import sys

import jax
import numpy as np
from jax import export

from nvae_tf.export.beside.graph_folder import GraphFolder, draw_images

__all__ = ["WEIGHTS", "Graphs", "as_jax_function", "main", "shaped"]

WEIGHTS = "weights.safetensors"
_MOST_GRAPH_BYTES = 2**30
_MOST_WEIGHT_BYTES = 2**36


class Graphs(GraphFolder):
    """The graphs of an export, in JAX; see `GraphFolder`."""

    FORMAT = "StableHLO"
    SIDES = ("inputs", "weights", "outputs")

    def __init__(self, folder):
        super().__init__(folder)
        self._functions, self._weights = {}, None

    def artifact(self, name):
        """The portable artifact of a graph, bytes."""
        return self._read(f"{name}.stablehlo", _MOST_GRAPH_BYTES)

    def run(self, name, inputs):
        """See `GraphFolder.run`."""
        graph = self._graphs[name]
        if name not in self._functions:
            self._functions[name] = jax.jit(
                as_jax_function(
                    self.artifact(name),
                    [*graph["inputs"], *graph["weights"]],
                    graph["outputs"],
                )
            )
        given = [*self._given(name, inputs).values()]
        weights = self._read_weights()
        given += [weights[spec["name"]] for spec in graph["weights"]]
        outputs = self._functions[name](*given)
        names = [spec["name"] for spec in graph["outputs"]]
        return {
            key: np.asarray(value)
            for key, value in zip(names, outputs, strict=True)
        }

    def _read_weights(self):
        """All weights by name, on the device; once."""
        if self._weights is None:
            from safetensors.numpy import load

            stored = load(self._read(WEIGHTS, _MOST_WEIGHT_BYTES))
            self._weights = {k: jax.device_put(v) for k, v in stored.items()}
        return self._weights


def shaped(described):
    """Shape and dtype of a described array, as JAX has them."""
    dtype = np.dtype(described["dtype"])
    if dtype.itemsize == 8 and not jax.config.jax_enable_x64:
        raise ValueError(
            f"{described['name']!r} is {dtype}: say "
            'jax.config.update("jax_enable_x64", True) first.'
        )
    return jax.ShapeDtypeStruct(tuple(described["shape"]), dtype)


def as_jax_function(artifact, inputs, outputs):
    """A portable artifact as a function of JAX arrays.

    Args:
      artifact: StableHLO, bytes.
      inputs: of each argument a dict of name, shape and dtype.
      outputs: likewise, of what it returns.

    Returns:
      A function for `jax.jit`, which returns a list.
    """
    results = [shaped(output) for output in outputs]

    def of_that_type(*_):
        return [jax.numpy.zeros(r.shape, r.dtype) for r in results]

    # Lowered for whatever platform it is called on: there is nothing in it
    # that differs between them.
    like = export.export(
        jax.jit(of_that_type, keep_unused=True),
        platforms=["cpu"],
        disabled_checks=[export.DisabledSafetyCheck.platform()],
    )(*[shaped(i) for i in inputs])
    return dataclasses.replace(
        like,
        mlir_module_serialized=artifact,
        module_kept_var_idx=tuple(range(len(inputs))),
    ).call


def main(argv=None):
    """The command.

    Args:
      argv: arguments, by default the command line's.

    Returns:
      Exit status: 0, or 2 after a message.
    """
    return draw_images(Graphs, argv)


if __name__ == "__main__":
    sys.exit(main())
