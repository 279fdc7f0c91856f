"""Comparing an export with the live model that it was made from.

The live model answers a fixed set of questions with code of its own, from
`nvae_tf` alone, in float32 and without folding; an export is asked the same.
"""

import functools
import math
from collections.abc import Mapping

import numpy as np

from nvae_tf.core.errors import ExportError
from nvae_tf.distributions.likelihoods import pixel_distribution
from nvae_tf.export.beside.noise_streams import noise_rows
from nvae_tf.export.served import row_status
from nvae_tf.export.source import Source
from nvae_tf.model import losses
from nvae_tf.model.noise import pixel_noise_specs
from nvae_tf.model.nvae import NVAE
from nvae_tf.sampling.classes import in_turn
from nvae_tf.sampling.images import decode_png, encode_png

__all__ = ["Reference", "difference", "tolerances"]

# Largest difference, and the share of a draw's values that may differ by more:
# rounding decides between components of a mixture that tie. Half precision
# rounds to 3 digits, some hundred times in a row; 5e-4 is usual.
_TOLERANCES = {"float32": (1e-4, 1e-3), "float16": (1e-2, 2e-2)}
_DRAWN = ("images", "images_float")


class Reference:
    """The live model's answers.

    Args:
      source: the model and its parameters.
      seeds: integers `[B]`, a row each.
      temperature: of the draws.
    """

    def __init__(self, source: Source, seeds=(0, 1), temperature=0.7):
        # The live model may compute in half precision.
        model = source.model
        if model.compute_dtype != "float32":
            model = NVAE(model.config, seed=None)
        self._model, self._params = model, source.params
        self._draw_params = source.draw_params
        self._config = c = model.config
        self._seeds = np.asarray(seeds, np.int64)
        self._labels = in_turn(c, len(self._seeds))
        self._temperature = np.full(
            [len(self._seeds), c.num_groups], temperature, np.float32
        )

    def ask(self, name: str) -> tuple[dict, dict]:
        """A question and its answer.

        Args:
          name: of a signature or graph.

        Returns:
          `(inputs, outputs)`: arrays by name.  Different formats take and
          return different ones of them.
        """
        inputs, outputs = getattr(self, f"_ask_{name}")()
        if self._labels is not None:
            inputs = {**inputs, "label": self._labels}
        status = np.full(len(self._seeds), row_status.RowStatus.SERVED)
        return inputs, {**outputs, row_status.OUTPUT: np.int32(status)}

    @functools.cached_property
    def _eps(self):
        return self._noise(self._seeds)

    def _noise(self, seeds):
        return [
            noise_rows(seeds, "normal", i, shape)
            for i, shape in enumerate(self._config.latent_shapes)
        ]

    @functools.cached_property
    def _drawn(self):
        """The draws' inputs, float images, mean images and latents."""
        pixel_noise = {
            spec.name: noise_rows(
                self._seeds, spec.kind, spec.stream, spec.shape
            )
            for spec in pixel_noise_specs(self._config)
        }
        out = self._draw(self._eps)
        pixels = self._pixels(out.logits)
        images = mean = np.asarray(pixels.mean())
        match self._config.likelihood:
            case "mixture":
                images = pixels.sample_from_uniforms(*pixel_noise.values())
            case "normal":
                images = pixels.sample_from_noise(*pixel_noise.values())
        inputs = {
            "seed": self._seeds,
            "temperature": self._temperature,
            **_numbered("eps", self._eps),
            **pixel_noise,
        }
        return inputs, np.asarray(images), mean, out.latents.z

    def _draw(self, eps):
        return self._model.decode(
            eps=eps,
            temperature=self._temperature,
            params=self._draw_params,
            with_latents=True,
            labels=self._labels,
        )

    def _pixels(self, logits):
        c = self._config
        size = slice(c.padding, c.padding + c.image_size)
        return pixel_distribution(
            c.likelihood, logits[:, size, size], c.image_channels, c.num_bits
        )

    def _ask_sample(self):
        inputs, images, mean, _ = self._drawn
        return inputs, {
            "images": _levels(images),
            "images_float": images,
            "mean": mean,
        }

    def _ask_sample_float(self):
        inputs, images, mean, _ = self._drawn
        return inputs, {"images": images, "mean": mean}

    def _ask_sample_png(self):
        inputs, images, _, _ = self._drawn
        return inputs, {"png_bytes": _levels(images)}

    def _ask_decode_noise(self):
        inputs, _, mean, _ = self._drawn
        return inputs, _shown(mean)

    def _ask_from_noise(self):
        # `decode_noise` with the statistics of training.
        inputs = self._ask_decode_noise()[0]
        out = self._model.decode(
            eps=self._eps,
            temperature=self._temperature,
            params=self._params,
            labels=self._labels,
        )
        return inputs, _shown(np.asarray(self._pixels(out.logits).mean()))

    def _ask_decode(self):
        latents = self._drawn[3]
        out = self._model.decode(
            latents=latents, params=self._params, labels=self._labels
        )
        mean = np.asarray(self._pixels(out.logits).mean())
        return _numbered("z", latents), _shown(mean)

    def _ask_interpolate(self):
        t = np.linspace(0.2, 1, len(self._seeds), dtype=np.float32)
        angle = 0.5 * math.pi * t[:, None, None, None]
        other = self._seeds + 100
        eps = [
            np.float32(np.cos(angle) * a + np.sin(angle) * b)
            for a, b in zip(self._eps, self._noise(other), strict=True)
        ]
        out = self._draw(eps)
        inputs = {
            "seed_a": self._seeds,
            "seed_b": other,
            "t": t,
            "temperature": self._temperature,
        }
        return inputs, _shown(np.asarray(self._pixels(out.logits).mean()))

    @functools.cached_property
    def _images(self):
        """The draws as pixels, and as the model takes them."""
        c = self._config
        images = _levels(self._drawn[1])
        if c.likelihood == "bernoulli":
            x = np.float32(images >= 128)
        else:
            x = (images >> (8 - c.num_bits)) / np.float32(2**c.num_bits - 1)
        p = c.padding
        return images, np.pad(x, [[0, 0], [p, p], [p, p], [0, 0]])

    def _infer(self, eps):
        return self._model(
            self._images[1],
            eps=eps,
            params=self._params,
            with_latents=True,
            labels=self._labels,
        )

    def _ask_encode(self):
        # SavedModels take no noise here: theirs is that of the seed 0.
        eps = self._noise(np.zeros_like(self._seeds))
        still = [np.zeros_like(e) for e in eps]
        return {"images": self._images[0], **_numbered("eps", eps)}, {
            **_numbered("mean", self._infer(still).latents.z),
            **_numbered("z", self._infer(eps).latents.z),
        }

    def _ask_encode_png(self):
        inputs, outputs = self._ask_encode()
        png = np.array([encode_png(i) for i in inputs["images"]], object)
        return {"png_bytes": png}, outputs

    @functools.cached_property
    def _inferred(self):
        inputs = {
            "images": self._images[0],
            "seed": self._seeds,
            **_numbered("eps", self._eps),
        }
        return inputs, self._infer(self._eps)

    def _ask_infer(self):
        inputs, out = self._inferred
        z = [np.asarray(t) for t in out.latents.z]
        prior = self._model.decode(
            latents=z,
            params=self._params,
            with_latents=True,
            labels=self._labels,
        ).latents
        noise = [
            (t - np.asarray(mean)) / np.asarray(scale)
            for t, mean, scale in zip(z, prior.mean, prior.scale, strict=True)
        ]
        mean = np.asarray(self._pixels(out.logits).mean())
        _, scores = self._ask_score()
        return inputs, {**_numbered("noise", noise), "mean": mean, **scores}

    def _ask_reconstruct(self):
        inputs, out = self._inferred
        mean = np.asarray(self._pixels(out.logits).mean())
        return inputs, {**_shown(mean), "reconstructed": _levels(mean)}

    def _ask_score(self):
        inputs, out = self._inferred
        nelbo = np.asarray(
            losses.reconstruction_nll(
                self._model.likelihood(out.logits), self._images[1]
            )
        ) + np.sum(out.kl_per_group, axis=1)
        return inputs, {
            "nelbo": nelbo,
            "kl_per_group": np.asarray(out.kl_per_group),
            "bits_per_dim": nelbo / (math.log(2) * self._config.num_dimensions),
        }


def tolerances(precision: str) -> tuple[float, float]:
    """The difference and the share of ties to allow; see `difference`.

    Args:
      precision: "float32" or "float16".
    """
    return _TOLERANCES[precision]


def difference(actual: Mapping, expected: Mapping, ties: float) -> float:
    """How far an export's answer is from the live model's.

    Args:
      actual: name -> array.
      expected: name -> array; has all names of `actual`.
      ties: share of the values of a draw that may differ.

    Returns:
      The largest difference of float outputs, over the largest expected
      magnitude of that output (or 1).  Of uint8 outputs, a difference of one
      grey level is rounding.

    Raises:
      ExportError: for an output of another name or shape.
    """
    if not set(actual) <= set(expected):
        raise ExportError(
            f"An export returned {sorted(actual)}, the live model "
            f"{sorted(expected)}."
        )
    worst = 0.0
    for name, value in actual.items():
        given, wanted = np.asarray(value), np.asarray(expected[name])
        if given.dtype == object:
            given = np.stack([decode_png(png) for png in given])
        if wanted.dtype == object:
            wanted = np.stack([decode_png(png) for png in wanted])
        if given.shape != wanted.shape:
            raise ExportError(
                f"An export's {name} has shape {given.shape}, the live "
                f"model's {wanted.shape}."
            )
        error = np.abs(given.astype(np.float64) - wanted)
        if given.dtype == np.uint8:
            error = np.maximum(error - 1, 0) / 255
        if name in _DRAWN:
            error = np.sort(error, axis=None)
            error = error[: error.size - int(ties * error.size)]
        scale = 1.0
        if wanted.dtype != np.uint8:
            scale = max(1.0, np.max(np.abs(wanted), initial=0.0))
        # NaN is the largest of all.
        worst = np.maximum(worst, np.max(error, initial=0.0) / scale)
    return float(worst)


def _numbered(name, tensors) -> dict[str, np.ndarray]:
    return {f"{name}_{i}": np.asarray(t) for i, t in enumerate(tensors)}


def _levels(images) -> np.ndarray:
    return np.rint(np.float32(255) * images).astype(np.uint8)


def _shown(mean) -> dict[str, np.ndarray]:
    return {"images": _levels(mean), "mean": mean}
