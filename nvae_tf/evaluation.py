"""Numbers of a model on held-out images."""

import functools
import typing
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from nvae_tf import losses
from nvae_tf.errors import DataError
from nvae_tf.model import NVAE

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


class Evaluator:
    """Evaluates a model; its graph is built once.

    Args:
      model: to evaluate.
    """

    def __init__(self, model: NVAE):
        self.model = model

    @tf.function(autograph=False)
    def _pass(self, x, weights, numbers):
        """Sums over one batch, and the log importance weights `[B]`.

        The noise is that of the numbers `[3]`: seed, batch and pass.
        """
        fold_in = functools.partial(
            tf.random.experimental.stateless_fold_in, alg="philox"
        )
        seed = fold_in(tf.stack([numbers[0], 0]), numbers[1])
        out = self.model(x, seed=fold_in(seed, numbers[2]))
        nll = losses.reconstruction_nll(self.model.likelihood(out.logits), x)
        log_weight = losses.log_importance_weight(nll, out.log_p, out.log_q)
        sums = (
            tf.reduce_sum(weights * nll),
            tf.einsum("b,bld->ld", weights, out.kl_per_channel),
        )
        return sums, log_weight

    def __call__(
        self,
        batches: Iterable,
        num_importance_samples: int = 1,
        seed: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Evaluation | None:
        """Streams over the images.

        Args:
          batches: of `(images, weights)`, see `nvae_tf.datasets`.
          num_importance_samples: K passes per batch.
          seed: of the noise.
          should_stop: asked now and then whether to give up.

        Returns:
          The means over all images of weight 1; None if given up.

        Raises:
          DataError: if no image has weight 1.
        """
        model, k = self.model, num_importance_samples
        count = nll = weighted = 0.0
        kl = np.zeros(
            (model.config.num_groups, model.config.num_latent_per_group)
        )
        for number, (x, weights) in enumerate(batches):
            log_weights = []
            for sample in range(k):
                if should_stop():
                    return None
                sums, log_weight = self._pass(
                    x, weights, tf.constant([seed, number, sample], tf.int32)
                )
                log_weights.append(log_weight)
                nll += float(sums[0]) / k
                kl += sums[1].numpy().astype(np.float64) / k
            bound = losses.nll_from_weights(tf.stack(log_weights))
            weighted += float(tf.reduce_sum(weights * bound))
            count += float(tf.reduce_sum(weights))
        if not count:
            raise DataError("None of the images to evaluate can be read.")
        kl /= count
        reconstruction, per_group = nll / count, kl.sum(axis=1)
        nelbo = reconstruction + per_group.sum()
        bits = functools.partial(losses.bits_per_dim, config=model.config)
        return Evaluation(
            num_images=round(count),
            num_importance_samples=k,
            nelbo=nelbo,
            nll=weighted / count,
            bits_per_dim=bits(nelbo),
            nll_bits_per_dim=bits(weighted / count),
            reconstruction_nll=reconstruction,
            kl=per_group.sum(),
            kl_per_group=per_group.tolist(),
            active_latents=(kl > ACTIVE_NATS).sum(axis=1).tolist(),
        )
