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

import argparse
import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
from jax import export

from nvae_tf.export.beside.noise_streams import noise_rows
from nvae_tf.export.beside.picture_grid import grid, write_png

__all__ = ["Graphs", "as_jax_function", "main", "shaped"]

DESCRIPTION = "graphs.json"
WEIGHTS = "weights.safetensors"
_MOST_IMAGES = 10_000


class Graphs:
    """The graphs of an export.

    Args:
      folder: what `nvae export stablehlo --output=` was given.

    Attributes:
      names: of the graphs.
      batch: N, rows that they take.
      num_groups: L, latent groups.

    Raises:
      OSError: if a file cannot be read.
      ValueError: if there is no such export.
    """

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)
        try:
            found = json.loads((self._folder / DESCRIPTION).read_bytes())
            self._graphs = found["graphs"]
            self.names = sorted(self._graphs)
            self.batch = found["batch"]
            self.num_groups = found["num_groups"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{self._folder / DESCRIPTION} tells of no graphs "
                f"({str(error)[:80]}); export them again."
            ) from error
        self._functions, self._weights = {}, None

    def describe(self, name):
        """What a graph takes and gives.

        Args:
          name: of the graph.

        Returns:
          A dict: "inputs", "weights" and "outputs", lists of dicts of name,
          shape and dtype; "noise", which of the inputs are, lists of dicts of
          name, kind, stream and shape.
        """
        return self._graphs[name]

    def artifact(self, name):
        """The portable artifact of a graph, bytes."""
        return (self._folder / f"{name}.stablehlo").read_bytes()

    def run(self, name, inputs):
        """Runs a graph.

        Args:
          name: of the graph.
          inputs: arrays by name, of `batch` rows.

        Returns:
          Arrays by name.
        """
        graph = self._graphs[name]
        if name not in self._functions:
            self._functions[name] = jax.jit(
                as_jax_function(
                    self.artifact(name),
                    [*graph["inputs"], *graph["weights"]],
                    graph["outputs"],
                )
            )
        given = []
        for spec in graph["inputs"]:
            value = np.asarray(inputs[spec["name"]], spec["dtype"])
            if list(value.shape) != list(spec["shape"]):
                raise ValueError(
                    f"{spec['name']} must have the shape {spec['shape']}, not "
                    f"{list(value.shape)}."
                )
            given.append(value)
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
            from safetensors.numpy import load_file

            stored = load_file(self._folder / WEIGHTS)
            self._weights = {k: jax.device_put(v) for k, v in stored.items()}
        return self._weights

    def draw_noise(self, name, seeds):
        """The noise of a graph that belongs to seeds: name -> array."""
        return {
            spec["name"]: noise_rows(
                seeds, spec["kind"], spec["stream"], spec["shape"]
            )
            for spec in self._graphs[name]["noise"]
        }

    def sample(self, seeds, temperature=0.7, *, output="images"):
        """Draws an image for every seed.

        Args:
          seeds: integers `[M]`; any number of them.
          temperature: scales the noise of the latent groups: a number, or
            `[L]`, top-down.
          output: "images" (uint8), "images_float" or "mean" (float32 in
            [0, 1]).

        Returns:
          `[M, H, W, C]`.

        Raises:
          ValueError: if the temperature does not fit.
        """
        temperature = np.broadcast_to(
            np.asarray(temperature, np.float32), [self.batch, self.num_groups]
        )
        if not np.all(np.isfinite(temperature) & (temperature >= 0)):
            raise ValueError("temperature must be finite and not negative.")
        seeds = np.asarray(list(seeds), np.int64)
        images = []
        for start in range(0, len(seeds), self.batch):
            rows = np.arange(start, start + self.batch)
            # The last batch is filled up.
            given = self.draw_noise(
                "sample", seeds[np.minimum(rows, len(seeds) - 1)]
            )
            drawn = self.run("sample", {**given, "temperature": temperature})
            images.append(drawn[output][: len(seeds) - start])
        return np.concatenate(images)


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
    parser = argparse.ArgumentParser(
        description="Draws images with an NVAE that was exported as StableHLO."
    )
    parser.add_argument("folder", help="the export")
    parser.add_argument("--num", type=int, default=64, help="images")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--output", default="grid.png", help="a PNG file")
    options = parser.parse_args(argv)
    try:
        if not 1 <= options.num <= _MOST_IMAGES:
            raise ValueError(
                f"--num must be 1 to {_MOST_IMAGES}: the images make one grid."
            )
        seeds = range(options.seed, options.seed + options.num)
        images = Graphs(options.folder).sample(seeds, options.temperature)
        write_png(options.output, grid(images))
    except ImportError as error:
        print(f"error: {error}; pip install it.", file=sys.stderr)
        return 2
    except Exception as error:
        # XLA has kinds of its own.
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {text[:1000]}", file=sys.stderr)
        return 2
    print(f"Wrote {options.num} images to {options.output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
