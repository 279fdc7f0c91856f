"""Nearest neighbours among many images, one pass over them."""

import typing

import numpy as np

__all__ = ["NeighbourSearch", "Neighbours", "squared_distances"]


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


def squared_distances(x, y, x_squares=None, y_squares=None) -> np.ndarray:
    """Squared Euclidean distances `[N, M]` of points `[N, F]` and `[M, F]`.

    Args:
      x: float `[N, F]`.
      y: float `[M, F]`, of the same dtype, which is that of the result.
      x_squares: sums of squares `[N]`, where they are known.
      y_squares: likewise `[M]`.
    """
    x_squares = _squares(x) if x_squares is None else x_squares
    y_squares = _squares(y) if y_squares is None else y_squares
    distances = y_squares - 2.0 * (x @ y.T)
    distances += x_squares[:, None]
    return np.maximum(distances, 0.0, out=distances)


def _squares(x: np.ndarray) -> np.ndarray:
    return np.einsum("nf,nf->n", x, x)


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
        self._squares = _squares(self._queries)
        self._count = count
        self._found: Neighbours | None = None

    def add(self, vectors, indices: np.ndarray, images: np.ndarray) -> None:
        """Sees more images.

        Args:
          vectors: `[B, ...]`, as long as the queries.
          indices: int64 `[B]`.
          images: `[B, H, W, C]`, to show.
        """
        squares = squared_distances(
            self._queries, _flat(vectors), self._squares
        )
        distances = np.sqrt(squares)  # [Q, B]
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
