"""Nearest neighbours among many images, one pass over them."""

import typing

import numpy as np

__all__ = ["NeighbourSearch", "Neighbours"]


class Neighbours(typing.NamedTuple):
    """The K nearest images of each of Q queries, nearest first.

    Attributes:
      distances: float64 `[Q, K]`.
      indices: int64 `[Q, K]`.
      images: `[Q, K, H, W, C]`.
    """

    distances: np.ndarray
    indices: np.ndarray
    images: np.ndarray


class NeighbourSearch:
    """Keeps the nearest of all images seen so far.

    Distances are Euclidean, in float64: a copy is at distance 0 even among
    large vectors.

    Args:
      queries: `[Q, ...]`, compared as flat vectors.
      count: K.
    """

    def __init__(self, queries: np.ndarray, count: int):
        self._queries = _flat(queries)
        self._squares = np.sum(self._queries**2, axis=1)
        self._count = count
        self._found: Neighbours | None = None

    def add(self, vectors, indices: np.ndarray, images: np.ndarray) -> None:
        """Sees more images.

        Args:
          vectors: `[B, ...]`, as long as the queries.
          indices: int64 `[B]`.
          images: `[B, H, W, C]`, to show.
        """
        vectors = _flat(vectors)
        squares = (
            self._squares[:, None]
            + np.sum(vectors**2, axis=1)[None]
            - 2 * self._queries @ vectors.T
        )
        distances = np.sqrt(np.maximum(squares, 0.0))  # [Q, B]
        indices = np.broadcast_to(indices, distances.shape)
        if self._found is not None:
            distances = np.concatenate(
                [self._found.distances, distances], axis=1
            )
            indices = np.concatenate([self._found.indices, indices], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")
        order = order[:, : self._count]
        self._found = Neighbours(
            np.take_along_axis(distances, order, axis=1),
            np.take_along_axis(indices, order, axis=1),
            self._pick(order, images),
        )

    def result(self) -> Neighbours:
        """What was found.

        Raises:
          ValueError: if no image was seen.
        """
        if self._found is None:
            raise ValueError("No image was added.")
        return self._found

    def _pick(self, order: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Images `[Q, K, H, W, C]` by their places among old and new ones."""
        old = 0 if self._found is None else self._found.indices.shape[1]
        new = images[np.maximum(order - old, 0)]
        if not old:
            return new
        places = np.minimum(order, old - 1)[..., None, None, None]
        kept = np.take_along_axis(self._found.images, places, axis=1)
        return np.where((order < old)[..., None, None, None], kept, new)


def _flat(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors.reshape(len(vectors), -1)
