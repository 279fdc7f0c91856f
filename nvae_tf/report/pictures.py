"""The pictures of a report, drawn by the run's latest model."""

from __future__ import annotations

import numpy as np

from nvae_tf.config import Config
from nvae_tf.datasets import image_input, pipeline
from nvae_tf.model.nvae import NVAE
from nvae_tf.sampling import exploration, images
from nvae_tf.sampling.illustrator import Illustrator
from nvae_tf.sampling.inference import Inference

__all__ = ["Pictures"]

_WIDTH = 480  # Pixels a picture has at least.
_BATCH = 16
_ROWS, _STEPS = 4, 8


class Pictures:
    """Draws pictures, each a PNG file.

    Args:
      model: to draw with.
      config: of the run.
      seed: of the draws.
    """

    def __init__(self, model: NVAE, config: Config, seed: int = 0):
        self._config = config
        self._seed = seed
        self._model = model
        self._illustrator = Illustrator(model)

    def samples(self, temperature: float, num: int = 36) -> bytes:
        """A grid of draws from the prior."""
        drawn = np.concatenate(
            [*self._illustrator.draw(num, temperature, self._seed, _BATCH)]
        )
        return _png(images.grid(drawn, gap=2))

    def held_out(self, split: str) -> dict[str, bytes]:
        """Reconstructions of held-out images, and ways between them.

        Args:
          split: which images.

        Returns:
          "reconstructions", pairs of an image and what became of it, and
          "interpolation", rows that each lead from one image to another.

        Raises:
          UserError: if the images cannot be had.
        """
        source = pipeline.open_source(self._config, split)
        # From everywhere: neighbours are often alike.
        count = min(_BATCH, len(source))
        places = np.linspace(0, len(source) - 1, count).astype(int).tolist()
        chosen = image_input.select(source, places)
        batch = image_input.read(chosen, self._config, self._seed)
        pairs = self._illustrator.reconstruct(
            batch.images, self._seed, batch.labels
        )
        pictures = {
            "reconstructions": _png(self._illustrator.grid_of_pairs(pairs, 4))
        }
        if len(batch.numbers) > 1:
            pictures["interpolation"] = self._interpolation(batch)
        return pictures

    def _interpolation(self, batch: image_input.ImageBatch) -> bytes:
        rows = min(_ROWS, len(batch.numbers) // 2)
        code = Inference(self._model)(
            batch.images, batch.numbers, draw=False, labels=batch.labels
        )
        ways, labels = [], []
        for row in range(rows):
            pair = [2 * row, 2 * row + 1]
            ends = [e.numpy()[pair] for e in code.eps]
            ways.append(exploration.interpolated(ends, _STEPS))
            if batch.labels is not None:
                labels.append(
                    exploration.labels_between(batch.labels[pair], _STEPS)
                )
        eps = [np.concatenate(group) for group in zip(*ways, strict=True)]
        frames = exploration.images_of(
            self._illustrator,
            eps,
            _BATCH,
            labels=np.concatenate(labels) if labels else None,
        )
        return _png(images.grid(frames, _STEPS, gap=2))


def _png(picture: np.ndarray) -> bytes:
    return images.encode_png(images.enlarged(picture[None], _WIDTH)[0])
