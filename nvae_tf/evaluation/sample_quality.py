"""Distances between two sets of images, measured on features of a network.

All take features float `[N, F]`, one row per image; see
`nvae_tf.evaluation.features`.

- Frechet distance of two Normals: Heusel et al., "GANs trained by a two
  time-scale update rule converge to a local Nash equilibrium", 2017. It is
  called FID where the features are those of the network that published FIDs
  have in common, and nowhere else.
- KID, an unbiased kernel distance: Binkowski et al., "Demystifying MMD GANs",
  2018.
- Precision and recall of k-nearest-neighbour manifolds: Kynkaanniemi et al.,
  "Improved precision and recall metric for assessing generative models", 2019.
"""

import pathlib
import typing
from collections.abc import Mapping

import numpy as np

from nvae_tf.evaluation.neighbours import squared_distances

__all__ = [
    "KernelDistance",
    "PrecisionRecall",
    "frechet_distance",
    "frechet_title",
    "kernel_distance",
    "precision_recall",
]

_MAX_BLOCK = 1000
_MIN_BLOCKS = 10


class KernelDistance(typing.NamedTuple):
    """The kernel distance of two sets.

    Attributes:
      value: mean of the estimates of all blocks; may be below 0, since it is
        unbiased.
      standard_error: of that mean; NaN for a single block.
      num_blocks: disjoint blocks, which are independent estimates.
      block_size: images of each set in each block.
    """

    value: float
    standard_error: float
    num_blocks: int
    block_size: int


class PrecisionRecall(typing.NamedTuple):
    """Shares of a set that lie in the manifold of the other, 0 to 1.

    Attributes:
      precision: samples within the manifold of the real images.
      recall: real images within the manifold of the samples.
    """

    precision: float
    recall: float


def frechet_title(record: Mapping) -> str:
    """What the Frechet distance of a record may be called.

    Args:
      record: of sample_quality.json.  Records from before there was
        "frechet_distance" call it "fid" whatever the network was.

    Returns:
      "FID", or "Frechet distance (NETWORK)" if published FIDs cannot be
      compared with it.
    """
    network = pathlib.PurePath(str(record.get("features", "?"))).name
    is_old = "frechet_distance" not in record
    if "fid" in record and not (is_old and not network.endswith(".pb")):
        return "FID"
    return f"Frechet distance ({network})"


def frechet_distance(real, samples) -> float:
    """Frechet distance of the Normals with the sets' moments.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`.  With few images it is
    biased upwards: compare numbers of equal N only.

    Args:
      real: features `[N, F]`, N of at least 2.
      samples: features `[M, F]`, M of at least 2.
    """
    mean_1, covariance_1 = _moments(real)
    mean_2, covariance_2 = _moments(samples)
    # C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2), whose
    # roots are real even where few images leave the matrices singular.
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariance_2 @ root)
    cross = np.sqrt(np.maximum(product, 0.0)).sum()
    traces = np.trace(covariance_1) + np.trace(covariance_2)
    return float(np.square(mean_1 - mean_2).sum() + traces - 2.0 * cross)


def _moments(features) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[F]` and unbiased covariance `[F, F]`, float64."""
    features = np.asarray(features)
    mean = features.mean(axis=0, dtype=np.float64)
    total = np.zeros((len(mean), len(mean)))
    # In blocks: a float64 copy of all would be twice the features.
    for start in range(0, len(features), _MAX_BLOCK):
        centred = features[start : start + _MAX_BLOCK] - mean
        total += centred.T @ centred
    return mean, total / (len(features) - 1)


def kernel_distance(real, samples, seed: int = 0) -> KernelDistance:
    """Squared maximum mean discrepancy with the kernel `(x.y / F + 1)^3`.

    The images are dealt to disjoint blocks, of up to 1,000 of each set and at
    least ten blocks, if there are enough; every block gives an unbiased
    estimate.

    Args:
      real: features `[N, F]`, N of at least 2.
      samples: features `[M, F]`, M of at least 2.
      seed: of the dealing.
    """
    count = min(len(real), len(samples))
    size = max(2, min(_MAX_BLOCK, count // _MIN_BLOCKS))
    number = count // size
    rng = np.random.default_rng(seed)
    first, second = (
        rng.permutation(len(part))[: number * size].reshape(number, size)
        for part in (real, samples)
    )
    estimates = [
        _unbiased_mmd(real[a].astype(float), samples[b].astype(float))
        for a, b in zip(first, second, strict=True)
    ]
    error = float("nan")
    if number > 1:
        error = float(np.std(estimates, ddof=1) / np.sqrt(number))
    return KernelDistance(float(np.mean(estimates)), error, number, size)


def _unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    def mean_of_pairs(a):
        gram = kernel(a, a)
        return (gram.sum() - np.trace(gram)) / (len(a) * (len(a) - 1))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2.0 * kernel(x, y).mean()


def precision_recall(
    real, samples, num_neighbours: int = 3, chunk: int = 1024
) -> PrecisionRecall:
    """Shares of each set within the other's manifold.

    The manifold of a set is the union of the balls around its points that
    reach to their k-th nearest neighbours in the set.

    Args:
      real: features `[N, F]`, N above k.
      samples: features `[M, F]`, M above k.
      num_neighbours: k.
      chunk: rows of the distance matrix at once: memory is `chunk * max(N,
        M)`.

    Raises:
      ValueError: if a set has no more than k points.
    """
    if min(len(real), len(samples)) <= num_neighbours:
        raise ValueError(
            f"{num_neighbours} neighbours need more images than "
            f"{min(len(real), len(samples))}."
        )
    # About the origin, where float32 differences of squares keep most digits.
    centre = np.mean(real, axis=0)
    real, samples = (_Points(part - centre, chunk) for part in (real, samples))
    return PrecisionRecall(
        precision=samples.share_within(real, num_neighbours),
        recall=real.share_within(samples, num_neighbours),
    )


class _Points:
    """Points `[N, F]`, and squared distances from them."""

    def __init__(self, points: np.ndarray, chunk: int):
        self._points = points
        self._squares = np.einsum("nf,nf->n", points, points)
        self._chunk = chunk

    def share_within(self, other: "_Points", k: int) -> float:
        """Share of these points in the manifold of the other ones."""
        radii = other._radii(k)
        inside = [
            (distances <= radii).any(axis=1)
            for _, distances in self._distances(other)
        ]
        return float(np.concatenate(inside).mean())

    def _radii(self, k: int) -> np.ndarray:
        """Squared distance to the k-th nearest other point, `[N]`."""
        radii = []
        for start, distances in self._distances(self):
            rows = np.arange(len(distances))
            distances[rows, start + rows] = -1.0  # Itself comes first.
            radii.append(np.partition(distances, k, axis=1)[:, k])
        return np.concatenate(radii)

    def _distances(self, other: "_Points"):
        """Yields (first row, squared distances `[chunk, M]`)."""
        for start in range(0, len(self._points), self._chunk):
            rows = slice(start, start + self._chunk)
            yield (
                start,
                squared_distances(
                    self._points[rows],
                    other._points,
                    self._squares[rows],
                    other._squares,
                ),
            )
