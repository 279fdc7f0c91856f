"""Latents and bounds of given images, from the posterior.

Latents are also given as *noise*: `eps` with `z = mu_p + sigma_p eps`, group by
group down the prior, whose parameters depend on the groups above.  Noise of
typical images is roughly standard Normal wherever the image lies, which makes
it the space to interpolate and to move in; decoding it gives back the image's
reconstruction.  With flows `z` is their output, which is what the prior and
the decoder know; noise is relative to the prior all the same.
"""

import typing

import numpy as np
import tensorflow as tf

from nvae_tf.model import losses
from nvae_tf.model.noise import normal_rows
from nvae_tf.model.nvae import NVAE
from nvae_tf.sampling.classes import as_tensor

__all__ = ["Code", "Inference"]


class Code(typing.NamedTuple):
    """What the posterior says of a batch of images; float32 tensors.

    Attributes:
      z: L tensors `[B, h, w, d]`, top-down: a draw, or the mean's image under
        the flows.
      mean: the same shapes: of the posterior before the flow, given the groups
        of `z` above.
      sigma: the same shapes, likewise.
      eps: the same shapes: `z` as noise of the prior; None if not asked for.
      logits: `[B, H, W, P]`, of the reconstruction.
      nelbo: `[B]`, nats; of a draw, also where `z` is none; None if not asked
        for.
      kl_per_group: `[B, L]`, nats; likewise.
    """

    z: list
    mean: list
    sigma: list
    eps: list | None
    logits: typing.Any
    nelbo: typing.Any
    kl_per_group: typing.Any


class Inference:
    """Infers latents; its graphs are built once.

    Args:
      model: whose posterior it is.
    """

    def __init__(self, model: NVAE):
        self.model = model

    def __call__(
        self,
        x,
        seeds,
        *,
        draw: bool = True,
        with_noise: bool = True,
        with_bounds: bool = False,
        labels=None,
    ) -> Code:
        """Latents of images.

        Args:
          x: `[B, H, W, C]`, as the model sees images.
          seeds: integers `[B]`, each of its image's noise.
          draw: from the posterior; otherwise its mean is taken in every
            group.
          with_noise: whether to express the latents as noise, which takes a
            pass through the prior.
          with_bounds: whether to give `nelbo` and `kl_per_group`; without
            `draw`, this takes another pass.
          labels: integers `[B]`, the images' classes, where the model has any.

        Returns:
          A `Code`.
        """
        seeds = tf.constant(seeds, tf.int64)
        labels = as_tensor(labels, self.model.config, len(seeds))
        scale = tf.constant(float(draw))
        code = self._infer(x, seeds, scale, with_noise, labels)
        if not with_bounds:
            return code._replace(nelbo=None, kl_per_group=None)
        if not draw:
            nelbo, kl = self._nelbo(x, seeds, labels)
            return code._replace(nelbo=nelbo, kl_per_group=kl)
        return code

    def bounds(self, x, seeds, num_samples: int = 1, labels=None) -> np.ndarray:
        """Bounds on `-log p(x)`, each from K draws of the posterior.

        Args:
          x: `[B, H, W, C]`, as the model sees images.
          seeds: integers `[B]`, each of its image's noise.
          num_samples: K of the importance-weighted bound; 1 gives the NELBO,
            its KL computed in closed form where there are no flows.
          labels: integers `[B]`, the images' classes, where the model has any.

        Returns:
          float32 `[B]`, nats.
        """
        seeds = np.asarray(seeds, np.int64)
        labels = as_tensor(labels, self.model.config, len(seeds))
        if num_samples == 1:
            return self._nelbo(x, tf.constant(seeds), labels)[0].numpy()
        # Far apart, so that two images never share noise.
        weights = [
            self._log_weight(x, tf.constant(seeds + (k << 40)), labels)
            for k in range(num_samples)
        ]
        return losses.nll_from_weights(tf.stack(weights)).numpy()

    @tf.function(autograph=False, reduce_retracing=True)
    def features(self, x):
        """Directions of the encoder's top, for comparing images.

        Args:
          x: `[B, H, W, C]`, as the model sees images.

        Returns:
          float32 `[B, F]` of length 1.
        """
        encoder = self.model.parts["encoder"]
        x = tf.cast(x, self.model.compute_dtype)
        top, _, _ = encoder(x, unroll=self.model.unroll)
        top = tf.reshape(tf.cast(top, tf.float32), [tf.shape(x)[0], -1])
        return tf.math.l2_normalize(top, axis=1)

    @tf.function(autograph=False, reduce_retracing=True)
    def _infer(self, x, seeds, scale, with_noise: bool, labels):
        shapes = self.model.config.latent_shapes
        eps = [scale * e for e in normal_rows(seeds, shapes)]
        out = self.model(
            x, eps=eps, with_densities=False, with_latents=True, labels=labels
        )
        z, mean, sigma = out.latents
        noise = self._as_noise(z, labels) if with_noise else None
        bounds = self._bounds(out, x)
        return Code(z, mean, sigma, noise, out.logits, *bounds)

    def _as_noise(self, z, labels):
        """L latents as noise of the prior, whose groups see those above."""
        prior = self.model.decode(
            latents=z, with_latents=True, labels=labels
        ).latents
        return [
            (t - mean) / sigma
            for t, mean, sigma in zip(z, prior.mean, prior.scale, strict=True)
        ]

    @tf.function(autograph=False, reduce_retracing=True)
    def _nelbo(self, x, seeds, labels):
        eps = normal_rows(seeds, self.model.config.latent_shapes)
        out = self.model(x, eps=eps, with_densities=False, labels=labels)
        return self._bounds(out, x)

    def _bounds(self, out, x):
        """NELBO `[B]` and KL per group `[B, L]`."""
        nll = losses.reconstruction_nll(self.model.likelihood(out.logits), x)
        kl = out.kl_per_group
        return nll + tf.reduce_sum(kl, axis=1), kl

    @tf.function(autograph=False, reduce_retracing=True)
    def _log_weight(self, x, seeds, labels):
        eps = normal_rows(seeds, self.model.config.latent_shapes)
        out = self.model(x, eps=eps, labels=labels)
        nll = losses.reconstruction_nll(self.model.likelihood(out.logits), x)
        return losses.log_importance_weight(nll, out.log_p, out.log_q)
