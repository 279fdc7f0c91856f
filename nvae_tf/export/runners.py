"""Running what was exported: the same calls for every format."""

import pathlib
import typing
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from nvae_tf.core.errors import ExportError
from nvae_tf.export.parity import Reference, difference, tolerances

__all__ = ["Runner", "SavedModelRunner", "check"]


class Runner(typing.Protocol):
    """An export that has been loaded.

    Attributes:
      names: of its signatures or graphs.
    """

    names: list[str]

    def inputs(self, name: str) -> dict[str, tuple]:
        """Input name -> (dtype's name, shape; None for open axes)."""

    def outputs(self, name: str) -> dict[str, tuple]:
        """Output name -> (dtype's name, shape)."""

    def run(self, name: str, inputs: Mapping) -> dict[str, np.ndarray]:
        """Runs a signature on arrays; output name -> array."""


class SavedModelRunner:
    """A SavedModel in this process.

    Args:
      path: the version's folder.

    Raises:
      ExportError: if it cannot be loaded.
    """

    def __init__(self, path: pathlib.Path | str):
        # TensorFlow begins with it on, where there may be no model of ours.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            # Kept: with it go the variables of the signatures.
            self._loaded = tf.saved_model.load(str(path))
            self._signatures = self._loaded.signatures
        except Exception as error:
            raise ExportError(
                f"{path} is not a SavedModel that loads: {_brief(error)}"
            ) from error
        self.names = sorted(set(self._signatures) - {"serving_default"})

    def inputs(self, name):
        """See `Runner`."""
        return _specs(self._signatures[name].structured_input_signature[1])

    def outputs(self, name):
        """See `Runner`."""
        return _specs(self._signatures[name].structured_outputs)

    def run(self, name, inputs):
        """See `Runner`."""
        outputs = self._signatures[name](
            **{
                key: tf.constant(inputs[key], dtype)
                for key, (dtype, _) in self.inputs(name).items()
            }
        )
        return {key: value.numpy() for key, value in outputs.items()}


def check(
    runner: Runner, reference: Reference, precision: str = "float32"
) -> dict[str, float]:
    """Compares all that an export does with the live model.

    Args:
      runner: the export.
      reference: the live model.
      precision: of the export, "float32" or "float16".

    Returns:
      The difference per signature.

    Raises:
      ExportError: if one exceeds the tolerance.
    """
    tolerance, ties = tolerances(precision)
    results = {}
    for name in runner.names:
        inputs, expected = reference.ask(name)
        taken = {key: inputs[key] for key in runner.inputs(name)}
        results[name] = difference(runner.run(name, taken), expected, ties)
        if not results[name] <= tolerance:
            raise ExportError(
                f"The exported {name!r} differs from the live model by "
                f"{results[name]:.2g}, more than {tolerance:g}."
            )
    return results


def _specs(specs: Mapping) -> dict[str, tuple]:
    def natural(item):
        prefix, _, number = item[0].rpartition("_")
        is_numbered = number.isdigit()
        return (prefix, int(number)) if is_numbered else (item[0], -1)

    return {
        name: (
            spec.dtype.name,
            None if spec.shape.rank is None else spec.shape.as_list(),
        )
        for name, spec in sorted(specs.items(), key=natural)
    }


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
