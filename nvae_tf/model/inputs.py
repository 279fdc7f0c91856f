"""What the model's passes take: images, noise or latents, temperatures."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from nvae_tf.config import ModelConfig
from nvae_tf.core.errors import DataError

__all__ = [
    "by_scale",
    "checked_images",
    "checked_labels",
    "images_and_labels",
    "noise_by_scale",
    "per_group",
]


def checked_images(x, config: ModelConfig):
    """The images as a tensor.

    Args:
      x: `[B, H, W, C]` in [0, 1], padded.
      config: of the model.

    Raises:
      DataError: if they are no such images.
    """
    c = config
    expected = (c.padded_size, c.padded_size, c.image_channels)
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise DataError(
            f"The images have dtype {x.dtype.name}; NVAE takes floating "
            "values in [0, 1]. Divide by the largest value first."
        )
    if x.shape.rank != 4 or tuple(x.shape[1:]) != expected:
        raise DataError(
            f"The images have shape {tuple(x.shape)}; this model takes "
            f"[B, {', '.join(map(str, expected))}]"
            + (f", padded by {c.padding}." if c.padding else ".")
        )
    if tf.executing_eagerly() and x.shape[0]:
        low, high = float(tf.reduce_min(x)), float(tf.reduce_max(x))
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"The images range from {low:g} to {high:g}; NVAE takes "
                "values in [0, 1]."
            )
    return x


def checked_labels(labels, config: ModelConfig, batch: int | None):
    """The classes of the images as a tensor, int32 `[B]`; None for None.

    In a graph, whose values nobody knows yet, a label of no class passes: what
    comes of that row is NaN, see `nvae_tf.model.decoder.ClassEmbedding`.

    Args:
      labels: integers `[B]`, from 0.
      config: of the model.
      batch: B; None if it is not known.

    Raises:
      DataError: if they are none, the model has classes and is not told one,
        or has none and is.
    """
    count = config.num_classes
    if labels is None:
        if count:
            raise DataError(
                f"This model is told the class of every image: give `labels`, "
                f"integers [B] from 0 to {count - 1}."
            )
        return None
    if not count:
        raise DataError("This model knows no classes: leave `labels` out.")
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_integer or labels.shape.rank != 1:
        raise DataError(
            f"The labels are {labels.dtype.name} {labels.shape.as_list()}; "
            "they must be integers [B]."
        )
    if None not in (batch, labels.shape[0]) and labels.shape[0] != batch:
        raise DataError(
            f"There are {labels.shape[0]} labels for {batch} images; give one "
            "for each."
        )
    if tf.executing_eagerly() and labels.shape[0]:
        low, high = int(tf.reduce_min(labels)), int(tf.reduce_max(labels))
        if low < 0 or high >= count:
            raise DataError(
                f"The labels go from {low} to {high}; this model has the "
                f"classes 0 to {count - 1}."
            )
    return tf.cast(labels, tf.int32)


def images_and_labels(x):
    """What a batch holds, as a model takes it: `(images, labels)`.

    Args:
      x: images, or the pair of them and their labels.

    Returns:
      Both; labels are None where there are none.
    """
    return x if isinstance(x, tuple) else (x, None)


def noise_by_scale(config: ModelConfig, eps, seed, batch_size) -> list:
    """Standard Normal noise per scale, `[G, B, h, w, d]`.

    Args:
      config: of the model.
      eps: the noise itself, see `by_scale`; or None for
      seed: int32 `[2]`, that it is drawn from.
      batch_size: of what is drawn.

    Raises:
      ValueError: if there is neither, or `eps` does not fit.
    """
    if eps is not None:
        return by_scale(config, eps, "eps")
    if seed is None or batch_size is None:
        raise ValueError(
            "Without `eps`, a `seed` is needed (and, to sample, a "
            "`batch_size`): noise is never drawn from hidden state."
        )
    c = config
    return [
        tf.random.stateless_normal(
            [groups, batch_size, size, size, c.num_latent_per_group],
            tf.random.experimental.stateless_fold_in(seed, s, alg="philox"),
            # Named, so that all devices draw the same. XLA draws others
            # from the same seed, of Normals as of uniform numbers.
            alg="philox",
        )
        for s, (groups, size) in enumerate(
            zip(c.groups_top_down, c.scale_sizes, strict=True)
        )
    ]


def by_scale(config: ModelConfig, tensors: Sequence, name: str) -> list:
    """L tensors `[B, h, w, d]` -> per scale `[G, B, h, w, d]`.

    Args:
      config: of the model.
      tensors: top-down.
      name: of the argument, for messages.

    Raises:
      ValueError: if they do not fit the latent shapes.
    """
    c = config
    if len(tensors) != c.num_groups:
        raise ValueError(
            f"`{name}` has {len(tensors)} tensors; this model has "
            f"{c.num_groups} latent groups."
        )
    tensors = [tf.cast(t, tf.float32) for t in tensors]
    for i, (t, shape) in enumerate(zip(tensors, c.latent_shapes, strict=True)):
        if tuple(t.shape[1:]) != tuple(shape):
            raise ValueError(
                f"`{name}[{i}]` has shape {tuple(t.shape)}; group {i} "
                f"takes [B, {', '.join(map(str, shape))}]."
            )
    rows = {t.shape[0] for t in tensors} - {None}
    if len(rows) > 1:
        raise ValueError(
            f"The tensors of `{name}` have {', '.join(map(str, sorted(rows)))} "
            "rows; give all as many."
        )
    stacked, start = [], 0
    for groups in c.groups_top_down:
        stacked.append(tf.stack(tensors[start : start + groups]))
        start += groups
    return stacked


def per_group(config: ModelConfig, temperature, batch: int | None):
    """A temperature per group, `[L, B or 1]`; None for None.

    Args:
      config: of the model.
      temperature: see `NVAE.decode`.
      batch: number of images; None if it is not known.

    Raises:
      ValueError: if it does not fit.
    """
    if temperature is None:
        return None
    t = tf.cast(temperature, tf.float32)
    groups = config.num_groups
    match t.shape.as_list():
        case []:
            return tf.fill([groups, 1], t)
        case [length] if length in (groups, None):
            return tf.ensure_shape(t, [groups])[:, None]
        case [_, length] if length == groups and _fits(t, batch):
            return tf.transpose(t)
        case [_, length] if length in (1, None) and _fits(t, batch):
            return tf.broadcast_to(tf.transpose(t), [groups, tf.shape(t)[0]])
    raise ValueError(
        f"`temperature` has shape {tuple(t.shape)}, but this model has "
        f"{groups} latent groups and the batch "
        f"{'B' if batch is None else batch} images: give a number, "
        f"[{groups}] for one per group, top-down, [B, 1] for one per "
        f"image, or [B, {groups}]."
    )


def _fits(rows, batch: int | None) -> bool:
    """Whether tensors have a row for each image, or one for all."""
    return batch is None or rows.shape[0] in (batch, 1, None)
