"""Images in the order of their bounds, and pictures of the extremes."""

import numpy as np

from nvae_tf.config import ModelConfig
from nvae_tf.core.errors import UserError
from nvae_tf.datasets.sources import Source
from nvae_tf.model import losses

__all__ = ["Ranking"]


class Ranking:
    """Collects bounds, and keeps the images at both ends.

    Args:
      num_shown: images to keep at each end.

    Attributes:
      bounds: of all images so far, nats.
      places: of the same images within their source.
    """

    def __init__(self, num_shown: int):
        self._num_shown = num_shown
        self.bounds: list[float] = []
        self.places: list[int] = []
        self._kept = {"worst": None, "best": None}

    def add(
        self, bounds: np.ndarray, places: np.ndarray, images: np.ndarray
    ) -> None:
        """Sees more images.

        Args:
          bounds: `[B]`, nats.
          places: int `[B]`, where in the source.
          images: uint8 `[B, H, W, C]`, to show.

        Raises:
          UserError: if a bound is not finite.
        """
        if not np.all(np.isfinite(bounds)):
            raise UserError(
                "The bound of an image is not finite: training diverged. Use "
                "an earlier checkpoint."
            )
        self.bounds += np.asarray(bounds, np.float64).tolist()
        self.places += np.asarray(places).tolist()
        for end, sign in (("worst", -1.0), ("best", 1.0)):
            all_bounds, all_images = np.asarray(bounds), images
            if self._kept[end] is not None:
                kept_bounds, kept_images = self._kept[end]
                all_bounds = np.concatenate([kept_bounds, all_bounds])
                all_images = np.concatenate([kept_images, all_images])
            order = np.argsort(sign * all_bounds, kind="stable")
            order = order[: self._num_shown]
            self._kept[end] = all_bounds[order], all_images[order]

    def records(self, source: Source, config: ModelConfig) -> list[dict]:
        """All images, the worst first: rank, name, index, nats, bits/dim."""
        numbers = source.numbers(self.places).tolist()
        bounds = np.array(self.bounds)
        order = np.argsort(-bounds, kind="stable")
        return [
            {
                "rank": rank,
                "image": source.describe(self.places[i]),
                "index": numbers[i],
                "nats": self.bounds[i],
                "bits_per_dim": losses.bits_per_dim(self.bounds[i], config),
            }
            for rank, i in enumerate(order)
        ]

    def shown(self) -> tuple[np.ndarray, np.ndarray]:
        """The worst images, worst first, then the best, best first.

        Returns:
          uint8 `[2 num_shown, H, W, C]` and their bounds in nats.
        """
        ends = [self._kept["worst"], self._kept["best"]]
        bounds, images = zip(*ends, strict=True)
        return np.concatenate(images), np.concatenate(bounds)
