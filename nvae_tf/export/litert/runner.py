"""Running LiteRT exports; see `nvae_tf.export.runners`."""

import os

from nvae_tf.core.errors import ExportError
from nvae_tf.core.extras import require
from nvae_tf.export.folder.runner import FolderRunner

__all__ = ["LiteRtRunner", "require_packages"]


def require_packages() -> None:
    """Raises ExportError, naming the extra, if what exports need is missing."""
    require("ai_edge_litert", "litert", "A LiteRT export", ExportError)


class LiteRtRunner(FolderRunner):
    """The graphs of a LiteRT export, on the CPU.

    Args:
      path: the export's folder.

    Raises:
      ExportError: if it is none that loads, or needs what is not in it.
    """

    FORMAT = "LiteRT"

    def __init__(self, path: str | os.PathLike):
        require_packages()
        from nvae_tf.export.litert.program import Graphs

        super().__init__(path, Graphs)

    def _look_through(self, name):
        self._graphs.open(name)
