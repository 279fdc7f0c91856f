"""Tells what an export is, and whether it works.

    nvae verify models/nvae [--workdir=runs/mnist]

Takes a SavedModel, the folder of a served model (its latest version), an
`.onnx` file or the folder of a StableHLO or LiteRT export, and runs every
signature: outputs must be finite and a row's must not depend on the other rows.
With the workdir that it was exported from, they must also agree with the live
model.
Exit status: 0, 1 if a check failed, 2 if there is nothing to check.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nvae_tf.core.errors import ExportError, UserError, one_line
from nvae_tf.core.json_files import parse_json, read_json
from nvae_tf.core.reading import shown
from nvae_tf.export.folder import runner as folder_runner
from nvae_tf.export.folder.runner import FolderRunner
from nvae_tf.export.litert.runner import LiteRtRunner
from nvae_tf.export.onnx_runner import OnnxRunner
from nvae_tf.export.parity import Reference, difference, tolerances
from nvae_tf.export.runners import Runner, SavedModelRunner
from nvae_tf.export.served import row_status
from nvae_tf.export.serving_files import versions
from nvae_tf.export.source import Source
from nvae_tf.export.stablehlo.runner import StableHloRunner
from nvae_tf.export.warmup import example_inputs

__all__ = [
    "Export",
    "Result",
    "open_export",
    "read_facts",
    "report",
    "verify",
]

_LARGEST_SIDE = 8192
# Of `Source.options`, which `load_source` takes: the kinds of their values.
_OPTIONS = {
    "checkpoint": (str,),
    "ema": (bool,),
    "readjust_temperature": (int, float),
    "readjust_seed": (int,),
}


@dataclasses.dataclass(frozen=True)
class Export:
    """An export that has been loaded.

    Attributes:
      path: of the SavedModel or the sampler's file.
      runner: runs it.
      facts: what is known of it; see `nvae_tf.export.model_card.describe`.
      kind: "SavedModel", "ONNX", "StableHLO" or "LiteRT".
      fixed_batch: rows that it takes; 0 for any number.
    """

    path: pathlib.Path
    runner: Runner
    facts: Mapping[str, Any]
    kind: str
    fixed_batch: int = 0


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of running a signature.

    Attributes:
      name: of the signature.
      rows: of the batch that was timed.
      milliseconds: per batch, after the first.
      problem: one sentence; empty if all is well.
      difference: from the live model, or None.
    """

    name: str
    rows: int
    milliseconds: float
    problem: str
    difference: float | None = None


def open_export(path) -> Export:
    """Loads an export.

    Args:
      path: of a SavedModel, of a served model's folder, of an ONNX file or of
        a StableHLO or LiteRT export.

    Raises:
      ExportError: if it is none of these, or cannot be loaded.
    """
    path = pathlib.Path(path)
    if path.is_file():
        runner = OnnxRunner(path, full_check=True)
        facts = read_facts(
            path, lambda: parse_json(runner.metadata.get("nvae_facts", ""))
        )
        return Export(path, runner, facts, "ONNX", runner.fixed_batch)
    if folder_runner.is_export(path):
        graphs = _open_folder(path)
        facts = read_facts(path, lambda: graphs.facts)
        return Export(path, graphs, facts, graphs.FORMAT, graphs.fixed_batch)
    if not (path / "saved_model.pb").exists() and versions(path):
        path = path / str(versions(path)[-1])
    if not (path / "saved_model.pb").exists():
        raise ExportError(
            f"{path} is neither a SavedModel, nor a folder with versions of "
            "one, nor an ONNX file, nor a StableHLO or LiteRT export."
        )
    facts = read_facts(path, lambda: read_json(path / "metadata.json"))
    return Export(path, SavedModelRunner(path), facts, "SavedModel")


def _open_folder(path: pathlib.Path) -> FolderRunner:
    runners = {r.FORMAT: r for r in (LiteRtRunner, StableHloRunner)}
    name = folder_runner.format_of(path)
    if name not in runners:
        raise ExportError(
            f"{path} has graphs of a format {shown(name)}; known are "
            f"{' and '.join(runners)}."
        )
    return runners[name](path)


def read_facts(
    path: pathlib.Path, read: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What an export says of itself, of the kinds that are needed here.

    Raises:
      ExportError: if it says something else, or nothing.
    """
    try:
        facts = read()
        _check_facts(facts)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{path} does not tell what it is ({one_line(error, 200)}): it is "
            "not an export of nvae_tf, or has been damaged."
        ) from error
    return facts


def _check_facts(facts: Mapping[str, Any]) -> None:
    """Raises ValueError for what `model_card.describe` has not made."""
    shape = facts.get("image_shape")
    config = facts.get("config")
    options = facts.get("source_options")
    checks = {
        **{
            name: isinstance(facts.get(name), str)
            for name in ("name", "weights", "batch_norm")
        },
        "step": isinstance(facts.get("step", ""), int | None),
        "precision": facts.get("precision") in ("float32", "float16"),
        "temperature": isinstance(facts.get("temperature"), int | float),
        "image_shape": isinstance(shape, list)
        and len(shape) == 3
        and all(type(n) is int and 0 < n <= _LARGEST_SIDE for n in shape),
        "config": isinstance(config, dict)
        and isinstance(config.get("model"), dict),
        "source_options": isinstance(options, dict)
        and all(
            type(value) in _OPTIONS.get(name, ())
            for name, value in options.items()
        ),
    }
    wrong = [name for name, is_right in checks.items() if not is_right]
    if wrong:
        raise ValueError(f"it has no {wrong[0]} that nvae export writes")


def verify(export: Export, source: Source | None = None) -> list[Result]:
    """Runs every signature.

    Args:
      export: what to check.
      source: the model that it was made from, to compare with.

    Returns:
      A result per signature.

    Raises:
      ExportError: if the export is of another architecture than the source.
    """
    reference = None
    if source is not None:
        model = source.config.model.to_dict()
        if json.loads(json.dumps(model)) != export.facts["config"]["model"]:
            raise ExportError(
                f"{export.path} is not an export of this model: their "
                "architectures differ."
            )
        seeds = range(export.fixed_batch or 2)
        reference = Reference(source, seeds, export.facts["temperature"])
    return [_verify(export, name, reference) for name in export.runner.names]


def _verify(export: Export, name: str, reference: Reference | None) -> Result:
    tolerance, ties = tolerances(export.facts["precision"])
    rows = export.fixed_batch or 3
    run, specs = export.runner.run, export.runner.inputs(name)
    problem, seconds, distance = "", 0.0, None
    try:
        inputs = example_inputs(specs, rows, export.facts["image_shape"])
        outputs = run(name, inputs)
        start = time.perf_counter()
        again = run(name, inputs)
        seconds = time.perf_counter() - start
        if not all(map(_is_finite, outputs.values())):
            problem = "An output is not finite."
        elif not all(np.array_equal(outputs[k], again[k]) for k in outputs):
            problem = "The same inputs gave another output."
        elif not export.fixed_batch:
            last = run(name, {k: v[-1:] for k, v in inputs.items()})
            in_batch = {k: v[-1:] for k, v in outputs.items()}
            if not difference(last, in_batch, ties) <= tolerance:
                problem = "A row depends on the rows around it."
            elif row_status.OUTPUT in outputs:
                problem = _check_status(run, name, inputs, outputs)
        if reference is not None:
            asked, expected = reference.ask(name)
            answer = run(name, {key: asked[key] for key in specs})
            distance = difference(answer, expected, ties)
            if not distance <= tolerance:
                problem = f"Differs from the live model ({distance:.1e})."
    except UserError:
        raise
    except Exception as error:
        # Whatever a runtime raises is the result of this check.
        problem = f"Failed: {one_line(str(error) or repr(error), 200)}"
    return Result(name, rows, 1000 * seconds, problem, distance)


def _check_status(run, name, inputs, outputs) -> str:
    """What is wrong with how rows are refused; empty if nothing is."""
    served = row_status.RowStatus.SERVED
    if np.any(outputs[row_status.OUTPUT] != served):
        return "A row that is in order was not served."
    for key in ("temperature", "label"):
        if key not in inputs:
            continue
        values = inputs[key].copy()
        values[1] = -1
        mixed = run(name, {**inputs, key: values})
        if mixed[row_status.OUTPUT][1] == served:
            return "A row that makes no sense was served."
        if not all(
            np.array_equal(mixed[k][::2], v[::2]) for k, v in outputs.items()
        ):
            return "A row that was not served changed another."
    return ""


def _is_finite(value: np.ndarray) -> bool:
    return value.dtype.kind != "f" or bool(np.all(np.isfinite(value)))


def report(export: Export, results: Sequence[Result]) -> str:
    """The results as lines a person reads."""
    facts = export.facts
    step = "an unknown step" if facts["step"] is None else f"{facts['step']}"
    lines = [
        f"{export.path}: {export.kind} of {shown(facts['name'])}, step {step}, "
        f"{facts['precision']}, for temperature {facts['temperature']:g}",
        f"weights {shown(facts['weights'])}; batch normalisation by "
        f"{shown(facts['batch_norm'], 200)}",
        "",
        f"{'signature':14}{'rows':>5}{'ms':>9}{'difference':>12}  result",
    ]
    for result in results:
        distance = result.difference
        text = "-" if distance is None else f"{distance:.1e}"
        lines.append(
            f"{shown(result.name):14}{result.rows:5}{result.milliseconds:9.1f}"
            f"{text:>12}  {result.problem or 'ok'}"
        )
    return "\n".join(lines)
