"""The flags that say how to draw from the prior.

The class defines its flags when it is made, as flags of the module that makes
it.  Nothing heavy is imported before the flags are used.
"""

from __future__ import annotations

import functools

from absl import flags

from nvae_tf.commands.flags import define_readjust_bn
from nvae_tf.commands.model_flags import ModelFlags
from nvae_tf.core.errors import UserError

__all__ = ["DrawFlags"]

# `--help` of a command shows its own flags: these are to count as such.
flags.disclaim_key_flags()


class DrawFlags:
    """`--temperature` and its kin: how to draw from the prior.

    Args:
      model_flags: whose model is drawn from.
      default: temperature.
      note: why that, for the help.
    """

    def __init__(
        self, model_flags: ModelFlags, default: str = "0.7", note: str = ""
    ):
        """Defines the flags."""
        self._model_flags = model_flags
        self._temperature = flags.DEFINE_list(
            "temperature",
            default,
            "Multiplies the prior's sigma: one number, or one per latent "
            "group, top-down, as in 1,0.9,0.8. "
            + (
                note
                or "The paper shows 0.5 to 0.7 for colour images and 1 for "
                "likelihood."
            ),
        )
        self._scale_temperature = flags.DEFINE_list(
            "scale_temperature",
            "",
            "In place of --temperature, one number per scale, coarsest first, "
            "as in 1.0,0.8,0.6.",
        )
        self._readjust = define_readjust_bn()

    @property
    def readjusts(self) -> bool:
        """Whether normalisation is re-adjusted."""
        return self._readjust.value

    def require_unused(self) -> None:
        """Refuses the flags where nothing is drawn from the prior.

        Raises:
          UserError: if one of them was given.
        """
        drawing = self._temperature, self._scale_temperature, self._readjust
        for flag in drawing:
            if flag.present:
                raise UserError(
                    f"--{flag.name} is for draws from the prior; leave it out "
                    "where other flags name images."
                )

    def read(self, config):
        """The temperature; TensorFlow is not needed.

        Args:
          config: of the model.

        Returns:
          A number, or float32 `[L]`.

        Raises:
          UserError: if it does not fit the model, or is given twice.
        """
        from nvae_tf.sampling.temperatures import parse_temperatures

        if self._temperature.present and self._scale_temperature.value:
            raise UserError(
                "--scale_temperature takes the place of --temperature: give "
                "one of them."
            )
        return parse_temperatures(
            config, self._temperature.value, self._scale_temperature.value
        )

    def prepare(self, model, info):
        """Reads the temperature and re-adjusts the model if asked to.

        Args:
          model: of `ModelFlags.load`.
          info: likewise.

        Returns:
          The temperature: a number, or float32 `[L]`.

        Raises:
          UserError: if the temperature does not fit the model, or the model
            does not bear it.
        """
        from nvae_tf.core.progress import progress
        from nvae_tf.sampling import readjust

        temperature = self.read(model.config)
        if self.readjusts:
            readjust.readjust_cached(
                model,
                self._model_flags.folder,
                readjust.checkpoint_tag(info["step"], info["ema"]),
                temperature,
                progress=functools.partial(progress, desc="re-adjusting"),
            )
        return temperature
