"""The signatures of an exported SavedModel.

Every input and output has the batch as its first axis, as TF Serving's
batching needs it, and one shape but for that: only what has the same shape is
merged, and a batch of different ones fails, strangers' requests with it.  So a
`temperature` is `[B, L]`, one per image and latent group.

A row's result depends on that row's inputs alone.  Rows that cannot be served
are told of in the output `status`; see `nvae_tf.export.served.row_status`.
"""

import math
from collections.abc import Mapping

import tensorflow as tf

from nvae_tf.export.folding import fold_batch_norm, is_neutral
from nvae_tf.export.programs import Programs, to_uint8, unrolled
from nvae_tf.export.served import png_rows, row_status
from nvae_tf.export.served.row_status import RowStatus
from nvae_tf.export.source import Source
from nvae_tf.model import noise

__all__ = ["ServedModel"]

# Of weights that are constants, a session keeps a copy per signature in use,
# but saves the time of reading them: 15 % of a single image of a small model.
# Larger ones are variables, which all signatures share; the paper's CIFAR-10
# model then takes 1.8 instead of 12 GB, and loads in a fifth of the time.
MAX_CONSTANT_BYTES = 2**24

# Of what a signature computes, what only tells whether it is finite.
_DRAWN = "drawn"


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
                _by_rows(function, specs, model.config.num_classes),
                autograph=False,
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
        temperature = _spec("temperature", (p.config.num_groups,))
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
        if p.image_shape[-1] in png_rows.CHANNELS:
            png = _spec("png_bytes", (), tf.string)
            definitions["sample_png"] = self._sample_png, [seed, temperature]
            definitions["encode_png"] = self._encode_png, [png]
        if p.config.num_classes:
            label = _spec("label", (), tf.int32)
            definitions = {
                name: (_last_as_label(function), [*specs, label])
                for name, (function, specs) in definitions.items()
            }
        return definitions

    def _eps(self, seed):
        return noise.normal_rows(seed, self.programs.latent_shapes)

    def _draw(self, seed, temperature, label):
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
        return p.sample(self._eps(seed), temperature, pixel_noise, label)

    def _sample(self, seed, temperature, label=None):
        drawn, _ = self._draw(seed, temperature, label)
        return {"images": to_uint8(drawn), _DRAWN: drawn}

    def _sample_float(self, seed, temperature, label=None):
        images, mean = self._draw(seed, temperature, label)
        return {"images": images, "mean": mean}

    def _sample_png(self, seed, temperature, label=None):
        drawn, _ = self._draw(seed, temperature, label)
        png = tf.map_fn(
            tf.io.encode_png, to_uint8(drawn), fn_output_signature=tf.string
        )
        return {"png_bytes": png, _DRAWN: drawn}

    def _decode(self, *latents, label=None):
        return _shown(self.programs.decode(latents, label))

    def _decode_noise(self, *arguments, label=None):
        *eps, temperature = arguments
        return _shown(self.draws.mean(eps, temperature, label))

    def _encode(self, images, label=None):
        """The path without noise, and a draw from the noise of seed 0."""
        count = tf.shape(images)[0]
        sampled = self._eps(tf.zeros([count], tf.int64))
        still = [tf.zeros_like(eps) for eps in sampled]
        outputs = {}
        for name, eps in (("mean", still), ("z", sampled)):
            for i, z in enumerate(self.programs.encode(images, eps, label)):
                outputs[f"{name}_{i}"] = z
        return outputs

    def _encode_png(self, png_bytes, label=None):
        shape = self.programs.image_shape
        images, status = png_rows.decode_rows(png_bytes, shape)
        return {**self._encode(images, label), row_status.OUTPUT: status}

    def _reconstruct(self, images, seed, label=None):
        eps = self._eps(seed)
        return _shown(self.programs.reconstruct(images, eps, label))

    def _score(self, images, seed, label=None):
        return self.programs.score(images, self._eps(seed), label)

    def _interpolate(self, seed_a, seed_b, t, temperature, label=None):
        """Along the great circle through two draws of the noise."""
        angle = 0.5 * math.pi * t[:, None, None, None]
        eps = [
            tf.cos(angle) * a + tf.sin(angle) * b
            for a, b in zip(self._eps(seed_a), self._eps(seed_b), strict=True)
        ]
        return _shown(self.draws.mean(eps, temperature, label))


def _last_as_label(function):
    """A function of the same, the last of it by name."""
    return lambda *arguments: function(*arguments[:-1], label=arguments[-1])


def _spec(name, shape, dtype=tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec([None, *shape], dtype, name)


def _by_rows(function, specs, num_classes):
    """A signature that serves every row by itself.

    Args:
      function: of batches, into tensors by name.
      specs: of what it takes.
      num_classes: of the model.

    Returns:
      Likewise, and the output `status` besides.
    """

    def call(*arguments):
        arguments = [
            # A server feeds whatever was sent.
            tf.ensure_shape(value, spec.shape)
            for value, spec in zip(arguments, specs, strict=True)
        ]
        rows = tf.stack([tf.shape(value)[0] for value in arguments])
        # No stranger's matter: servers merge whole requests.
        check = tf.debugging.Assert(
            tf.reduce_all(tf.equal(rows, rows[0])),
            ["inputs must have the same number of rows, not", rows],
        )
        with tf.control_dependencies([check]):
            status = tf.zeros([rows[0]], tf.int32)
            for i, spec in enumerate(specs):
                if spec.dtype.is_floating:
                    fits, code = _check_numbers(spec.name, arguments[i])
                    status = _first(status, fits, code)
                    arguments[i] = _where(fits, arguments[i])
                elif spec.name == "label":
                    label = arguments[i]
                    fits = (label >= 0) & (label < num_classes)
                    status = _first(status, fits, RowStatus.BAD_LABEL)
                    arguments[i] = _where(fits, label)
        outputs = function(*arguments)
        if row_status.OUTPUT in outputs:
            found = outputs.pop(row_status.OUTPUT)
            status = tf.where(status == RowStatus.SERVED, found, status)
        for value in outputs.values():
            if value.dtype.is_floating:
                finite = _every(tf.math.is_finite(value))
                status = _first(status, finite, RowStatus.OVERFLOW)
        outputs.pop(_DRAWN, None)
        served = status == RowStatus.SERVED
        return {
            **{
                key: _where(served, value, _nothing(value.dtype))
                for key, value in outputs.items()
            },
            row_status.OUTPUT: status,
        }

    return call


def _check_numbers(name, value):
    """Which rows hold what they may, bool `[B]`, and what the others are."""
    finite = _every(tf.math.is_finite(value))
    if name == "temperature":
        return finite & _every(value >= 0.0), RowStatus.BAD_TEMPERATURE
    return finite, RowStatus.NOT_FINITE


def _every(holds):
    """Whether it holds for all of a row: bool `[B, ...]` -> `[B]`."""
    return tf.reduce_all(holds, axis=list(range(1, holds.shape.rank)))


def _first(status, holds, code):
    """Gives rows a code that have none yet."""
    wrong = (status == RowStatus.SERVED) & ~holds
    return tf.where(wrong, int(code), status)


def _where(holds, value, otherwise=0):
    """Rows where it holds, and others of nothing but one value."""
    axes = [-1] + [1] * (value.shape.rank - 1)
    other = tf.constant(otherwise, value.dtype)
    return tf.where(tf.reshape(holds, axes), value, other)


def _nothing(dtype):
    """What is served in place of a row."""
    if dtype == tf.string:
        return ""
    return math.nan if dtype.is_floating else 0


def _shown(mean) -> dict:
    return {"images": to_uint8(mean), "mean": mean}
