"""The noise that belongs to a seed, drawn with NumPy alone.

An image is a function of its own seed: whichever runtime an export runs in, its
graphs take this noise.  Becomes part of the programs that lie beside exports.
"""

import math

import numpy as np

__all__ = ["check_noise", "noise_rows"]

_MOST_NOISE = 2**28  # Numbers that an image may take.
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def _philox(seeds, stream, count):
    """Philox4x32-10: uint32 `[B, count]`, a function of seed and stream.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011): the
    key is the seed, the counter's upper half the stream.
    """
    key = np.asarray(seeds, np.int64).view(np.uint64)[:, None]
    index = np.arange(-(-count // 4), dtype=np.uint64)[None]
    index = np.broadcast_to(index, (len(key), index.size))
    a, b = index & _LOW, index >> _HALF
    c = np.full_like(a, np.uint64(stream) & _LOW)
    d = np.full_like(a, np.uint64(stream) >> _HALF)
    k, m = key & _LOW, key >> _HALF
    for step in range(10):
        if step:
            k = (k + np.uint64(0x9E3779B9)) & _LOW
            m = (m + np.uint64(0xBB67AE85)) & _LOW
        p, q = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b, c, d = (
            (q >> _HALF) ^ b ^ k,
            q & _LOW,
            (p >> _HALF) ^ d ^ m,
            p & _LOW,
        )
    words = np.stack([a, b, c, d], axis=-1)  # [B, count / 4, 4]
    words = words.reshape(len(key), 4 * index.shape[1])
    return words[:, :count].astype(np.uint32)


def _uniform(seeds, stream, count):
    """Float32 `[B, count]` on [0, 1): 23 random bits each."""
    words = _philox(seeds, stream, count) & np.uint32(0x7FFFFF)
    return (words | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)


def _normal(seeds, stream, count):
    """Float32 `[B, count]`, standard Normal, by Box and Muller.

    Functions are computed in float64 and rounded: in float32, their last digits
    differ between processors and between languages.
    """
    half = -(-count // 2)
    pairs = _uniform(seeds, stream, 2 * half).reshape(len(seeds), half, 2)
    radius = np.maximum(pairs[..., :1], np.float32(1e-7))
    logarithm = np.log(radius.astype(np.float64)).astype(np.float32)
    radius = np.sqrt(np.float32(-2) * logarithm)
    angle = np.float32(2 * math.pi) * pairs[..., 1:]
    angle = angle.astype(np.float64)
    normal = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    normal = normal.astype(np.float32) * radius
    return normal.reshape(len(seeds), 2 * half)[:, :count]


def noise_rows(seeds, kind, stream, shape):
    """Noise that each row draws from its own seed.

    Args:
      seeds: integers `[B]`.
      kind: "normal" (standard) or "uniform" (on [0, 1)).
      stream: number of the tensor: latent groups count from 0.
      shape: of a row.

    Returns:
      float32 `[B, *shape]`.
    """
    draw = {"normal": _normal, "uniform": _uniform}[kind]
    seeds = np.asarray(seeds, np.int64).reshape(-1)
    rows = draw(seeds, stream, math.prod(shape))
    return rows.reshape(len(seeds), *shape)


def check_noise(specs):
    """Checks what an export says of the noise that it takes.

    Args:
      specs: dicts of name, kind, stream and shape; see `noise_rows`.

    Raises:
      ValueError, KeyError or TypeError: if it is no such list, or of more
        numbers than any image takes.
    """
    for spec in specs:
        numbers = [spec["stream"], *spec["shape"]]
        if (
            spec["kind"] not in ("normal", "uniform")
            or not isinstance(spec["name"], str)
            or len(numbers) > 8
            or not all(
                isinstance(n, int) and 0 <= n <= _MOST_NOISE for n in numbers
            )
        ):
            raise ValueError("a description of noise is none")
    if sum(math.prod(spec["shape"]) for spec in specs) > _MOST_NOISE:
        raise ValueError("it takes more noise than any image")
