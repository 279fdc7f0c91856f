"""Running StableHLO exports with JAX; see `nvae_tf.export.runners`."""

import os

from nvae_tf.core.errors import ExportError
from nvae_tf.core.extras import require
from nvae_tf.export.folder.runner import FolderRunner

__all__ = ["StableHloRunner", "require_packages"]


def require_packages() -> None:
    """Raises ExportError, naming the extra, if what exports need is missing."""
    require("jax", "stablehlo", "A StableHLO export", ExportError)


class StableHloRunner(FolderRunner):
    """The graphs of a StableHLO export, in JAX.

    Args:
      path: the export's folder.

    Raises:
      ExportError: if it is none that loads, or calls what is not in it.
    """

    FORMAT = "StableHLO"

    def __init__(self, path: str | os.PathLike):
        require_packages()
        from nvae_tf.export.stablehlo.program import Graphs

        super().__init__(path, Graphs)

    def _look_through(self, name):
        from nvae_tf.export.stablehlo import portable

        # Compiled, it could call anything of this process.
        if portable.foreign_calls(self._graphs.artifact(name)):
            raise ValueError(f"{name} calls what is not in it")
