"""Whether an exported page is what was written, and its model works."""

from __future__ import annotations

import pathlib

from nvae_tf.core.errors import ExportError
from nvae_tf.core.json_files import parse_json
from nvae_tf.export.onnx_runner import OnnxRunner
from nvae_tf.export.verify import Export, read_facts
from nvae_tf.web import manifest

__all__ = ["open_site"]


def open_site(folder: pathlib.Path) -> Export:
    """Checks a page's files and loads its model.

    Args:
      folder: that `nvae_tf.web.export.export_web` wrote.

    Returns:
      The model, for `nvae_tf.export.verify.verify`.

    Raises:
      ExportError: if a file is missing or was changed, or a graph cannot be
        loaded.
    """
    content = manifest.read(folder)
    problems = manifest.problems(folder, content)
    if problems:
        more = len(problems) - 1
        others = f" ({more} more like this.)" if more else ""
        raise ExportError(
            f"{folder} is not what was exported: {problems[0]}{others} Export "
            "it again."
        )
    runner = OnnxRunner(
        folder / content["graphs"]["sample"]["path"], full_check=True
    )
    facts = read_facts(
        folder, lambda: parse_json(runner.metadata.get("nvae_facts", ""))
    )
    return Export(folder, runner, facts, "web page", runner.fixed_batch)
