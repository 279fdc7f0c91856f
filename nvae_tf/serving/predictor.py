"""What all ways to reach a served model have in common; no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from nvae_tf.core.errors import ClientError

__all__ = ["MergedBatchError", "Place", "Predictor", "refusal"]

# What TensorFlow Serving says to every request of a batch in which one has
# another shape, whoever sent it; MergeInputTensors in
# https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/batching_session.cc
_DID_NOT_MERGE = "from different tasks have different shapes"


class MergedBatchError(ClientError):
    """A request that failed with the batch that it was merged into."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Which model of a server is meant.

    Attributes:
      model: the name it is served under.
      version: its number; None for the latest.
      label: in its place the name that the server's configuration gives a
        version, such as "stable".

    Raises:
      ClientError: if a version has a number and a label.
    """

    model: str = "nvae"
    version: int | None = None
    label: str = ""

    def __post_init__(self):
        """Checks it."""
        if self.version is not None and self.label:
            raise ClientError(
                f"Name the version {self.version} or the label "
                f"{self.label!r}, one of them."
            )


class Predictor(Protocol):
    """A served model, however it is reached."""

    def signatures(self) -> dict[str, dict[str, dict[str, tuple]]]:
        """Signature -> "inputs" or "outputs" -> name -> (dtype, shape)."""

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs a signature; arrays by name.

        Args:
          signature: its name.
          inputs: arrays by name, of the signature's dtypes.
          outputs: names of those that are wanted; None for all.
        """

    def close(self) -> None:
        """Closes the connection."""


def refusal(server: str, reason: str) -> ClientError:
    """The error for a request that a server has refused.

    Args:
      server: where it is.
      reason: what it said, in one line.
    """
    if _DID_NOT_MERGE in reason:
        return MergedBatchError(
            f"{server} merged the request with one of another shape, and "
            f"refused both {reason}; was the model exchanged meanwhile?"
        )
    return ClientError(f"{server} refused the request {reason}")
