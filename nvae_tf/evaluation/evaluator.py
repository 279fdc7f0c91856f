"""Numbers of a model on held-out images."""

import functools
import typing
from collections.abc import Iterable

import tensorflow as tf

from nvae_tf.evaluation.importance import Estimate, ImportanceEstimator, Terms
from nvae_tf.model import losses
from nvae_tf.model.inputs import images_and_labels
from nvae_tf.model.nvae import NVAE

__all__ = ["ACTIVE_NATS", "Evaluation", "Evaluator"]

ACTIVE_NATS = 0.1


class Evaluation(typing.NamedTuple):
    """Means over the images; nats unless said otherwise.

    Attributes:
      num_images: how many there were.
      num_importance_samples: K.
      nelbo: negative evidence lower bound (the mean over the K passes).
      nll: importance-weighted estimate of `-log p(x)`.
      bits_per_dim: of `nelbo`, over the unpadded image.
      nll_bits_per_dim: of `nll`.
      reconstruction_nll: first term of `nelbo`.
      kl: second term.
      kl_per_group: `[L]`, top-down.
      active_latents: `[L]`, channels whose KL exceeds 0.1 nats.
      kl_per_scale: `[S]`, coarsest first.
      nelbo_standard_error: of `nelbo`, over the images; NaN for one image.
      nll_standard_error: of `nll`, likewise.
    """

    num_images: int
    num_importance_samples: int
    nelbo: float
    nll: float
    bits_per_dim: float
    nll_bits_per_dim: float
    reconstruction_nll: float
    kl: float
    kl_per_group: list[float]
    active_latents: list[int]
    kl_per_scale: list[float]
    nelbo_standard_error: float
    nll_standard_error: float


class Evaluator:
    """Evaluates a model; its graph is built once.

    Args:
      model: to evaluate.
      strategy: whose replicas share every batch; by default the one in whose
        scope this is called.
      precision: to compute in, see `NVAE.computing_in`, whatever the model
        trains in: rounding to half precision would be part of the result.
    """

    def __init__(
        self,
        model: NVAE,
        strategy: tf.distribute.Strategy | None = None,
        *,
        precision: str = "float32",
    ):
        self.model = model
        self._precision = precision
        self._sizes = [
            shape.height * shape.width * shape.channels
            for shape in model.config.latent_shapes
        ]
        self._estimator = ImportanceEstimator(
            self._terms, sum(self._sizes), strategy
        )

    def __call__(
        self,
        batches: Iterable,
        num_importance_samples: int = 1,
        seed: int = 0,
        **options,
    ) -> Evaluation | None:
        """Streams over the images.

        Args:
          batches: of `(images, weights)` or `(images, weights, labels)`, see
            `nvae_tf.datasets.pipeline`.
          num_importance_samples: K passes per batch.
          seed: of the noise.
          **options: `should_stop`, `draws_per_pass`, `progress`, `on_pass`
            and `on_images` of `ImportanceEstimator`.

        Returns:
          The means over all images of weight 1; None if given up.

        Raises:
          DataError: if no image has weight 1.
        """
        # Around the whole: replicas are traced in threads of their own.
        with self.model.computing_in(self._precision):
            estimate = self._estimator(
                map(_paired, batches), num_importance_samples, seed, **options
            )
        if estimate is None:
            return None
        return self._evaluation(estimate, num_importance_samples)

    def _terms(self, x, eps) -> Terms:
        x, labels = images_and_labels(x)
        config = self.model.config
        noise = [
            tf.reshape(part, [-1, *shape])
            for part, shape in zip(
                tf.split(eps, self._sizes, axis=1),
                config.latent_shapes,
                strict=True,
            )
        ]
        out = self.model(x, eps=noise, labels=labels)
        nll = losses.reconstruction_nll(self.model.likelihood(out.logits), x)
        return Terms(nll, out.log_p, out.log_q, out.kl_per_channel)

    def _evaluation(self, estimate: Estimate, k: int) -> Evaluation:
        config = self.model.config
        per_group = estimate.kl.sum(axis=1).tolist()
        groups = iter(per_group)
        bits = functools.partial(losses.bits_per_dim, config=config)
        return Evaluation(
            num_images=estimate.num_images,
            num_importance_samples=k,
            nelbo=estimate.nelbo,
            nll=estimate.nll,
            bits_per_dim=bits(estimate.nelbo),
            nll_bits_per_dim=bits(estimate.nll),
            reconstruction_nll=estimate.reconstruction_nll,
            kl=sum(per_group),
            kl_per_group=per_group,
            active_latents=(estimate.kl > ACTIVE_NATS).sum(axis=1).tolist(),
            kl_per_scale=[
                sum(next(groups) for _ in range(count))
                for count in config.groups_top_down
            ],
            nelbo_standard_error=estimate.nelbo_standard_error,
            nll_standard_error=estimate.nll_standard_error,
        )


def _paired(batch):
    """A batch as `ImportanceEstimator` takes it."""
    images, weights, *labels = batch
    if labels and labels[0] is not None:
        return (images, labels[0]), weights
    return images, weights
