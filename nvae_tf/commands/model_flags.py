"""The flags that say which weights: of a run, or a pretrained model.

Each class defines its flags when it is made, as flags of the module that makes
it.  Nothing heavy is imported before the flags are used.
"""

from __future__ import annotations

import dataclasses
import pathlib

from absl import flags

from nvae_tf.commands import values
from nvae_tf.config import PRECISIONS
from nvae_tf.core.errors import UserError

__all__ = ["ModelFlags", "RunFlags"]

# `--help` of a command shows its own flags: these are to count as such.
flags.disclaim_key_flags()


class RunFlags:
    """`--workdir`, `--checkpoint` and `--ema`, and `--precision`.

    Args:
      with_precision: whether the command computes with the model.
    """

    def __init__(self, *, with_precision: bool = True):
        """Defines the flags."""
        self._precision = (
            flags.DEFINE_enum(
                "precision",
                "float32",
                PRECISIONS,
                "To compute in, whatever the run trained in.",
            )
            if with_precision
            else None
        )
        self._workdir = flags.DEFINE_string("workdir", "", "Folder of the run.")
        self._checkpoint = flags.DEFINE_string(
            "checkpoint",
            "latest",
            "Latest, best (by held-out NELBO) or a step.",
        )
        self._ema = flags.DEFINE_bool(
            "ema",
            None,
            "Use the running average of the weights, or with --noema the "
            "weights of the step alone. By default the average, where the run "
            "keeps one.",
        )

    @property
    def workdir(self) -> str:
        """The run's folder."""
        return self._workdir.value

    @property
    def checkpoint(self) -> str:
        """Which checkpoint: latest, best or a step."""
        return self._checkpoint.value

    @property
    def ema(self) -> bool | None:
        """Whether the average is wanted; None for it where there is one."""
        return self._ema.value

    @property
    def precision(self) -> str:
        """What the command computes in."""
        return "float32" if self._precision is None else self._precision.value

    def read_config(self):
        """The configuration of the run, read without TensorFlow.

        Raises:
          UserError: if there is no run.
        """
        from nvae_tf.runs import run_config

        values.require_workdir(self.workdir)
        return run_config.read_config(pathlib.Path(self.workdir))

    def load(self):
        """`(model, config, info)`, see `workdir.load_model`.

        The model computes in `precision`.  Says which weights they are:
        `info["ema"]`.

        Raises:
          UserError: if there is no run, or no intact checkpoint.
        """
        from nvae_tf.runs import workdir

        model, config, info = workdir.load_model(
            self.workdir, ema=self.ema, checkpoint=self._checkpoint.value
        )
        model.compute_in(self.precision)
        self.tell(info)
        return model, config, info

    def tell(self, info) -> None:
        """Prints which weights are used.

        Args:
          info: what `load_model` knows of them.
        """
        weights = "Averaged weights" if info["ema"] else "Weights"
        print(f"{weights} of step {info['step']} in {self.workdir}")


class ModelFlags(RunFlags):
    """Those of a run, or `--model`.

    Args:
      with_precision: see `RunFlags`.
    """

    def __init__(self, *, with_precision: bool = True):
        """Defines the flags."""
        super().__init__(with_precision=with_precision)
        self._model = flags.DEFINE_string(
            "model",
            "",
            "In place of a run, a pretrained model: a name of nvae models, a "
            "folder, or hf://user/repo.",
        )
        self._data_path = flags.DEFINE_string(
            "data_path",
            "",
            "Where the images lie now that its configuration names.",
        )

    @property
    def model(self) -> str:
        """The pretrained model; empty where a run is meant."""
        return self._model.value

    @property
    def folder(self) -> pathlib.Path | None:
        """Where results of a run are kept, a path; None for a model of none.

        Raises:
          UserError: see `require_one`.
        """
        self.require_one()
        return None if self.model else pathlib.Path(self.workdir)

    def require_one(self) -> None:
        """Refuses flags that name no weights, or twice.

        Raises:
          UserError: if not exactly one of `--workdir` and `--model` is given,
            or flags of a run come with the latter.
        """
        if bool(self.workdir) == bool(self.model):
            raise UserError(
                "Name a folder with --workdir=DIR, or a pretrained model with "
                f"--model=NAME{': one of them' if self.model else ''}."
            )
        for flag in (self._checkpoint, self._ema):
            if self.model and flag.present:
                raise UserError(
                    f"--{flag.name} chooses among the weights of a run; "
                    f"--model={self.model} has one set of them. Leave it out."
                )

    def read_config(self):
        """The configuration, as `load` gives it, read without TensorFlow.

        Raises:
          UserError: if there is none.
        """
        from nvae_tf.runs import model_places, pretrained_folder

        self.require_one()
        if not self.model:
            return self._at_home(super().read_config())
        folder = model_places.locate(self.model)
        return self._at_home(pretrained_folder.describe(folder).config)

    def load(self):
        """`(model, config, info)`, of a run or a pretrained model.

        The model computes in `precision`.  Says which weights they are:
        `info["ema"]`.

        Raises:
          UserError: if there is none, or it is damaged.
        """
        self.require_one()
        if not self.model:
            model, config, info = super().load()
        else:
            from nvae_tf.runs import pretrained

            model, config, info = pretrained.load(self.model)
            model.compute_in(self.precision)
            self.tell(info)
        return model, self._at_home(config), info

    def tell(self, info) -> None:
        """Prints which weights are used."""
        if not self.model:
            super().tell(info)
        else:
            print(f"Weights of {self.model}")

    def _at_home(self, config):
        """The configuration with the data where `--data_path` says."""
        path = self._data_path.value
        if not path:
            return config
        if config.data.source in ("mnist_5k", "tfds"):
            raise UserError(
                f"--data_path={path}, but the images are those of "
                f"{config.data.source}, which lie in no file of yours. Leave "
                "it out."
            )
        return dataclasses.replace(
            config, data=dataclasses.replace(config.data, path=path)
        )
