"""Flags that several commands have, and what they mean.

Each class defines its flags when it is made, as flags of the module that makes
it.  Nothing heavy is imported before the flags are used.
"""

from __future__ import annotations

from absl import flags

from nvae_tf.commands.values import whole_numbers
from nvae_tf.core.errors import UserError

__all__ = [
    "ImageFlags",
    "LabelsFlag",
    "PixelsFlag",
    "define_batch_size",
    "define_importance_samples",
    "define_latents",
    "define_output",
    "define_overwrite",
    "define_readjust_bn",
    "define_resize",
    "define_seed",
    "define_split",
    "define_steps",
]

# `--help` of a command shows its own flags: these are to count as such.
flags.disclaim_key_flags()


class PixelsFlag:
    """`--pixels`: what a draw from the prior shows."""

    def __init__(self):
        """Defines the flag."""
        self._pixels = flags.DEFINE_enum(
            "pixels",
            "auto",
            ["auto", "mean", "sample"],
            "Show the mean image of the likelihood, or draw every pixel from "
            "it; 'auto' takes the mean for binary data and draws otherwise, "
            "as the paper and exported models do.",
        )

    def choose(self, config) -> str:
        """What is shown: "mean" or "sample".

        Args:
          config: of the model.
        """
        from nvae_tf.sampling.illustrator import choose_pixels

        return choose_pixels(config.likelihood, self._pixels.value)


class LabelsFlag:
    """`--labels`: the classes of what a model is to draw or look at."""

    def __init__(self, what: str):
        """Defines the flag.

        Args:
          what: it says, for the help.
        """
        self._labels = flags.DEFINE_list(
            "labels",
            "",
            f"Of a model that is told classes: {what}",
        )

    @property
    def is_given(self) -> bool:
        """Whether there are any."""
        return bool(self._labels.value)

    def read(self, config) -> list[int] | None:
        """The classes; None where the flag is not given.

        Args:
          config: of the model.

        Raises:
          UserError: if they are none of the model's.
        """
        from nvae_tf.sampling.classes import as_labels

        if not self.is_given:
            return None
        if self._labels.value == ["all"]:
            # Of a model without any the first is refused, too.
            labels = list(range(config.num_classes or 1))
        else:
            labels = whole_numbers("labels", self._labels.value)
        try:
            as_labels(labels, config, len(labels), UserError)
        except UserError as error:
            raise UserError(
                f"--labels={','.join(self._labels.value)[:40]}: {error}"
            ) from error
        return labels

    def of_draws(self, config, num: int):
        """The classes of so many draws: these in turn, or all of the model.

        Args:
          config: of the model.
          num: draws.

        Returns:
          int32 `[num]`; None for a model that knows no classes.

        Raises:
          UserError: see `read`.
        """
        from nvae_tf.sampling import classes

        labels = self.read(config)
        if labels is None:
            return classes.in_turn(config, num)
        return classes.cycled(labels, num)


class ImageFlags:
    """`--split`, `--images`, `--indices`, `--num`, `--labels`: which images.

    Args:
      num: images where no flag says how many or which; 0 for all.
      split: default of `--split`.
    """

    def __init__(self, num: int, split: str = "test"):
        """Defines the flags."""
        self._split = define_split(split)
        self._images = flags.DEFINE_list(
            "images",
            "",
            "Your own images in place of the run's: files, folders, or an "
            ".npy, .npz or IDX file.",
        )
        self._resize = define_resize()
        self._indices = flags.DEFINE_list(
            "indices", "", "Numbers of the images to take, from 0, as in 3,17."
        )
        self._default_num = num
        self._num = flags.DEFINE_integer(
            "num",
            None,
            "The first so many of them; 0: all, as also where --images or "
            f"--indices names them. Otherwise {num or 'all'} by default.",
            lower_bound=0,
        )
        self.labels = LabelsFlag(
            "that of all images, 7, or of each, 7,2,1; the run's own are known."
        )

    @property
    def are_given(self) -> bool:
        """Whether `--images` or `--indices` names images."""
        return bool(self._images.value or self._indices.value)

    @property
    def num(self) -> int:
        """How many images are wanted; 0 for all."""
        if self._num.value is not None:
            return self._num.value
        return 0 if self.are_given else self._default_num

    def open(self, config, num: int | None = None, *, labelled: bool = True):
        """Opens the images.

        Args:
          config: of the run.
          num: at most so many, in place of `--num`.
          labelled: whether a model of classes is to be told theirs.

        Returns:
          `(source, config)`: the images, and the configuration to read them
          with.

        Raises:
          UserError: if they cannot be had.
        """
        from nvae_tf.datasets import image_input, pipeline

        if self._images.value:
            config = image_input.fit_own(config, self._resize.value)
            source = image_input.open_images(config, self._images.value)
        else:
            source = pipeline.open_source(config, self._split.value)
        num = (self.num or None) if num is None else num
        indices = whole_numbers("indices", self._indices.value)
        source = image_input.select(source, indices, num)
        if labelled:
            source = self._labelled(source, config.model)
        return source, config

    def _labelled(self, source, model):
        """The images with the classes of `--labels`, where they need any."""
        import numpy as np

        from nvae_tf.datasets.labels import LabelledSource
        from nvae_tf.sampling.classes import as_labels

        labels = self.labels.read(model)
        if labels is None:
            if model.num_classes and not source.num_classes:
                raise UserError(
                    "The model is told the class of every image: say with "
                    f"--labels which of 0 to {model.num_classes - 1} those of "
                    "--images are, one for all or one for each."
                )
            return source
        if len(labels) == 1:
            labels *= len(source)
        labels = as_labels(labels, model, len(source), UserError)
        return LabelledSource(source, np.asarray(labels))


def define_seed(what: str):
    """`--seed`, of `what`."""
    return flags.DEFINE_integer(
        "seed", 0, what, lower_bound=0, upper_bound=2**31 - 1
    )


def define_batch_size(default: int = 64):
    """`--batch_size`, which changes no result but for rounding."""
    return flags.DEFINE_integer(
        "batch_size",
        default,
        "Images at once; decides memory and speed alone.",
        lower_bound=1,
    )


def define_importance_samples(default: int):
    """`--num_importance_samples`."""
    return flags.DEFINE_integer(
        "num_importance_samples",
        default,
        "K, draws per image for the estimate of -log p(x), which falls "
        "towards the truth as K grows.",
        lower_bound=1,
    )


def define_latents():
    """`--latents`, of the posterior."""
    return flags.DEFINE_enum(
        "latents",
        "sample",
        ["sample", "mean"],
        "Draw the latents from the posterior, or take its mean in every group.",
    )


def define_overwrite():
    """`--overwrite`."""
    return flags.DEFINE_bool(
        "overwrite", False, "Replace what --output names, if it is there."
    )


def define_readjust_bn():
    """`--readjust_bn`, for draws from the prior."""
    return flags.DEFINE_bool(
        "readjust_bn",
        False,
        "First let batch normalisation settle on draws at the temperature, as "
        "the paper does for colour images. A workdir keeps the result.",
    )


def define_split(default: str):
    """`--split`, of a run's data."""
    return flags.DEFINE_enum(
        "split",
        default,
        ["train", "validation", "test"],
        "Which images of the run's data.",
    )


def define_steps():
    """`--steps`, of ways through the latents."""
    return flags.DEFINE_integer(
        "steps", 9, "Images on each way, both ends counted.", lower_bound=2
    )


def define_resize():
    """`--resize`, of `--images`."""
    return flags.DEFINE_enum(
        "resize",
        "crop",
        ["crop", "resize", "celeba", "none"],
        "How --images get the model's size: cropped to a square and scaled, "
        "squeezed, as the paper crops CelebA, or not: others are refused.",
    )


def define_output(default: str, what: str):
    """`--output`."""
    return flags.DEFINE_string("output", default, what)
