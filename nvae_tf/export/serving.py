"""The signatures of an exported SavedModel.

Every input and output has the batch as its first axis, as TF Serving's
batching needs it, and a row's result depends on that row's inputs alone.  So a
`temperature` of one axis, `[B]`, is one per image here, and one per group takes
`[B, L]`; in Python, one axis means groups (`nvae_tf.sampling.temperatures`).
"""

import math
from collections.abc import Mapping

import tensorflow as tf

from nvae_tf.export.folding import fold_batch_norm, is_neutral
from nvae_tf.export.programs import Programs, to_uint8, unrolled
from nvae_tf.export.source import Source
from nvae_tf.model import noise

__all__ = ["ServedModel"]

# Of weights that are constants, a session keeps a copy per signature in use,
# but saves the time of reading them: 15 % of a single image of a small model.
# Larger ones are variables, which all signatures share; the paper's CIFAR-10
# model then takes 1.8 instead of 12 GB, and loads in a fifth of the time.
MAX_CONSTANT_BYTES = 2**24

_PNG_CHANNELS = (1, 3, 4)


class ServedModel:
    """A model as served.

    Args:
      source: the model and its parameters.
      max_constant_bytes: weights up to this size become constants of the
        graphs, larger ones variables.

    Attributes:
      programs: what the signatures compute.
      draws: likewise for draws from the prior, whose normalisation may be
        another.
      signatures: name -> concrete function.
      module: holds the weights that are variables.
    """

    def __init__(
        self, source: Source, max_constant_bytes: int = MAX_CONSTANT_BYTES
    ):
        folded = fold_batch_norm(source.model, source.params)
        size = sum(x.nbytes for x in tf.nest.flatten(folded))
        self.module = tf.Module()
        self.module.weights = []
        self._keep = (
            tf.constant if size <= max_constant_bytes else self._variable
        )
        model = unrolled(source.model)
        self.draws = self.programs = Programs(model, self._tensors(folded))
        if source.draw_params is not source.params:
            folded = fold_batch_norm(source.model, source.draw_params)
            del folded["encoder"]
            self.draws = Programs(model, self._tensors(folded))
        self.signatures = {
            name: tf.function(
                _guarded(function, specs), autograph=False
            ).get_concrete_function(*specs)
            for name, (function, specs) in self._definitions().items()
        }
        self.signatures["serving_default"] = self.signatures["sample"]

    def save(self, path: str) -> None:
        """Writes a SavedModel."""
        tf.saved_model.save(self.module, path, self.signatures)

    def _tensors(self, folded: Mapping) -> dict:
        """Constants or variables in place of arrays."""
        tensors = {}
        for name, value in folded.items():
            if isinstance(value, Mapping):
                tensors[name] = self._tensors(value)
            elif is_neutral(name, value):
                tensors[name] = value
            else:
                tensors[name] = self._keep(value)
        return tensors

    def _variable(self, value) -> tf.Variable:
        variable = tf.Variable(value, trainable=False)
        self.module.weights.append(variable)
        return variable

    def _definitions(self) -> dict:
        """Name -> (function, input specifications)."""
        p = self.programs
        seed = _spec("seed", (), tf.int64)
        # [B] or [B, L].
        temperature = tf.TensorSpec(None, tf.float32, "temperature")
        images = _spec("images", p.image_shape, tf.uint8)
        eps, z = (
            [
                _spec(f"{name}_{i}", shape)
                for i, shape in enumerate(p.latent_shapes)
            ]
            for name in ("eps", "z")
        )
        definitions = {
            "sample": (self._sample, [seed, temperature]),
            "sample_float": (self._sample_float, [seed, temperature]),
            "decode": (self._decode, z),
            "decode_noise": (self._decode_noise, [*eps, temperature]),
            "encode": (self._encode, [images]),
            "reconstruct": (self._reconstruct, [images, seed]),
            "score": (self._score, [images, seed]),
            "interpolate": (
                self._interpolate,
                [
                    _spec("seed_a", (), tf.int64),
                    _spec("seed_b", (), tf.int64),
                    _spec("t", ()),
                    temperature,
                ],
            ),
        }
        if p.image_shape[-1] in _PNG_CHANNELS:
            png = _spec("png_bytes", (), tf.string)
            definitions["sample_png"] = self._sample_png, [seed, temperature]
            definitions["encode_png"] = self._encode_png, [png]
        return definitions

    def _eps(self, seed):
        return noise.normal_rows(seed, self.programs.latent_shapes)

    def _draw(self, seed, temperature):
        """`(images, mean)`, float32."""
        p = self.draws
        pixel_noise = []
        for spec in p.pixel_noise:
            rows = (
                noise.uniform_rows
                if spec.kind == "uniform"
                else noise.normal_rows
            )
            pixel_noise += rows(seed, [spec.shape], spec.stream)
        temperature = _per_group(
            temperature, tf.shape(seed)[0], p.config.num_groups
        )
        return p.sample(self._eps(seed), temperature, pixel_noise)

    def _sample(self, seed, temperature):
        return {"images": to_uint8(self._draw(seed, temperature)[0])}

    def _sample_float(self, seed, temperature):
        images, mean = self._draw(seed, temperature)
        return {"images": images, "mean": mean}

    def _sample_png(self, seed, temperature):
        images = to_uint8(self._draw(seed, temperature)[0])
        encode = tf.io.encode_png
        return {
            "png_bytes": tf.map_fn(
                encode, images, fn_output_signature=tf.string
            )
        }

    def _decode(self, *latents):
        return _shown(self.programs.decode(latents))

    def _decode_noise(self, *arguments):
        *eps, temperature = arguments
        temperature = _per_group(
            temperature, tf.shape(eps[0])[0], self.programs.config.num_groups
        )
        return _shown(self.draws.mean(eps, temperature))

    def _encode(self, images):
        """The path without noise, and a draw from the noise of seed 0."""
        count = tf.shape(images)[0]
        sampled = self._eps(tf.zeros([count], tf.int64))
        still = [tf.zeros_like(eps) for eps in sampled]
        outputs = {}
        for name, eps in (("mean", still), ("z", sampled)):
            for i, z in enumerate(self.programs.encode(images, eps)):
                outputs[f"{name}_{i}"] = z
        return outputs

    def _encode_png(self, png_bytes):
        shape = self.programs.image_shape

        def decode(content):
            image = tf.io.decode_image(
                content, channels=shape[-1], expand_animations=False
            )
            height, width = shape[:2]
            check = tf.debugging.assert_equal(
                tf.shape(image)[:2],
                [height, width],
                f"Images must be {height} x {width} pixels.",
            )
            with tf.control_dependencies([check]):
                image = tf.identity(image)
            image.set_shape(shape)
            return image

        images = tf.map_fn(
            decode,
            png_bytes,
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
        )
        return self._encode(images)

    def _reconstruct(self, images, seed):
        return _shown(self.programs.reconstruct(images, self._eps(seed)))

    def _score(self, images, seed):
        return self.programs.score(images, self._eps(seed))

    def _interpolate(self, seed_a, seed_b, t, temperature):
        """Along the great circle through two draws of the noise."""
        angle = 0.5 * math.pi * t[:, None, None, None]
        eps = [
            tf.cos(angle) * a + tf.sin(angle) * b
            for a, b in zip(self._eps(seed_a), self._eps(seed_b), strict=True)
        ]
        temperature = _per_group(
            temperature, tf.shape(seed_a)[0], self.programs.config.num_groups
        )
        return _shown(self.draws.mean(eps, temperature))


def _spec(name, shape, dtype=tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec([None, *shape], dtype, name)


def _guarded(function, specs):
    """Refuses inputs of different lengths, and numbers that are not finite."""
    # The temperature, of unknown rank, has checks of its own.
    known = [i for i, spec in enumerate(specs) if spec.shape.rank]
    numbers = [i for i in known if specs[i].dtype.is_floating]

    def call(*arguments):
        rows = tf.stack([tf.shape(arguments[i])[0] for i in known])
        checks = [
            tf.debugging.Assert(
                tf.reduce_all(tf.equal(rows, rows[0])),
                ["inputs must have the same number of rows, not", rows],
            )
        ]
        if numbers:
            finite = [
                tf.reduce_all(tf.math.is_finite(arguments[i])) for i in numbers
            ]
            names = ", ".join(specs[i].name for i in numbers)
            checks.append(
                tf.debugging.Assert(
                    tf.reduce_all(tf.stack(finite)),
                    [f"{names} must be finite"],
                )
            )
        with tf.control_dependencies(checks):
            return function(*[tf.identity(value) for value in arguments])

    return call


def _shown(mean) -> dict:
    return {"images": to_uint8(mean), "mean": mean}


def _per_group(temperature, count, groups: int):
    """`[B]` or `[B, L]` -> `[B, L]`, refusing anything else."""
    # [B] reads as [B, 1].
    shape = tf.concat([tf.shape(temperature), [1, 1]], axis=0)
    fits = (
        tf.equal(shape[0], count)
        & (tf.equal(shape[1], 1) | tf.equal(shape[1], groups))
        & tf.equal(tf.reduce_prod(shape[2:]), 1)
    )
    checks = [
        tf.debugging.Assert(
            fits,
            [
                f"temperature must have shape [B] or [B, {groups}], not",
                tf.shape(temperature),
            ],
        ),
        tf.debugging.Assert(
            tf.reduce_all(
                tf.math.is_finite(temperature) & (temperature >= 0.0)
            ),
            ["temperature must be finite and not negative, not", temperature],
        ),
    ]
    with tf.control_dependencies(checks):
        temperature = tf.reshape(temperature, [count, -1])
    return tf.broadcast_to(temperature, [count, groups])
