"""The flags of the commands that export a model."""

from __future__ import annotations

import functools

from absl import flags

from nvae_tf.commands.flags import define_readjust_bn
from nvae_tf.commands.model_flags import ModelFlags

__all__ = ["SourceFlags"]

# `--help` of a command shows its own flags: these are to count as such.
flags.disclaim_key_flags()


class SourceFlags:
    """What is exported: the flags of a model, and how it draws."""

    def __init__(self):
        """Defines the flags."""
        self._model = ModelFlags(with_precision=False)
        self._temperature = flags.DEFINE_float(
            "temperature", 0.7, "The model is meant to be sampled at."
        )
        self._readjust = define_readjust_bn()
        self._readjust_seed = flags.DEFINE_integer(
            "readjust_seed", 0, "Of the draws of --readjust_bn."
        )

    @property
    def temperature(self) -> float:
        """What the model is meant to be sampled at."""
        return self._temperature.value

    @property
    def chosen(self) -> dict[str, object]:
        """All that the flags say, but for the run's folder."""
        return {
            "checkpoint": self._model.checkpoint,
            "ema": self._model.ema,
            "model": self.model,
            "temperature": self.temperature,
            "readjust_bn": self._readjust.value,
            "readjust_seed": self._readjust_seed.value,
        }

    @property
    def model(self) -> str:
        """The pretrained model; empty where a run is meant."""
        return self._model.model

    @property
    def folder(self):
        """The run's folder; None for a pretrained model.

        Raises:
          UserError: if not exactly one of them is named.
        """
        return self._model.folder

    def load(self):
        """The `nvae_tf.export.source.Source` that the flags describe.

        Raises:
          UserError: see `load_source`.
        """
        from nvae_tf.core.progress import progress
        from nvae_tf.export.source import load_source

        self._model.require_one()
        source = load_source(
            self._model.workdir,
            pretrained=self.model,
            checkpoint=self._model.checkpoint,
            ema=self._model.ema,
            readjust_temperature=(
                self.temperature if self._readjust.value else None
            ),
            readjust_seed=self._readjust_seed.value,
            progress=functools.partial(progress, desc="re-adjusting"),
        )
        self._model.tell(source.info)
        return source
