"""Pictures of a model: draws from the prior and reconstructions."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import UserError
from nvae_tf.distributions.likelihoods import pixel_distribution
from nvae_tf.model.noise import (
    NoiseSpec,
    normal_rows,
    pixel_noise,
    pixel_noise_specs,
    truncated,
)
from nvae_tf.model.nvae import NVAE
from nvae_tf.sampling.classes import as_labels, as_tensor, in_turn, take_labels
from nvae_tf.sampling.images import grid, to_uint8
from nvae_tf.sampling.temperatures import as_rows, take_rows

__all__ = ["PIXELS", "Illustrator", "choose_pixels", "require_finite"]

PIXELS = ("auto", "mean", "sample")


def choose_pixels(likelihood: str, pixels: str = "auto") -> str:
    """Whether a draw from the prior shows the likelihood's mean or a draw.

    Args:
      likelihood: of the model.
      pixels: "mean", "sample", or "auto": the mean of binary data, a draw of
        any other, as the paper shows them and as exports draw.

    Returns:
      "mean" or "sample".

    Raises:
      ValueError: for another value.
    """
    if pixels not in PIXELS:
        raise ValueError(f"pixels must be one of {PIXELS}, not {pixels!r}.")
    if pixels == "auto":
        return "mean" if likelihood == "bernoulli" else "sample"
    return pixels


class Illustrator:
    """Draws the pictures of a model; its graphs are built once.

    The noise of an image follows from a seed of its own as that of exports
    does (`nvae_tf.model.noise`), so an image depends on neither the batch
    around it nor the program that draws it.

    Args:
      model: to draw from.
    """

    def __init__(self, model: NVAE):
        self.model = model
        self._pixel_specs = _pixel_specs(model.config)

    def draw(
        self,
        num: int,
        temperature,
        seed: int = 0,
        batch_size: int = 64,
        *,
        pixels: str = "auto",
        truncation: float | None = None,
        fix_groups: int = 0,
        labels=None,
    ) -> Iterator[np.ndarray]:
        """Images of draws from the prior.

        Args:
          num: how many.
          temperature: a number, `[L]` for one per group, `[num, L]`, or
            `[num, 1]` for one per image.
          seed: image i has the seed `seed + i`.
          batch_size: images at once.
          pixels: see `draw_seeds`.
          truncation: likewise.
          fix_groups: so many upper groups have the noise of the first image
            in all of them.
          labels: an integer or `[num]`; by default all classes of the model
            in turn, where it has any.

        Yields:
          Batches `[B, H, W, C]` uint8, without padding, `num` images in all.

        Raises:
          UserError: if an image is not finite.
        """
        temperature = self._as_rows(temperature, num)
        config = self.model.config
        if labels is None:
            labels = in_turn(config, num)
        labels = as_labels(labels, config, num)
        for start in range(0, num, batch_size):
            # Always a whole batch: one graph serves the last one too.
            rows = start + np.arange(batch_size)
            seeds = seed + rows
            rows = np.minimum(rows, num - 1)
            images = self.draw_seeds(
                seeds,
                take_rows(temperature, rows),
                pixels=pixels,
                truncation=truncation,
                fix_groups=fix_groups,
                top_seeds=np.full_like(seeds, seed),
                labels=take_labels(labels, rows),
            )
            yield images[: num - start]

    def draw_seeds(
        self,
        seeds,
        temperature,
        *,
        pixels: str = "auto",
        truncation: float | None = None,
        fix_groups: int = 0,
        top_seeds=None,
        labels=None,
    ) -> np.ndarray:
        """Images of given seeds, in one batch.

        Args:
          seeds: integers `[B]`.
          temperature: a number, `[L]` for one per group, `[B, L]`, or
            `[B, 1]` for one per image.
          pixels: "mean" for the likelihood's mean image, "sample" for a draw
            from it, at the model's levels; "auto": see `choose_pixels`.
          truncation: restricts the noise of the latents to this many standard
            deviations, see `noise.truncated`; None for all of it.
          fix_groups: so many upper groups take their noise from `top_seeds`.
          top_seeds: integers `[B]`, needed with `fix_groups`.
          labels: an integer or `[B]`, where the model has classes.

        Returns:
          uint8 `[B, H, W, C]`, without padding.

        Raises:
          UserError: if an image is not finite.
        """
        seeds = tf.constant(seeds, tf.int64)
        eps = self._noise(seeds)
        if fix_groups:
            top = self._noise(tf.constant(top_seeds, tf.int64))
            eps = [*top[:fix_groups], *eps[fix_groups:]]
        if truncation is not None:
            eps = [truncated(e, truncation) for e in eps]
        return self.from_noise(
            eps, temperature, seeds, pixels=pixels, labels=labels
        )

    def noise(self, seeds) -> list[np.ndarray]:
        """Noise of the latents for seeds `[B]`: L arrays `[B, h, w, d]`."""
        seeds = tf.constant(seeds, tf.int64)
        return [e.numpy() for e in self._noise(seeds)]

    def from_noise(
        self,
        eps: Sequence,
        temperature=1.0,
        seeds=None,
        *,
        pixels="mean",
        labels=None,
    ) -> np.ndarray:
        """Images of given noise, their mean unless told otherwise.

        Args:
          eps: L tensors `[B, h, w, d]`, top-down.
          temperature: see `draw_seeds`.
          seeds: integers `[B]`, of the pixels' noise where they are drawn.
          pixels: see `draw_seeds`.
          labels: likewise.

        Returns:
          uint8 `[B, H, W, C]`, without padding.

        Raises:
          UserError: if an image is not finite, or a label is no class.
        """
        rows = self._as_rows(temperature, len(eps[0]))
        labels = as_tensor(labels, self.model.config, len(eps[0]))
        eps = [tf.convert_to_tensor(e, tf.float32) for e in eps]
        logits = self._decode(eps, tf.constant(rows), labels)
        return self.from_logits(logits, seeds, pixels=pixels)

    def from_latents(self, z: Sequence, labels=None) -> np.ndarray:
        """Mean images of L latents `[B, h, w, d]`; uint8 `[B, H, W, C]`."""
        labels = as_tensor(labels, self.model.config, len(z[0]))
        z = [tf.convert_to_tensor(t, tf.float32) for t in z]
        return self.from_logits(self._decode_latents(z, labels))

    def from_logits(self, logits, seeds=None, *, pixels="mean") -> np.ndarray:
        """Images of the likelihood's parameters.

        Args:
          logits: `[B, H, W, P]`, with padding.
          seeds: integers `[B]`, where pixels are drawn.
          pixels: see `draw_seeds`.

        Returns:
          uint8 `[B, H, W, C]`, without padding.

        Raises:
          UserError: if an image is not finite.
        """
        if choose_pixels(self.model.config.likelihood, pixels) == "mean":
            images = self._mean(logits)
        else:
            images = self._sample(logits, tf.constant(seeds, tf.int64))
        return to_uint8(require_finite(images, "drawn images"))

    def sample_grid(
        self, num: int, temperature, seed: int = 0, columns: int = 0
    ) -> np.ndarray:
        """One picture of `num` draws, `[H', W', C]` uint8."""
        images = np.concatenate([*self.draw(num, temperature, seed)])
        return grid(images, columns, gap=2)

    def reconstruct(self, x, seed: int = 0, labels=None) -> np.ndarray:
        """Pairs of an image and its reconstruction.

        Args:
          x: `[B, H, W, C]`, as the model sees images.
          seed: of the posterior's noise: that of row i is `seed + i`.
          labels: integers `[B]`, the images' classes, where the model has any.

        Returns:
          uint8 `[B, 2, H, W, C]`, without padding.
        """
        labels = as_tensor(labels, self.model.config, len(x))
        seeds = tf.range(tf.shape(x)[0]) + seed
        images = self._reconstruct(x, tf.cast(seeds, tf.int64), labels)
        return to_uint8(tf.stack([self.crop(x), images], axis=1))

    def crop(self, images):
        """`[B, H, W, ...]` without the model's padding."""
        p = self.model.config.padding
        return images[:, p:-p, p:-p] if p else images

    def to_model(self, images: np.ndarray) -> np.ndarray:
        """Images of this class as the model sees them.

        Args:
          images: uint8 `[B, H, W, C]`, without padding.

        Returns:
          float32 `[B, Hp, Wp, C]` in [0, 1], at the model's levels; padded.
        """
        c = self.model.config
        top = 2**c.num_bits - 1
        values = np.rint(images.astype(np.float32) / 255.0 * top) / top
        sides = [c.padding, c.padding]
        padding = [[0, 0], sides, sides, [0, 0]]
        return np.pad(values.astype(np.float32), padding)

    @staticmethod
    def grid_of_pairs(pairs: np.ndarray, per_row: int = 4) -> np.ndarray:
        """Pairs `[N, 2, H, W, C]` side by side, `[H', W', C]` uint8."""
        return grid(pairs.reshape(-1, *pairs.shape[2:]), 2 * per_row, gap=2)

    def _as_rows(self, temperature, count: int) -> np.ndarray:
        return as_rows(temperature, self.model.config.num_groups, count)

    @tf.function(autograph=False, reduce_retracing=True)
    def _noise(self, seeds):
        return normal_rows(seeds, self.model.config.latent_shapes)

    @tf.function(autograph=False, reduce_retracing=True)
    def _decode(self, eps, temperature, labels):
        return self.model.decode(
            eps=eps, temperature=temperature, labels=labels
        ).logits

    @tf.function(autograph=False, reduce_retracing=True)
    def _decode_latents(self, z, labels):
        return self.model.decode(latents=z, labels=labels).logits

    @tf.function(autograph=False, reduce_retracing=True)
    def _reconstruct(self, x, seeds, labels):
        eps = normal_rows(seeds, self.model.config.latent_shapes)
        out = self.model(x, eps=eps, with_densities=False, labels=labels)
        return self._likelihood(out.logits).mean()

    @tf.function(autograph=False, reduce_retracing=True)
    def _mean(self, logits):
        return self._likelihood(logits).mean()

    @tf.function(autograph=False, reduce_retracing=True)
    def _sample(self, logits, seeds):
        likelihood = self._likelihood(logits)
        drawn = pixel_noise(seeds, self._pixel_specs)
        match self.model.config.likelihood:
            case "bernoulli":
                (uniform,) = drawn
                return tf.cast(uniform < likelihood.mean(), tf.float32)
            case "mixture":
                images = likelihood.sample_from_uniforms(*drawn)
            case _:
                images = likelihood.sample_from_noise(*drawn)
        # Draws are continuous; the data is not.
        top = 2.0**self.model.config.num_bits - 1.0
        return tf.round(images * top) / top

    def _likelihood(self, logits):
        """The distribution over images without padding."""
        c = self.model.config
        return pixel_distribution(
            c.likelihood, self.crop(logits), c.image_channels, c.num_bits
        )


def require_finite(images, what: str):
    """Gives back floating images that are numbers.

    Args:
      images: of any shape.
      what: they are, for the message.

    Raises:
      UserError: if one is not finite.
    """
    if not np.all(np.isfinite(images)):
        raise UserError(
            f"The {what} are not finite: training diverged, or the "
            "normalisation statistics do not bear this temperature. Use an "
            "earlier checkpoint or another --temperature."
        )
    return images


def _pixel_specs(config) -> list[NoiseSpec]:
    """As exports have it; they draw no pixels of the Bernoulli."""
    specs = pixel_noise_specs(config)
    if config.likelihood == "bernoulli":
        size, channels = config.image_size, config.image_channels
        shape = (size, size, channels)
        specs = [NoiseSpec("u_value", "uniform", shape, config.num_groups)]
    return specs
