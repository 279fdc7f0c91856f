"""Changes to a model's training that were tried, and are not in the package.

Each is a context: a run that is made and trained within it has the change.
What they do is measured by `benchmarks.ablations`; one that helped by more than
seeds differ would move to the package, behind a key of its configuration.
"""

import contextlib
import math
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf
import tensorflow_probability as tfp

from nvae_tf.distributions import residual_normal
from nvae_tf.training.objective import Objective

__all__ = [
    "consistent_posteriors",
    "free_bits",
    "shifted_images",
    "sigma_by_softplus",
]

tfd = tfp.distributions

_LOG_TWO = math.log(2.0)


@contextlib.contextmanager
def sigma_by_softplus() -> Iterator[None]:
    """`sigma = softplus(t log 2) / log 2`, not `exp(t)`; 1 at 0 as well.

    Efficient-VDVAE (Hazami et al. 2022, arXiv 2203.13751, section 4): linear
    for large t, so that gradients stay small there.
    """

    def grown(t):
        return tf.math.softplus(_LOG_TWO * t) / _LOG_TWO

    with mock.patch.object(residual_normal, "tf", _Instead(tf, exp=grown)):
        yield


@contextlib.contextmanager
def free_bits(nats: float) -> Iterator[None]:
    """No pressure on a latent channel's KL below so many nats.

    Kingma et al. 2016, arXiv 1606.04934, appendix C.8, equation 15: the
    subsets of the latents are the channels, and the mean is that of the batch.
    """
    plain = Objective.nelbo

    def nelbo(self, x, output, coefficients, kl_sizes=None):
        nll, kl, gamma = plain(self, x, output, coefficients, kl_sizes)
        sizes = tf.reduce_mean(output.kl_per_channel, axis=0)
        missing = tf.reduce_sum(tf.nn.relu(nats - sizes), axis=1)
        weights = coefficients.beta * gamma
        return nll, kl + tf.tensordot(weights, missing, 1), gamma

    with mock.patch.object(Objective, "nelbo", nelbo):
        yield


@contextlib.contextmanager
def shifted_images(pixels: int) -> Iterator[None]:
    """Trains on images that are moved by up to so many pixels each way."""
    plain = Objective.gradients

    def gradients(self, x, *args, seed=None, **kwargs):
        moved = _shifted(x, self.model.config.padding, pixels, seed + 7)
        return plain(self, moved, *args, seed=seed, **kwargs)

    with mock.patch.object(Objective, "gradients", gradients):
        yield


@contextlib.contextmanager
def consistent_posteriors(pixels: int, weight: float) -> Iterator[None]:
    """Images beside their shifted selves, whose posteriors are to agree.

    CR-NVAE (Sinha & Dieng 2021, arXiv 2105.14859, equation 5): the bound of
    both, and the KL of a shifted image's posteriors from the image's, all
    groups summed.  Each is given what was drawn above of its own image, and is
    taken before its flow.

    Args:
      pixels: see `shifted_images`.
      weight: of the KL beside the mean bound of both.
    """
    plain_gradients, plain_nelbo = Objective.gradients, Objective.nelbo

    def gradients(self, x, *args, seed=None, **kwargs):
        moved = _shifted(x, self.model.config.padding, pixels, seed + 7)
        both = tf.concat([x, moved], axis=0)
        return plain_gradients(self, both, *args, seed=seed, **kwargs)

    def forward(self, x, seed, eps, params):
        return self.model(
            x,
            eps=eps,
            seed=seed,
            training=True,
            params=params,
            with_densities=False,
            with_latents=True,
        )

    def nelbo(self, x, output, *args, **kwargs):
        nll, kl, gamma = plain_nelbo(self, x, output, *args, **kwargs)
        apart = sum(
            _divergence_of_halves(mean, scale)
            for mean, scale in zip(
                output.latents.mean, output.latents.scale, strict=True
            )
        )
        return nll, kl + weight * tf.tile(apart, [2]), gamma

    with (
        mock.patch.object(Objective, "gradients", gradients),
        mock.patch.object(Objective, "_forward", forward),
        mock.patch.object(Objective, "nelbo", nelbo),
    ):
        yield


def _divergence_of_halves(mean, scale):
    """KL of the second half of a batch of Normals from the first, `[B / 2]`."""
    of_images, of_moved = (
        tfd.Normal(*pair)
        for pair in zip(tf.split(mean, 2), tf.split(scale, 2), strict=True)
    )
    divergence = tfd.kl_divergence(of_moved, of_images)
    return tf.reduce_sum(divergence, axis=range(1, len(mean.shape)))


def _shifted(x, padding: int, pixels: int, seed):
    """Every image of x `[B, H, W, C]` by an offset of its own, zeros behind."""
    inside = slice(padding, x.shape[1] - padding)
    x = x[:, inside, inside]
    count, (height, width) = tf.shape(x)[0], x.shape[1:3]
    offsets = tf.random.stateless_uniform(
        [count, 2, 1], seed, 0, 2 * pixels + 1, tf.int32, alg="philox"
    )
    pad = [pixels, pixels]
    padded = tf.pad(x, [[0, 0], pad, pad, [0, 0]])
    rows = tf.range(height)[None] + offsets[:, 0]
    columns = tf.range(width)[None] + offsets[:, 1]
    moved = tf.gather(padded, rows, axis=1, batch_dims=1)
    moved = tf.gather(moved, columns, axis=2, batch_dims=1)
    around = [padding, padding]
    return tf.pad(moved, [[0, 0], around, around, [0, 0]])


class _Instead:
    """A module, some functions of whose `math` are others."""

    def __init__(self, module, **functions):
        self._module = module
        self._functions = functions

    def __getattr__(self, name):
        if name == "math":
            return _Instead(self._module.math, **self._functions)
        if name in self._functions:
            return self._functions[name]
        return getattr(self._module, name)
