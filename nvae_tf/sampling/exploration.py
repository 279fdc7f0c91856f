"""Ways through the space of latents: levels, interpolations, traversals.

All go in noise space, see `nvae_tf.sampling.inference`: noise is a list of L
arrays `[N, h, w, d]`, top-down, one row per image.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from nvae_tf.sampling.classes import as_labels, take_labels
from nvae_tf.sampling.illustrator import Illustrator
from nvae_tf.sampling.temperatures import as_rows, take_rows

__all__ = [
    "PATHS",
    "images_of",
    "interpolated",
    "labels_between",
    "levels",
    "shifted",
    "top_groups_only",
]

PATHS = ("spherical", "linear")


def images_of(
    illustrator: Illustrator,
    eps: Sequence[np.ndarray],
    batch_size: int,
    temperature=1.0,
    labels=None,
) -> np.ndarray:
    """Mean images of noise, however many rows it has.

    Args:
      illustrator: of the model.
      eps: L arrays `[N, h, w, d]`.
      batch_size: images at once.
      temperature: a number, `[L]`, `[N, L]` or `[N, 1]`; see
        `nvae_tf.sampling.temperatures`.
      labels: an integer or `[N]`, where the model has classes.

    Returns:
      uint8 `[N, H, W, C]`.
    """
    number = len(eps[0])
    labels = as_labels(labels, illustrator.model.config, number)
    groups = illustrator.model.config.num_groups
    temperature = as_rows(temperature, groups, number)
    images = []
    for start in range(0, number, batch_size):
        # The last batch is filled up: one graph serves all.
        rows = np.minimum(np.arange(start, start + batch_size), number - 1)
        drawn = illustrator.from_noise(
            [e[rows] for e in eps],
            take_rows(temperature, rows),
            labels=take_labels(labels, rows),
        )
        images.append(drawn[: number - start])
    return np.concatenate(images)


def levels(
    illustrator: Illustrator,
    fixed: Sequence[int],
    num: int,
    temperature,
    seed: int,
    batch_size: int = 64,
    **options,
) -> np.ndarray:
    """What each level of the hierarchy decides.

    Args:
      illustrator: of the model.
      fixed: for each row, how many upper groups it fixes.
      num: images per row.
      temperature: see `Illustrator.draw`; its images are a row's.
      seed: of the first image, whose upper groups are the fixed ones; column i
        has the seed `seed + i`, so all rows have the same lower groups.
      batch_size: images at once.
      **options: `pixels`, `truncation` and `labels` of `Illustrator.draw`.

    Returns:
      uint8 `[len(fixed), num, H, W, C]`; column 0 is one image throughout.
    """
    rows = [
        illustrator.draw(
            num, temperature, seed, batch_size, fix_groups=count, **options
        )
        for count in fixed
    ]
    return np.stack([np.concatenate([*row]) for row in rows])


def top_groups_only(
    eps: Sequence[np.ndarray],
    count: int,
    noise: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Keeps the noise of the upper groups.

    Args:
      eps: L arrays `[N, h, w, d]`.
      count: groups to keep.
      noise: the same shapes, for the other groups; None for zero, the mean of
        the prior given what is above.

    Returns:
      L arrays.
    """
    lower = [np.zeros_like(e) for e in eps] if noise is None else noise
    return [*eps[:count], *lower[count:]]


def interpolated(
    eps: Sequence[np.ndarray], steps: int, path: str = "spherical"
) -> list[np.ndarray]:
    """Noise on the way from each row to the next.

    Args:
      eps: L arrays `[K, h, w, d]` of K >= 2 stations.
      steps: frames from one station to the next, both counted.
      path: "spherical" turns each group's noise along a great circle while its
        length changes evenly, so that frames on the way are as typical of the
        prior as the stations; "linear" goes straight, through noise that is
        too short.

    Returns:
      L arrays `[(K - 1) * steps, h, w, d]`; stations are there unchanged.
    """
    ways = {"spherical": _great_circle, "linear": _straight}
    between = ways[path]
    return [
        np.stack(
            [
                between(start, end, t)
                for start, end in itertools.pairwise(e)
                for t in np.linspace(0.0, 1.0, steps)
            ]
        ).astype(np.float32)
        for e in (np.asarray(e, np.float64) for e in eps)
    ]


def labels_between(labels: np.ndarray | None, steps: int) -> np.ndarray | None:
    """The classes on the way that `interpolated` goes.

    There is nothing between two classes: every frame has that of the nearer
    station.

    Args:
      labels: integers `[K]`, of the stations; None where there are none.
      steps: frames from one station to the next, both counted.

    Returns:
      int32 `[(K - 1) * steps]`, or None.
    """
    if labels is None:
        return None
    near = (np.arange(steps) >= (steps + 1) // 2).astype(int)
    pairs = np.stack([labels[:-1], labels[1:]], axis=1)
    return pairs[:, near].reshape(-1).astype(np.int32)


def shifted(
    eps: Sequence[np.ndarray], group: int, distance: float, steps: int
) -> list[np.ndarray]:
    """Moves each channel of a group through a range, everywhere in space.

    Args:
      eps: L arrays `[1, h, w, d]` of one image.
      group: whose channels move.
      distance: what is added goes from `-distance` to `distance`, in standard
        deviations of the prior.
      steps: places in this range; an odd number includes the image itself.

    Returns:
      L arrays `[d * steps, h, w, d]`, channel by channel; those of the other
      groups, of which all rows are alike, are read-only views.
    """
    channels = eps[group].shape[-1]
    rows = [np.broadcast_to(e, [channels * steps, *e.shape[1:]]) for e in eps]
    rows[group] = rows[group].copy()
    offsets = np.linspace(-distance, distance, steps)
    for channel in range(channels):
        for step, offset in enumerate(offsets):
            rows[group][channel * steps + step, ..., channel] += offset
    return rows


def _straight(start, end, t):
    # Exact at both ends.
    return (1.0 - t) * start + t * end


def _great_circle(start, end, t):
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    if not min(lengths):
        return _straight(start, end, t)
    directions = start / lengths[0], end / lengths[1]
    cosine = np.clip(np.sum(directions[0] * directions[1]), -1.0, 1.0)
    angle = np.arccos(cosine)
    if np.sin(angle) < 1e-6:
        return _straight(start, end, t)
    if t in (0.0, 1.0):
        return (start, end)[int(t)]
    direction = (
        np.sin((1.0 - t) * angle) * directions[0]
        + np.sin(t * angle) * directions[1]
    ) / np.sin(angle)
    return _straight(*lengths, t) * direction
