"""What one does with a model on a TF Serving server."""

import concurrent.futures
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from nvae_tf.core.errors import ClientError
from nvae_tf.sampling.temperatures import as_rows

__all__ = ["Client", "Predictor"]


class Predictor(Protocol):
    """A served model, however it is reached."""

    def signatures(self) -> dict[str, dict[str, dict[str, tuple]]]:
        """Signature -> "inputs" or "outputs" -> name -> (dtype, shape)."""

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Runs a signature; arrays by name."""

    def close(self) -> None:
        """Closes the connection."""


class Client:
    """What one does with a served model.

    Args:
      predictor: reaches the model.
      batch_size: images per request.
      concurrency: requests under way at a time; a server that batches answers
        them together.

    Attributes:
      image_shape: `(H, W, C)` of the model's images.
      num_groups: L, its latent groups.

    Raises:
      ClientError: if the server does not answer, or its model is no NVAE.
    """

    def __init__(
        self, predictor: Predictor, batch_size: int = 16, concurrency: int = 2
    ):
        self._predictor = predictor
        self._batch_size = batch_size
        self._concurrency = concurrency
        signatures = predictor.signatures()
        try:
            shape = signatures["reconstruct"]["inputs"]["images"][1]
            self.num_groups = len(signatures["decode"]["inputs"])
        except KeyError as error:
            raise ClientError(
                "The served model is not an export of nvae_tf: it has the "
                f"signatures {', '.join(sorted(signatures))}."
            ) from error
        self.image_shape = tuple(shape[1:])

    def sample(
        self, seeds: Iterable[int], temperature: float | Sequence = 0.7
    ) -> np.ndarray:
        """Draws an image for every seed.

        Args:
          seeds: N integers.
          temperature: a number, `[L]` for one per latent group, top-down,
            `[N, L]`, or `[N, 1]` for one per image.  What is sent is
            `[N, L]`.

        Returns:
          uint8 `[N, H, W, C]`.

        Raises:
          ClientError: if the temperature does not fit, or the server refuses
            the request.
        """
        seeds = np.asarray(list(seeds), np.int64)
        rows = as_rows(temperature, self.num_groups, len(seeds), ClientError)
        # One form for all requests: those that a server merges must agree.
        temperature = np.broadcast_to(rows, (len(seeds), self.num_groups))
        inputs = {"seed": seeds, "temperature": temperature}
        return self._run("sample", inputs)["images"]

    def reconstruct(self, images, seeds) -> np.ndarray:
        """Encodes and decodes.

        Args:
          images: uint8 `[N, H, W, C]`.
          seeds: N integers, of the posterior draws.

        Returns:
          uint8 `[N, H, W, C]`.

        Raises:
          ClientError: if the server refuses the request.
        """
        inputs = {"images": images, "seed": np.asarray(seeds, np.int64)}
        return self._run("reconstruct", inputs)["images"]

    def score(self, images, seeds) -> dict[str, np.ndarray]:
        """Bounds on the images' likelihood.

        Args:
          images: uint8 `[N, H, W, C]`.
          seeds: N integers, of the posterior draws.

        Returns:
          float32 `nelbo` `[N]` in nats, `kl_per_group` `[N, L]`,
          `bits_per_dim` `[N]`.

        Raises:
          ClientError: if the server refuses the request.
        """
        inputs = {"images": images, "seed": np.asarray(seeds, np.int64)}
        return self._run("score", inputs)

    def _run(self, signature, inputs) -> dict[str, np.ndarray]:
        count = len(next(iter(inputs.values())))
        starts = range(0, count, self._batch_size)

        def request(start):
            rows = slice(start, start + self._batch_size)
            return self._predictor.predict(
                signature, {name: x[rows] for name, x in inputs.items()}
            )

        with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
            parts = list(pool.map(request, starts))
        return {
            name: np.concatenate([part[name] for part in parts])
            for name in parts[0]
        }
