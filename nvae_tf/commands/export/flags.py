"""The flags of the commands that export a model."""

from __future__ import annotations

import functools

from absl import flags

from nvae_tf.commands.flags import (
    define_output,
    define_overwrite,
    define_readjust_bn,
)
from nvae_tf.commands.model_flags import ModelFlags

__all__ = ["FolderFlags", "SourceFlags"]

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

    def require(self) -> None:
        """Refuses, before TensorFlow is loaded, flags that name no model.

        Raises:
          UserError: see `ModelFlags.read_config`.
        """
        self._model.read_config()

    def load(self):
        """The `nvae_tf.export.source.Source` that the flags describe.

        Raises:
          UserError: see `load_source`; if the temperature is none.
        """
        from nvae_tf.core.progress import progress
        from nvae_tf.export.model_card import check_temperature
        from nvae_tf.export.source import load_source

        self._model.require_one()
        check_temperature(self.temperature)
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


class FolderFlags:
    """What a folder of graphs is written from, and how."""

    def __init__(self, output: str, batch: int):
        """Defines the flags.

        Args:
          output: the folder, unless told otherwise.
          batch: the rows, likewise.
        """
        self._source = SourceFlags()
        self._output = define_output(output, "Folder of the export.")
        self._batch = flags.DEFINE_integer(
            "batch",
            batch,
            "Rows that the graphs take.",
            lower_bound=1,
            upper_bound=65_536,
        )
        self._graphs = flags.DEFINE_list(
            "graphs", ["sample", "decode", "encode"], "Which graphs to write."
        )
        self._overwrite = define_overwrite()

    def require(self) -> None:
        """See `SourceFlags.require`."""
        self._source.require()

    def write(self, export) -> None:
        """Writes the folder and says so.

        Args:
          export: `nvae_tf.export.stablehlo.export.export_stablehlo`, or
            another that takes the same.

        Raises:
          UserError: if the source is missing, or it raises it.
        """
        path = export(
            self._source.load(),
            self._output.value,
            self._batch.value,
            graphs=self._graphs.value,
            temperature=self._source.temperature,
            overwrite=self._overwrite.value,
        )
        print(f"Wrote {path}; it agrees with the live model.")
