"""Pictures of a model: draws from the prior and reconstructions."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from nvae_tf.errors import UserError
from nvae_tf.images import grid, to_uint8
from nvae_tf.model import NVAE

__all__ = ["Illustrator"]


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
