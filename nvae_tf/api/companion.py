"""What the functions keep with a model, and how they check arguments."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from nvae_tf.config import PRECISIONS, Config, DataConfig
from nvae_tf.core.errors import UserError
from nvae_tf.datasets import image_input, in_memory
from nvae_tf.datasets.labels import LabelledSource
from nvae_tf.datasets.sources import Source
from nvae_tf.evaluation.evaluator import Evaluator
from nvae_tf.model.nvae import NVAE
from nvae_tf.sampling.classes import as_labels
from nvae_tf.sampling.illustrator import Illustrator
from nvae_tf.sampling.inference import Inference

__all__ = [
    "Companion",
    "companion_of",
    "keep_config",
    "require_one_of",
    "require_whole",
]

_ATTRIBUTE = "_nvae_tf_companion"
# Of seeds, as the commands have it.
_HIGHEST = 2**31 - 1


class Companion:
    """Draws from a model, infers and evaluates; its graphs are built once.

    Args:
      model: to go with.
      config: of its run.
      info: what is known of its weights.

    Attributes:
      config: of the run that the model was loaded from; otherwise one that
        knows the model and nothing of its images.
      illustrator: of the model.
      inference: likewise.
      evaluator: likewise.
      info: what is known of the weights, see `model_card.describe`.
    """

    def __init__(
        self,
        model: NVAE,
        config: Config,
        info: Mapping[str, Any] | None = None,
    ):
        self.config = config
        self.info = dict(info or {})
        self.illustrator = Illustrator(model)
        self.inference = Inference(model)
        self.evaluator = Evaluator(model)

    def stream(
        self,
        images: npt.ArrayLike,
        seed: int,
        batch_size: int,
        labels: npt.ArrayLike | None = None,
    ) -> Iterator[image_input.ImageBatch]:
        """Images as the model sees them, batch by batch.

        Args:
          images: see `in_memory.source_of`.
          seed: of binarisation.
          batch_size: at most so many at once.
          labels: see `nvae_tf.sampling.classes`.

        Raises:
          UserError: if the images or labels do not fit the model.
        """
        require_whole("seed", seed, 0)
        require_whole("batch_size", batch_size, 1)
        source: Source = in_memory.source_of(images, self.config.model)
        classes = as_labels(labels, self.config.model, len(source), UserError)
        if classes is not None:
            source = LabelledSource(source, classes)
        # Nothing to wait for, and nothing that could be damaged.
        data = dataclasses.replace(
            self.config.data, num_workers=0, skip_corrupt=False
        )
        return image_input.stream(
            source,
            dataclasses.replace(self.config, data=data),
            min(batch_size, len(source)),
            seed,
        )


def companion_of(model: NVAE) -> Companion:
    """The companion of a model.

    Raises:
      UserError: if it is no model.
    """
    if not isinstance(model, NVAE):
        raise UserError(
            f"The model is a {type(model).__name__}, not an nvae_tf.NVAE; "
            "nvae_tf.load(path) gives one."
        )
    if not hasattr(model, _ATTRIBUTE):
        keep_config(model, _default_config(model))
    return getattr(model, _ATTRIBUTE)


def keep_config(
    model: NVAE, config: Config, info: Mapping[str, Any] | None = None
) -> None:
    """Remembers the run that a model is of.

    Args:
      model: that was loaded.
      config: of its run.
      info: what is known of its weights.
    """
    # With the model: it refers to the model, so a table of weak references
    # would keep both for ever.
    setattr(model, _ATTRIBUTE, Companion(model, config, info))


def _default_config(model: NVAE) -> Config:
    """What can be known of a run from its model alone."""
    policy = model.dtype_policy.name
    return Config(
        model=model.config,
        # The folder stays to be named.
        data=DataConfig(
            source="image_folder",
            resize="crop",
            binarize=model.config.likelihood == "bernoulli",
            labels=bool(model.config.num_classes),
        ),
        precision=policy if policy in PRECISIONS else "float32",
        recompute=model.recompute,
    )


def require_whole(name: str, value: int, lowest: int) -> None:
    """Raises UserError unless an argument is a whole number, not too low."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not lowest <= number <= _HIGHEST:
        raise UserError(
            f"{name} is {value!r}; it must be a whole number from {lowest} to "
            f"{_HIGHEST}."
        )


def require_one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises UserError unless an argument is one of its choices."""
    if value not in choices:
        raise UserError(
            f"{name} is {value!r}; it must be one of {', '.join(choices)}."
        )
