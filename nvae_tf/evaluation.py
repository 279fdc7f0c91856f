"""Numbers and pictures of a model on held-out images."""

import functools
import typing
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from nvae_tf import losses
from nvae_tf.errors import DataError, UserError
from nvae_tf.images import grid, to_uint8
from nvae_tf.model import NVAE

__all__ = ["ACTIVE_NATS", "Evaluation", "Evaluator", "Illustrator"]

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


class Illustrator:
    """Draws the pictures of a model; its graphs are built once.

    Args:
      model: to draw from.
    """

    def __init__(self, model: NVAE):
        self.model = model

    @tf.function(autograph=False)
    def _decode(self, seed, temperature, batch_size: int):
        logits = self.model.decode(
            seed=seed, temperature=temperature, batch_size=batch_size
        ).logits
        return self._mean(logits)

    @tf.function(autograph=False)
    def _reconstruct(self, x, seed):
        return self._mean(self.model(x, seed=seed, with_densities=False).logits)

    def _mean(self, logits):
        return self._crop(self.model.likelihood(logits).mean())

    def _crop(self, images):
        p = self.model.config.padding
        return images[:, p:-p, p:-p] if p else images

    def draw(
        self, num: int, temperature, seed: int = 0, batch_size: int = 64
    ) -> Iterator[np.ndarray]:
        """Mean images of draws from the prior.

        Args:
          num: how many.
          temperature: see `NVAE.decode`.
          seed: image i depends on it, on i and on the batch size alone.
          batch_size: images at once.

        Yields:
          Batches `[B, H, W, C]` uint8, without padding, `num` images in all.
        """
        temperature = tf.constant(temperature, tf.float32)
        for start in range(0, num, batch_size):
            images = self._decode(
                tf.constant([seed, start], tf.int32),
                temperature,
                batch_size,
            )
            if not np.all(np.isfinite(images)):
                raise UserError(
                    "The drawn images are not finite: training diverged, or "
                    "the normalisation statistics do not bear this "
                    "temperature. Use an earlier checkpoint or another "
                    "--temperature."
                )
            yield to_uint8(images[: num - start])

    def sample_grid(
        self, num: int, temperature, seed: int = 0, columns: int = 0
    ) -> np.ndarray:
        """One picture of `num` draws, `[H', W', C]` uint8."""
        images = np.concatenate([*self.draw(num, temperature, seed)])
        return grid(images, columns, gap=2)

    def reconstruct(self, x, seed: int = 0) -> np.ndarray:
        """Pairs of an image and its reconstruction.

        Args:
          x: `[B, H, W, C]`, as the model sees images.
          seed: of the posterior's noise.

        Returns:
          uint8 `[B, 2, H, W, C]`, without padding.
        """
        images = self._reconstruct(x, tf.constant([seed, 0], tf.int32))
        return to_uint8(tf.stack([self._crop(x), images], axis=1))

    @staticmethod
    def grid_of_pairs(pairs: np.ndarray, per_row: int = 4) -> np.ndarray:
        """Pairs `[N, 2, H, W, C]` side by side, `[H', W', C]` uint8."""
        return grid(pairs.reshape(-1, *pairs.shape[2:]), 2 * per_row, gap=2)
