"""Images out of a model, and what it says of given ones."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nvae_tf.api.companion import (
    companion_of,
    require_one_of,
    require_whole,
)
from nvae_tf.core.errors import UserError
from nvae_tf.datasets import in_memory
from nvae_tf.model import losses
from nvae_tf.model.nvae import NVAE
from nvae_tf.sampling import exploration
from nvae_tf.sampling.classes import as_labels
from nvae_tf.sampling.illustrator import PIXELS

__all__ = [
    "Encoding",
    "Scores",
    "encode",
    "interpolate",
    "reconstruct",
    "sample",
    "score",
]

_LATENTS = ("sample", "mean")


class Encoding(NamedTuple):
    """What the posterior says of N images; float32.

    Attributes:
      latents: L arrays `[N, h, w, d]`, top-down: draws from the posterior, or
        its means.
      mean: the same shapes: of the posterior (before the flows, where there
        are any), given the groups of `latents` above.
      sigma: the same shapes, likewise.
      nelbo: `[N]`, nats: the negative evidence lower bound of a draw.
      kl_per_group: `[N, L]`, nats, top-down; `nelbo` less their sum is the
        reconstruction's share.
      bits_per_dim: `[N]`: `nelbo` in bits per value of the image.
    """

    latents: list[npt.NDArray[np.float32]]
    mean: list[npt.NDArray[np.float32]]
    sigma: list[npt.NDArray[np.float32]]
    nelbo: npt.NDArray[np.float32]
    kl_per_group: npt.NDArray[np.float32]
    bits_per_dim: npt.NDArray[np.float32]


class Scores(NamedTuple):
    """Bounds on -log p(x) of N images; float64 `[N]`.

    Attributes:
      nelbo: nats: the negative evidence lower bound, a mean over the draws.
      nll: nats: the importance-weighted estimate, closer to -log p(x) the more
        draws there are.
      bits_per_dim: `nelbo` in bits per value of the image.
      nll_bits_per_dim: `nll` likewise.
    """

    nelbo: npt.NDArray[np.float64]
    nll: npt.NDArray[np.float64]
    bits_per_dim: npt.NDArray[np.float64]
    nll_bits_per_dim: npt.NDArray[np.float64]


def sample(
    model: NVAE,
    num: int = 16,
    *,
    temperature: npt.ArrayLike = 0.7,
    seed: int = 0,
    pixels: Literal["auto", "mean", "sample"] = "auto",
    truncation: float | None = None,
    labels: npt.ArrayLike | None = None,
    batch_size: int = 64,
) -> npt.NDArray[np.uint8]:
    """Draws images from the prior.

    Examples:
      >>> images = nvae_tf.sample(model, 4, temperature=0.7, seed=5)
      >>> images.shape, images.dtype
      ((4, 28, 28, 1), dtype('uint8'))

      And of a model that was trained with `data.labels`,
      `nvae_tf.sample(model, 4, labels=7)` or `labels=[0, 1, 2, 3]`.

    Args:
      model: to draw from.
      num: how many.
      temperature: multiplies the prior's sigma: a number, `[L]` for one per
        latent group, top-down, `[num, 1]` for one per image, or `[num, L]`.
        The paper shows 0.5 to 0.7 for colour images; 1 is the model itself.
      seed: image i has the seed `seed + i` and depends on nothing else but
        temperature, class and model.
      pixels: "mean" for the mean image of the likelihood, "sample" to draw
        every pixel from it, "auto" for the mean of binary data and a draw of
        any other, as the paper shows them.
      truncation: restricts the noise of the latents to so many standard
        deviations, before the temperature.
      labels: the classes, where the model knows any: an integer from 0 for
        all of the images, or `[num]`; by default all classes in turn.
      batch_size: images at once; decides memory and speed alone.

    Returns:
      uint8 `[num, H, W, C]`.

    Raises:
      UserError: if an argument is out of range, or an image is not finite.
    """
    companion = companion_of(model)
    require_whole("num", num, 1)
    require_whole("seed", seed, 0)
    require_whole("batch_size", batch_size, 1)
    require_one_of("pixels", pixels, PIXELS)
    if truncation is not None and not truncation > 0:
        raise UserError(
            f"truncation is {truncation}; it must be above 0. For mean latents "
            "use temperature=0."
        )
    if labels is not None:
        labels = as_labels(labels, model.config, num, UserError)
    batches = companion.illustrator.draw(
        num,
        temperature,
        seed,
        min(batch_size, num),
        pixels=pixels,
        truncation=truncation,
        labels=labels,
    )
    return np.concatenate([*batches])


def reconstruct(
    model: NVAE,
    images: npt.ArrayLike,
    seed: int = 0,
    *,
    latents: Literal["sample", "mean"] = "sample",
    labels: npt.ArrayLike | None = None,
    batch_size: int = 64,
) -> npt.NDArray[np.uint8]:
    """Encodes images and decodes them again.

    Examples:
      >>> nvae_tf.reconstruct(model, images).shape
      (4, 28, 28, 1)

    Args:
      model: to encode and decode with.
      images: uint8 or floats in [0, 1], `[N, H, W, C]`.
      seed: of binarisation and of the posterior's noise.
      latents: draw them from the posterior, or take its mean.
      labels: the classes, where the model knows any: an integer from 0 for
        all of the images, or `[N]`.
      batch_size: images at once; decides memory and speed alone.

    Returns:
      uint8 `[N, H, W, C]`: mean images of the likelihood.

    Raises:
      UserError: if the images do not fit the model.
    """
    companion = companion_of(model)
    require_one_of("latents", latents, _LATENTS)
    shown = []
    for batch in companion.stream(images, seed, batch_size, labels):
        code = companion.inference(
            batch.images,
            seed + batch.numbers,
            draw=latents == "sample",
            with_noise=False,
            labels=batch.labels,
        )
        shown.append(
            companion.illustrator.from_logits(code.logits)[batch.valid]
        )
    return np.concatenate(shown)


def encode(
    model: NVAE,
    images: npt.ArrayLike,
    seed: int = 0,
    *,
    latents: Literal["sample", "mean"] = "sample",
    labels: npt.ArrayLike | None = None,
    batch_size: int = 64,
) -> Encoding:
    """Latents of images, and what they cost.

    Examples:
      >>> code = nvae_tf.encode(model, images)
      >>> [z.shape for z in code.latents]
      [(4, 8, 8, 2), (4, 16, 16, 2)]
      >>> code.kl_per_group.shape, code.nelbo.shape
      ((4, 2), (4,))

      And back, with the model's own padding:

      >>> logits = model.decode(latents=code.latents).logits
      >>> model.likelihood(logits).mean().shape.as_list()
      [4, 32, 32, 1]

    Args:
      model: whose posterior it is.
      images: uint8 or floats in [0, 1], `[N, H, W, C]`.
      seed: of binarisation and of the posterior's noise.
      latents: draw them from the posterior, or take its mean in every group.
      labels: the classes, where the model knows any: an integer from 0 for
        all of the images, or `[N]`.
      batch_size: images at once; decides memory and speed alone.

    Returns:
      An `Encoding`.

    Raises:
      UserError: if the images do not fit the model.
    """
    companion = companion_of(model)
    require_one_of("latents", latents, _LATENTS)
    parts = []
    for batch in companion.stream(images, seed, batch_size, labels):
        code = companion.inference(
            batch.images,
            seed + batch.numbers,
            draw=latents == "sample",
            with_noise=False,
            with_bounds=True,
            labels=batch.labels,
        )
        groups = [
            [z.numpy()[batch.valid] for z in kind]
            for kind in (code.z, code.mean, code.sigma)
        ]
        bounds = [
            value.numpy()[batch.valid]
            for value in (code.nelbo, code.kl_per_group)
        ]
        parts.append((*groups, *bounds))
    z, mean, sigma, nelbo, kl = zip(*parts, strict=True)
    nelbo = np.concatenate(nelbo)
    return Encoding(
        *[
            [np.concatenate(group) for group in zip(*kind, strict=True)]
            for kind in (z, mean, sigma)
        ],
        nelbo=nelbo,
        kl_per_group=np.concatenate(kl),
        bits_per_dim=np.asarray(
            losses.bits_per_dim(nelbo, model.config), np.float32
        ),
    )


def score(
    model: NVAE,
    images: npt.ArrayLike,
    num_samples: int = 1,
    seed: int = 0,
    *,
    labels: npt.ArrayLike | None = None,
    batch_size: int = 64,
) -> Scores:
    """Bounds on -log p(x) of each image, given its class if there are any.

    Examples:
      >>> scores = nvae_tf.score(model, images, num_samples=5)
      >>> scores.nll.shape, bool((scores.bits_per_dim > 0).all())
      ((4,), True)

    Args:
      model: to score with.
      images: uint8 or floats in [0, 1], `[N, H, W, C]`.
      num_samples: K, draws per image; the paper reports K = 1000.
      seed: of binarisation and noise.
      labels: the classes, where the model knows any: an integer from 0 for
        all of the images, or `[N]`.
      batch_size: images at once; decides memory and speed alone.

    Returns:
      `Scores`; their means are what `nvae eval likelihood` gives for these
      images, K and seed.

    Raises:
      UserError: if the images do not fit the model.
    """
    companion = companion_of(model)
    require_whole("num_samples", num_samples, 1)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    batches = (
        (batch.images, batch.valid.astype(np.float32), batch.labels)
        for batch in companion.stream(images, seed, batch_size, labels)
    )
    companion.evaluator(
        batches,
        num_samples,
        seed,
        on_images=lambda nelbo, nll: found.append((nelbo, nll)),
    )
    nelbo, nll = (np.concatenate(part) for part in zip(*found, strict=True))
    bits = functools.partial(losses.bits_per_dim, config=model.config)
    return Scores(nelbo, nll, bits(nelbo), bits(nll))


def interpolate(
    model: NVAE,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    steps: int = 9,
    *,
    path: Literal["spherical", "linear"] = "spherical",
    seed: int = 0,
    labels: npt.ArrayLike | None = None,
    batch_size: int = 64,
) -> npt.NDArray[np.uint8]:
    """Images on the way from one to another.

    The way goes through noise space, group by group: it begins and ends at the
    images' reconstructions, and every image on it is one that the prior could
    have drawn.

    Examples:
      >>> nvae_tf.interpolate(model, images[0], images[1], steps=5).shape
      (5, 28, 28, 1)

    Args:
      model: to encode and decode with.
      a: where to begin: uint8 or floats in [0, 1], `[H, W, C]`.
      b: where to end.
      steps: images on the way, both ends counted.
      path: turn the noise along great circles, or go straight.
      seed: of binarisation.
      labels: the classes of both ends, where the model knows any: an integer
        from 0, or two; images on the way have that of the nearer end.
      batch_size: images at once; decides memory and speed alone.

    Returns:
      uint8 `[steps, H, W, C]`: mean images of the likelihood.

    Raises:
      UserError: if the images do not fit the model.
    """
    companion = companion_of(model)
    require_whole("steps", steps, 2)
    require_whole("batch_size", batch_size, 1)
    require_one_of("path", path, exploration.PATHS)
    ends = [in_memory.source_of([image], model.config) for image in (a, b)]
    both = np.concatenate([end.images for end in ends])
    (batch,) = companion.stream(both, seed, max(batch_size, 2), labels)
    code = companion.inference(
        batch.images, batch.numbers, draw=False, labels=batch.labels
    )
    way = exploration.interpolated([e.numpy() for e in code.eps], steps, path)
    return exploration.images_of(
        companion.illustrator,
        way,
        min(batch_size, steps),
        labels=exploration.labels_between(batch.labels, steps),
    )
