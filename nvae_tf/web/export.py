"""Writes a trained model as a web page: a folder of static files.

    nvae export web --workdir=runs/mnist --output=site

::

    index.html, style.css, icon.svg, js/    the page, as it is in this package
    model/       ONNX files, their card and `onnx_sampler.py`
    runtime/     ONNX Runtime Web and its licence
    _headers     what a host should send, as some hosts read it
    manifest.json
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from nvae_tf.core.errors import ExportError
from nvae_tf.core.files import new_folder, require_replaceable
from nvae_tf.export.model_card import signature_table, write_card
from nvae_tf.export.onnx import export_onnx
from nvae_tf.export.onnx_runner import OnnxRunner, graph_path
from nvae_tf.export.source import Source
from nvae_tf.web import manifest, runtime
from nvae_tf.web.server import HEADERS

__all__ = ["export_web"]

_PAGE = pathlib.Path(__file__).parent / "site"
# What tells Node.js how to read the scripts is not part of the page.
_NOT_SERVED = ("package.json",)
_MODEL = pathlib.PurePath("model", "nvae.onnx")


def export_web(
    source: Source,
    output: str | os.PathLike,
    *,
    runtime_place: str = "",
    webgpu: bool = True,
    temperature: float = 0.7,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes the page.

    Args:
      source: what to export.
      output: the folder.
      runtime_place: where ONNX Runtime Web is, see `runtime.fetch`; empty for
        npm.
      webgpu: also write the engine that runs on GPUs, which a page loads
        where a browser has WebGPU.
      temperature: where the page's sliders begin.
      overwrite: take the place of a web export; never of another folder.
      origin: what the manifest says of where this came from.

    Returns:
      The folder.

    Raises:
      ExportError: if a package or the engine is missing, the folder exists or
        cannot be written, or a graph differs from the live model.
    """
    output = pathlib.Path(output)
    require_replaceable(
        output,
        manifest.is_site,
        "a web export",
        overwrite=overwrite,
        error=ExportError,
    )
    names = ["wasm", "webgpu"] if webgpu else ["wasm"]
    engines = {name: runtime.ENGINES[name] for name in names}
    # First what may fail soonest.
    files = runtime.fetch(
        runtime_place, [f for e in engines.values() for f in e.values()]
    )
    files |= runtime.license_files()
    with new_folder(output, overwrite=overwrite, error=ExportError) as folder:
        (folder / "runtime").mkdir()
        for name, content in files.items():
            (folder / "runtime" / name).write_bytes(content)
        for path, name in _page_files():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
        (folder / "_headers").write_text(_headers())
        runner = _write_model(source, folder / _MODEL, temperature)
        facts = json.loads(runner.metadata["nvae_facts"])
        write_card(folder / "model", facts, signature_table(runner))
        manifest.write(
            folder,
            facts,
            {name: _graph(runner, name) for name in runner.names},
            {
                name: {key: f"runtime/{file}" for key, file in engine.items()}
                for name, engine in engines.items()
            },
            origin or {},
        )
    return output


def _page_files() -> Iterator[tuple[pathlib.Path, str]]:
    """The page's own files: where they are, and their names in an export."""
    for path in sorted(_PAGE.rglob("*")):
        name = path.relative_to(_PAGE).as_posix()
        if path.is_file() and name not in _NOT_SERVED:
            yield path, name


def _write_model(
    source: Source, path: pathlib.Path, temperature: float
) -> OnnxRunner:
    graphs = ["sample", "infer"]
    if source.draw_params is not source.params:
        # Pictures of one's own need the statistics of training.
        graphs.append("from_noise")
    export_onnx(source, path, graphs=graphs, temperature=temperature)
    for name in graphs:
        data = graph_path(path, name)
        if data.with_name(f"{data.name}.data").exists():
            raise ExportError(
                "The model is too large for a browser: its weights take more "
                "than a gigabyte. Use `nvae export onnx` or savedmodel."
            )
    return OnnxRunner(path)


def _graph(runner: OnnxRunner, name: str) -> dict[str, Any]:
    return {
        "path": graph_path(_MODEL, name).as_posix(),
        "noise": runner.noise(name),
    }


def _headers() -> str:
    """For hosts that read a file `_headers`, such as Netlify or Cloudflare."""
    lines = [f"  {name}: {value}" for name, value in HEADERS.items()]
    return "\n".join(["/*", *lines, ""])
