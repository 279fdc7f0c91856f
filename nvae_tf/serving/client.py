"""What one does with a model on a TF Serving server."""

import concurrent.futures
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from nvae_tf.core.errors import ClientError
from nvae_tf.sampling.temperatures import as_rows

__all__ = ["Client", "Predictor"]

_LARGEST_SIDE = 2**14


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
        self.image_shape, self.num_groups = _shapes(predictor.signatures())

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
        return self._run("sample", inputs, self._images)["images"]

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
        return self._run("reconstruct", inputs, self._images)["images"]

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
        wanted = {
            "nelbo": ("float32", ()),
            "kl_per_group": ("float32", (self.num_groups,)),
            "bits_per_dim": ("float32", ()),
        }
        return self._run("score", inputs, wanted)

    @property
    def _images(self) -> dict[str, tuple]:
        return {"images": ("uint8", self.image_shape)}

    def _run(self, signature, inputs, wanted) -> dict[str, np.ndarray]:
        """Rows of the wanted outputs: name -> (dtype, shape of a row)."""
        count = len(next(iter(inputs.values())))
        starts = range(0, count, self._batch_size)

        def request(start):
            rows = slice(start, min(start + self._batch_size, count))
            answer = self._predictor.predict(
                signature, {name: x[rows] for name, x in inputs.items()}
            )
            _require(signature, answer, wanted, rows.stop - rows.start)
            return answer

        with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
            parts = list(pool.map(request, starts))
        return {
            name: np.concatenate([part[name] for part in parts])
            for name in wanted
        }


def _shapes(signatures: Mapping[str, Mapping]) -> tuple[tuple, int]:
    """`(H, W, C)` and L of the served model.

    Raises:
      ClientError: if it is none of ours.
    """
    try:
        dtype, shape = signatures["reconstruct"]["inputs"]["images"]
        groups = len(signatures["decode"]["inputs"])
        height, width, channels = shape[1:]
        known = (
            dtype == "uint8"
            and 1 <= height == width <= _LARGEST_SIDE
            and channels in (1, 3)
            and groups > 0
        )
    except (KeyError, TypeError, ValueError):
        known = False
    if known:
        return (height, width, channels), groups
    raise ClientError(
        "The served model is not an export of nvae_tf: it has the signatures "
        f"{', '.join(sorted(signatures)) or 'of nothing'}."
    )


def _require(signature: str, answer, wanted, rows: int) -> None:
    """Raises ClientError unless an answer is what was asked for."""
    for name, (dtype, shape) in wanted.items():
        value = answer.get(name)
        expected = (dtype, (rows, *shape))
        found = None if value is None else (value.dtype.name, value.shape)
        if found != expected:
            raise ClientError(
                f"The server answered {signature!r} with {_described(found)} "
                f"as {name!r}, where {_described(expected)} was asked for: it "
                "is not TF Serving, or the model was exchanged meanwhile."
            )


def _described(spec: tuple | None) -> str:
    return "nothing" if spec is None else f"{spec[0]} {list(spec[1])}"
