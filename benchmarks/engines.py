r"""Sampling by every engine that takes an export, beside the SavedModel.

    python -m benchmarks.engines --case=small --batch_size=32 \
        --node=node_modules/onnxruntime-node \
        --web=node_modules/onnxruntime-web

Noise is given: it is the engines that are measured.  Each has a process of its
own, one after the other and all of them several times, so that what else the
machine does meets all; a rate is the median of those.  Engines that are not
installed are named as such.
"""

import importlib.metadata
import json
import pathlib
import statistics
import subprocess
import tempfile

from absl import flags

from benchmarks import cases, results, sampling
from benchmarks.processes import measured

__all__ = ["ENGINES", "draw", "export", "run"]

_BASE = "SavedModel"


def run(
    store: results.Results,
    case: str,
    batch_size: int,
    seconds: float,
    rounds: int,
    packages: dict[str, str],
) -> None:
    """Exports a case, measures all engines, and prints and keeps the results.

    Args:
      store: where to keep them; names are "CASE ENGINE".
      case: its name.
      batch_size: images at once.
      seconds: how long to measure each engine in a round.
      rounds: how often.
      packages: folders of npm's packages by engine.
    """
    case = cases.case(case).name
    found: dict[str, list[dict]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("SavedModel and ONNX", "StableHLO", "LiteRT"):
            result = measured(
                "benchmarks.engines:export",
                name=case,
                kind=kind,
                folder=folder,
                batch_size=batch_size,
            )
            if "error" in result:
                print(f"{kind}: {result['error']}", flush=True)
        for number in range(rounds):
            for engine in ENGINES:
                result = measured(
                    "benchmarks.engines:draw",
                    name=case,
                    engine=engine,
                    folder=folder,
                    batch_size=batch_size,
                    seconds=seconds,
                    package=packages.get(engine, ""),
                )
                found[engine].append(result)
                print(number, engine, result, flush=True)
    rows = []
    base = _rate(found[_BASE])
    for engine, measurements in found.items():
        rate = _rate(measurements)
        last = measurements[-1]
        if rate is None or base is None:
            rows.append([engine, last.get("version", ""), last.get("error")])
            continue
        result = {**last, "images_per_second": rate, "over_base": rate / base}
        store.add("engines", f"{case} {engine}", result)
        rows.append([engine, last["version"], f"{rate / base:.2f}"])
    print(results.table(["engine", "version", f"over {_BASE}'s"], rows))


def _rate(measurements) -> float | None:
    """Images per second; None if a measurement failed."""
    if any("error" in result for result in measurements):
        return None
    return statistics.median(r["images_per_second"] for r in measurements)


def export(
    name: str, kind: str, folder: str, batch_size: int, *, started: float
) -> dict:
    """Writes exports of an untrained case.

    Args:
      name: of the case.
      kind: "SavedModel and ONNX", "StableHLO" or "LiteRT".
      folder: where to.
      batch_size: rows of graphs that take no others.
      started: when the process was.
    """
    path = pathlib.Path(folder)
    if kind == "SavedModel and ONNX":
        return sampling.export(name, folder, started=started)
    from nvae_tf.export.litert.export import export_litert
    from nvae_tf.export.stablehlo.export import export_stablehlo

    write = {"StableHLO": export_stablehlo, "LiteRT": export_litert}[kind]
    write(sampling.untrained(name), path / kind, batch_size, graphs=["sample"])
    return {}


def draw(
    name: str,
    engine: str,
    folder: str,
    batch_size: int,
    seconds: float,
    package: str = "",
    *,
    started: float,
) -> dict:
    """Draws batches with one engine.

    Args:
      name: of the case.
      engine: one of `ENGINES`.
      folder: where `export` wrote.
      batch_size: images at once.
      seconds: how long.
      package: of an engine of npm's, its folder.
      started: when the process was.
    """
    del started
    path = pathlib.Path(folder)
    version, measure = ENGINES[engine]
    usual = measure(name, path, batch_size, seconds, package)
    return {
        "batch_size": batch_size,
        "version": version(package),
        "images_per_second": batch_size / usual,
    }


def _of(package: str):
    return lambda _: importlib.metadata.version(package)


def _version_of_npm(package: str) -> str:
    return json.loads((pathlib.Path(package) / "package.json").read_bytes())[
        "version"
    ]


def _measure_saved_model(name, path, batch_size, seconds, _):
    draw_batch = sampling.open_saved_model(name, path, batch_size, True)
    return _median(draw_batch, seconds)


def _measure_onnx(name, path, batch_size, seconds, _):
    draw_batch = sampling.open_onnx(name, path, batch_size, True)
    return _median(draw_batch, seconds)


def _measure_openvino(name, path, batch_size, seconds, _):
    import openvino

    del name
    core = openvino.Core()
    model = core.compile_model(
        core.read_model(path / sampling.ONNX),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    feed = _feed(path, batch_size)
    return _median(lambda _: model(feed)["images"], seconds)


def _measure_jax(name, path, batch_size, seconds, _):
    from nvae_tf.export.stablehlo.program import Graphs

    del name
    return _measure_folder(Graphs(path / "StableHLO"), batch_size, seconds)


def _measure_litert(name, path, batch_size, seconds, _):
    from nvae_tf.export.litert.program import Graphs

    del name
    return _measure_folder(Graphs(path / "LiteRT"), batch_size, seconds)


def _measure_folder(graphs, batch_size, seconds):
    import numpy as np

    feed = graphs.draw_noise("sample", range(batch_size))
    feed["temperature"] = np.full(
        [batch_size, graphs.num_groups], sampling.TEMPERATURE, np.float32
    )
    return _median(lambda _: graphs.run("sample", feed)["images"], seconds)


def _measure_in_node(script: str):
    def measure(name, path, batch_size, seconds, package):
        del name
        if not package:
            raise ValueError("needs npm's package; see the flags")
        shapes = {key: v.shape for key, v in _feed(path, batch_size).items()}
        done = subprocess.run(
            [
                "node",
                str(pathlib.Path(__file__).with_suffix(".mjs")),
                str(pathlib.Path(package, script).absolute()),
                str(path / sampling.ONNX),
                json.dumps(shapes),
                str(seconds),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(done.stderr.strip().splitlines()[-1])
        return float(done.stdout)

    return measure


def _feed(path, batch_size):
    """Noise and temperatures for the ONNX file."""
    import numpy as np

    from nvae_tf.export.onnx_sampler import Sampler

    sampler = Sampler(path / sampling.ONNX)
    return {
        **sampler.draw_noise(range(batch_size)),
        "temperature": np.full(
            [batch_size, sampler.num_groups], sampling.TEMPERATURE, np.float32
        ),
    }


def _median(draw_batch, seconds):
    draw_batch(0)
    return sampling.median_seconds(draw_batch, seconds)


# Engine -> its version, and the seconds of a batch.
ENGINES = {
    _BASE: (_of("tensorflow"), _measure_saved_model),
    "ONNX Runtime": (_of("onnxruntime"), _measure_onnx),
    "ONNX Runtime for Node": (
        _version_of_npm,
        _measure_in_node("dist/index.js"),
    ),
    "ONNX Runtime Web": (
        _version_of_npm,
        _measure_in_node("dist/ort.wasm.min.mjs"),
    ),
    "JAX": (_of("jax"), _measure_jax),
    "OpenVINO": (_of("openvino"), _measure_openvino),
    "LiteRT": (_of("ai-edge-litert"), _measure_litert),
}


def _main(_) -> None:
    values = flags.FLAGS
    run(
        results.from_flags(),
        values.case,
        values.batch_size,
        values.seconds,
        values.rounds,
        {
            "ONNX Runtime for Node": values.node,
            "ONNX Runtime Web": values.web,
        },
    )


if __name__ == "__main__":
    from nvae_tf.commands import command_line

    flags.DEFINE_string("case", "small", "What to measure.")
    flags.DEFINE_integer("batch_size", 32, "Images at once.", lower_bound=1)
    flags.DEFINE_float("seconds", 4.0, "How long to measure each in a round.")
    flags.DEFINE_integer("rounds", 3, "How often.", lower_bound=1)
    flags.DEFINE_string("node", "", "Folder of npm's onnxruntime-node.")
    flags.DEFINE_string("web", "", "Folder of npm's onnxruntime-web.")
    results.define_folder()
    command_line.run(_main)
