"""The graphs of exports to other runtimes than TensorFlow's.

A graph has no random operations: noise is an input of it.  All inputs and
outputs have the batch as their first axis.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from nvae_tf.export.folding import fold_batch_norm, is_neutral
from nvae_tf.export.programs import Programs, to_uint8, unrolled
from nvae_tf.export.source import Source
from nvae_tf.model.noise import NoiseSpec
from nvae_tf.model.nvae import NVAE

__all__ = ["GraphDefinition", "Graphs", "describe_tensor"]


class GraphDefinition(NamedTuple):
    """A graph.

    Attributes:
      function: `(inputs, weights) -> outputs`: a list and a dictionary of
        tensors to a dictionary of tensors.
      noise: what of the inputs is noise; they come first.
      specs: of the inputs.
      weights: float32 arrays by name.
    """

    function: Callable[[list, Mapping], dict]
    noise: list[NoiseSpec]
    specs: list[tf.TensorSpec]
    weights: dict[str, np.ndarray]


class Graphs:
    """A model's graphs.

    Args:
      source: the model and its parameters.
      batch: number of rows; None for any.
      model: what runs in the graphs; by default one in single precision.
    """

    def __init__(
        self,
        source: Source,
        batch: int | None = None,
        model: NVAE | None = None,
    ):
        self._source = source
        self._batch = batch
        self._model = model or unrolled(source.model)
        self._facts = Programs(self._model, None)

    def define(self, name: str) -> GraphDefinition:
        """Defines a graph.

        Args:
          name: one of `nvae_tf.export.onnx_runner.ALL_GRAPHS`.
        """
        function, noise, specs = getattr(self, f"_{name}")()
        classes = self._facts.config.num_classes
        if classes:
            specs = [*specs, self._spec("label", (), tf.int32)]
        source = self._source
        params = source.draw_params if name == "sample" else source.params
        weights: dict[str, np.ndarray] = {}
        tree = _take(fold_batch_norm(source.model, params), "", weights)

        def run(inputs, weights):
            programs = Programs(self._model, _fill(tree, weights))
            label = None
            if classes:
                *inputs, label = inputs
            return function(programs, *inputs, label=label)

        return GraphDefinition(
            run, noise, [*self._specs(noise), *specs], weights
        )

    def _spec(self, name, shape, dtype=tf.float32) -> tf.TensorSpec:
        return tf.TensorSpec([self._batch, *shape], dtype, name)

    def _specs(self, noise) -> list[tf.TensorSpec]:
        return [self._spec(spec.name, spec.shape) for spec in noise]

    @property
    def _eps(self) -> list[NoiseSpec]:
        return [
            NoiseSpec(f"eps_{i}", "normal", shape, i)
            for i, shape in enumerate(self._facts.latent_shapes)
        ]

    @property
    def _images(self) -> tf.TensorSpec:
        return self._spec("images", self._facts.image_shape, tf.uint8)

    def _sample(self):
        groups = self._facts.config.num_groups
        noise = self._eps + self._facts.pixel_noise

        def sample(programs, *inputs, label):
            *drawn, temperature = inputs
            images, mean = programs.sample(
                drawn[:groups], temperature, drawn[groups:], label
            )
            return {
                "images": to_uint8(images),
                "images_float": tf.identity(images),
                "mean": tf.identity(mean),
            }

        return sample, noise, [self._spec("temperature", (groups,))]

    def _decode(self):
        specs = [
            self._spec(f"z_{i}", shape)
            for i, shape in enumerate(self._facts.latent_shapes)
        ]

        def decode(programs, *latents, label):
            mean = programs.decode(latents, label)
            return {"images": to_uint8(mean), "mean": mean}

        return decode, [], specs

    def _encode(self):
        def encode(programs, *inputs, label):
            *eps, images = inputs
            latents = programs.encode(images, eps, label)
            return {f"z_{i}": z for i, z in enumerate(latents)}

        return encode, self._eps, [self._images]

    def _reconstruct(self):
        def reconstruct(programs, *inputs, label):
            *eps, images = inputs
            mean = programs.reconstruct(images, eps, label)
            return {"reconstructed": to_uint8(mean), "mean": mean}

        return reconstruct, self._eps, [self._images]

    def _score(self):
        def score(programs, *inputs, label):
            *eps, images = inputs
            return programs.score(images, eps, label)

        return score, self._eps, [self._images]

    def _from_noise(self):
        groups = self._facts.config.num_groups

        def from_noise(programs, *inputs, label):
            *eps, temperature = inputs
            mean = programs.mean(eps[:groups], temperature, label)
            return {"images": to_uint8(mean), "mean": mean}

        temperature = self._spec("temperature", (groups,))
        return from_noise, self._eps, [temperature]

    def _infer(self):
        def infer(programs, *inputs, label):
            *eps, images = inputs
            noise, mean, scores = programs.infer(images, eps, label)
            named = {f"noise_{i}": e for i, e in enumerate(noise)}
            return {**named, "mean": mean, **scores}

        return infer, self._eps, [self._images]


def describe_tensor(name: str, tensor) -> dict[str, Any]:
    """A tensor or its spec as JSON tells of it: "name", "shape", "dtype"."""
    return {
        "name": name,
        "shape": tensor.shape.as_list(),
        "dtype": np.dtype(tensor.dtype.as_numpy_dtype).name,
    }


def _take(folded: Mapping, prefix: str, weights: dict) -> dict:
    """Moves weights into a flat dictionary, and leaves their names.

    What was folded away stays: it must be a constant of the graph.
    """
    tree: dict[str, Any] = {}
    for name, value in folded.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            tree[name] = _take(value, f"{path}/", weights)
        elif is_neutral(name, value):
            tree[name] = value
        else:
            tree[name] = path
            weights[path] = value
    return tree


def _fill(tree: Mapping, weights: Mapping) -> dict:
    filled: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            filled[name] = _fill(value, weights)
        else:
            filled[name] = weights[value] if isinstance(value, str) else value
    return filled
