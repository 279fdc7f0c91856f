"""What one does with a model on a TF Serving server."""

import concurrent.futures
import random
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nvae_tf.core.errors import ClientError
from nvae_tf.export.served import row_status
from nvae_tf.sampling.temperatures import as_rows
from nvae_tf.serving.predictor import MergedBatchError, Predictor

__all__ = ["Client"]

_LARGEST_SIDE = 2**14
# How often a request is sent that fails for another one's sake, and the most
# seconds between.
_MERGES = 8
_MERGE_PAUSE = 0.05


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
      has_classes: whether it is told the class of every image.

    Raises:
      ClientError: if the server does not answer, or its model is no NVAE.
    """

    def __init__(
        self, predictor: Predictor, batch_size: int = 16, concurrency: int = 2
    ):
        self._predictor = predictor
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._signatures = predictor.signatures()
        self.image_shape, self.num_groups = _shapes(self._signatures)
        self.has_classes = "label" in self._signatures["decode"]["inputs"]

    def sample(
        self,
        seeds: Iterable[int],
        temperature: float | Sequence = 0.7,
        labels: int | Sequence[int] | None = None,
    ) -> np.ndarray:
        """Draws an image for every seed.

        Args:
          seeds: N integers.
          temperature: a number, `[L]` for one per latent group, top-down,
            `[N, L]`, or `[N, 1]` for one per image.  What is sent is
            `[N, L]`.
          labels: the class of all images, or `[N]`, where the model is told
            any.

        Returns:
          uint8 `[N, H, W, C]`.

        Raises:
          ClientError: if the temperature or a label does not fit, or the
            server refuses the request.
        """
        seeds = np.asarray(list(seeds), np.int64)
        rows = as_rows(temperature, self.num_groups, len(seeds), ClientError)
        # One form for all requests: those that a server merges must agree.
        temperature = np.broadcast_to(rows, (len(seeds), self.num_groups))
        inputs = {
            "seed": seeds,
            "temperature": temperature,
            **self._label(labels, len(seeds)),
        }
        return self._run("sample", inputs, self._images)["images"]

    def reconstruct(self, images, seeds, labels=None) -> np.ndarray:
        """Encodes and decodes.

        Args:
          images: uint8 `[N, H, W, C]`.
          seeds: N integers, of the posterior draws.
          labels: see `sample`.

        Returns:
          uint8 `[N, H, W, C]`.

        Raises:
          ClientError: if the server refuses the request.
        """
        inputs = self._given(images, seeds, labels)
        return self._run("reconstruct", inputs, self._images)["images"]

    def score(self, images, seeds, labels=None) -> dict[str, np.ndarray]:
        """Bounds on the images' likelihood.

        Args:
          images: uint8 `[N, H, W, C]`.
          seeds: N integers, of the posterior draws.
          labels: see `sample`.

        Returns:
          float32 `nelbo` `[N]` in nats, `kl_per_group` `[N, L]`,
          `bits_per_dim` `[N]`.

        Raises:
          ClientError: if the server refuses the request.
        """
        inputs = self._given(images, seeds, labels)
        wanted = {
            "nelbo": ("float32", ()),
            "kl_per_group": ("float32", (self.num_groups,)),
            "bits_per_dim": ("float32", ()),
        }
        return self._run("score", inputs, wanted)

    def _given(self, images, seeds, labels) -> dict[str, np.ndarray]:
        return {
            "images": images,
            "seed": np.asarray(seeds, np.int64),
            **self._label(labels, len(images)),
        }

    def _label(self, labels, count: int) -> dict[str, np.ndarray]:
        """The input of that name, where the model has one."""
        if not self.has_classes:
            if labels is None:
                return {}
            raise ClientError("The served model knows no classes: give none.")
        values = np.asarray(labels)
        if values.dtype.kind not in "iu" or values.shape not in ((), (count,)):
            raise ClientError(
                "The served model is told the class of every image: give one "
                f"for all, or {count} for one each, integers from 0."
            )
        # Others are no class of any model, and have more bits.
        if np.any((values < 0) | (values >= 2**31)):
            raise ClientError("The label of a class is an integer from 0.")
        return {"label": np.broadcast_to(values, [count]).astype(np.int32)}

    @property
    def _images(self) -> dict[str, tuple]:
        return {"images": ("uint8", self.image_shape)}

    def _run(self, signature, inputs, wanted) -> dict[str, np.ndarray]:
        """Rows of the wanted outputs: name -> (dtype, shape of a row)."""
        count = len(next(iter(inputs.values())))
        starts = range(0, count, self._batch_size)
        known = self._signatures.get(signature, {}).get("outputs", {})
        needed = dict(wanted)
        if row_status.OUTPUT in known:  # Older exports had none.
            needed[row_status.OUTPUT] = ("int32", ())
        # Servers merge requests for the same outputs: who wants all of them
        # says so as everybody else does.
        outputs = None if needed.keys() == known.keys() else list(needed)

        def request(start):
            rows = slice(start, min(start + self._batch_size, count))
            given = {name: x[rows] for name, x in inputs.items()}
            answer = self._predict(signature, given, outputs)
            _require(signature, answer, needed, rows.stop - rows.start)
            if row_status.OUTPUT in needed:
                status = answer[row_status.OUTPUT]
                if problem := row_status.explain(status, start):
                    raise ClientError(f"The server did not serve {problem}.")
            return answer

        with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
            parts = list(pool.map(request, starts))
        return {
            name: np.concatenate([part[name] for part in parts])
            for name in wanted
        }

    def _predict(self, signature, inputs, outputs):
        """Asks again where the request of somebody else was at fault."""
        for attempt in range(1, _MERGES + 1):
            try:
                return self._predictor.predict(signature, inputs, outputs)
            except MergedBatchError:
                if attempt == _MERGES:
                    raise
                time.sleep(random.uniform(0, _MERGE_PAUSE))
        raise AssertionError


def _shapes(signatures: Mapping[str, Mapping]) -> tuple[tuple, int]:
    """`(H, W, C)` and L of the served model.

    Raises:
      ClientError: if it is none of ours.
    """
    try:
        dtype, shape = signatures["reconstruct"]["inputs"]["images"]
        groups = len(signatures["decode"]["inputs"].keys() - {"label"})
        height, width, channels = shape[1:]
        known = (
            dtype == "uint8"
            and 1 <= height == width <= _LARGEST_SIDE
            and 1 <= channels <= 4
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
