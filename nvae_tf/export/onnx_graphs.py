"""The graphs of an ONNX export.

A graph has no random operations: noise is an input of it.  All inputs and
outputs have the batch as their first axis.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from nvae_tf.export.folding import fold_batch_norm, is_neutral
from nvae_tf.export.onnx_convert import convert
from nvae_tf.export.programs import Programs, to_uint8, unrolled
from nvae_tf.export.source import Source
from nvae_tf.model.noise import NoiseSpec

__all__ = ["OnnxGraphs"]


class OnnxGraphs:
    """Converts a model's graphs.

    Args:
      source: the model and its parameters.
      opset: version of ONNX's operators.
      fixed_batch: number of rows; None for any.
      fp16: run the networks in half precision.
      metadata: properties of every model.
    """

    def __init__(
        self,
        source: Source,
        *,
        opset: int,
        fixed_batch: int | None = None,
        fp16: bool = False,
        metadata: Mapping[str, str] | None = None,
    ):
        self._source = source
        self._model = unrolled(
            source.model, "mixed_float16" if fp16 else "float32"
        )
        self._opset = opset
        self._batch = fixed_batch
        self._metadata = dict(metadata or {})
        self._facts = Programs(self._model, None)

    def convert(self, name: str) -> Any:
        """Converts a graph.

        Args:
          name: one of `nvae_tf.export.onnx_runner.ALL_GRAPHS`.

        Returns:
          An `onnx.ModelProto`.

        Raises:
          ExportError: see `nvae_tf.export.onnx_convert.convert`.
        """
        function, noise, specs = getattr(self, f"_{name}")()
        specs = [*self._specs(noise), *specs]

        source = self._source
        params = source.draw_params if name == "sample" else source.params
        weights: dict[str, np.ndarray] = {}
        tree = _take(fold_batch_norm(source.model, params), "", weights)

        def run(inputs, weights):
            programs = Programs(self._model, _fill(tree, weights))
            return function(programs, *inputs)

        return convert(
            run,
            specs,
            weights,
            opset=self._opset,
            metadata={
                **self._metadata,
                "nvae_graph": name,
                "nvae_noise": json.dumps([spec._asdict() for spec in noise]),
                "nvae_num_groups": str(self._facts.config.num_groups),
                "nvae_fixed_batch": str(self._batch or 0),
            },
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

        def sample(programs, *inputs):
            *drawn, temperature = inputs
            images, mean = programs.sample(
                drawn[:groups], temperature, drawn[groups:]
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

        def decode(programs, *latents):
            mean = programs.decode(latents)
            return {"images": to_uint8(mean), "mean": mean}

        return decode, [], specs

    def _encode(self):
        def encode(programs, *inputs):
            *eps, images = inputs
            latents = programs.encode(images, eps)
            return {f"z_{i}": z for i, z in enumerate(latents)}

        return encode, self._eps, [self._images]

    def _reconstruct(self):
        def reconstruct(programs, *inputs):
            *eps, images = inputs
            mean = programs.reconstruct(images, eps)
            return {"reconstructed": to_uint8(mean), "mean": mean}

        return reconstruct, self._eps, [self._images]

    def _score(self):
        def score(programs, *inputs):
            *eps, images = inputs
            return programs.score(images, eps)

        return score, self._eps, [self._images]

    def _from_noise(self):
        groups = self._facts.config.num_groups

        def from_noise(programs, *inputs):
            *eps, temperature = inputs
            mean = programs.mean(eps[:groups], temperature)
            return {"images": to_uint8(mean), "mean": mean}

        temperature = self._spec("temperature", (groups,))
        return from_noise, self._eps, [temperature]

    def _infer(self):
        def infer(programs, *inputs):
            *eps, images = inputs
            noise, mean, scores = programs.infer(images, eps)
            named = {f"noise_{i}": e for i, e in enumerate(noise)}
            return {**named, "mean": mean, **scores}

        return infer, self._eps, [self._images]


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
