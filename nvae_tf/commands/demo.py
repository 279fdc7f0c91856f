"""The main job from end to end, on real digits that need no download.

    nvae demo
    nvae demo --workdir=runs/quick --demo_config=tiny

Trains the preset `mnist_demo` (minutes on two CPU cores), evaluates, draws,
reconstructs, writes the report, exports to SavedModel and ONNX and samples from
the ONNX file, each with the command that one would type.  Started again, it
goes on where it was.
"""

import json
import os
import pathlib
import shlex
import sys

from absl import flags

from nvae_tf.core import extras
from nvae_tf.core.errors import UserError
from nvae_tf.core.progress import run_command

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Folder of the run.")
_CONFIG = flags.DEFINE_string("demo_config", "mnist_demo", "What to train.")

_EXTRAS = ("report", "onnx", "serving")


def main(argv) -> None:
    """Runs the commands, then says where everything is."""
    del argv
    _require_extras()
    workdir = pathlib.Path(_WORKDIR.value)
    samples, reconstructions, onnx_samples = (
        workdir / f"{name}.png"
        for name in ("samples", "reconstructions", "onnx_samples")
    )
    saved_model, onnx = workdir / "saved_model", workdir / "nvae.onnx"
    run = f"--workdir={workdir}"
    _nvae("train", f"--config={_CONFIG.value}", run)
    _nvae("eval likelihood", run, "--num_importance_samples=20")
    _nvae("sample", run, "--num=64", f"--output={samples}")
    _nvae("reconstruct", run, f"--output={reconstructions}")
    _nvae("report", run)
    _nvae("export savedmodel", run, f"--output={saved_model}")
    _nvae("export onnx", run, f"--output={onnx}", "--overwrite")
    _run(
        "python",
        str(workdir / "onnx_sampler.py"),
        str(onnx),
        "--num=64",
        f"--output={onnx_samples}",
    )
    from nvae_tf.runs.results import number_text

    record = json.loads((workdir / "evaluation.json").read_text())
    print(
        f"\nHeld-out NELBO {number_text(record['nelbo'], '.2f')} nats, "
        f"{number_text(record['bits_per_dim'], '.4f')} bits/dim "
        f"({record['num_images']} images the model never saw)\n"
    )
    for title, path in {
        "Samples": samples,
        "Reconstructions": reconstructions,
        "Samples from ONNX": onnx_samples,
        "SavedModel": saved_model,
        "ONNX": onnx,
        "Report": workdir / "report.html",
        "TensorBoard": workdir / "tensorboard",
        "Numbers": workdir / "evaluation.json",
    }.items():
        print(f"{title + ':':20s}{os.path.relpath(path)}")
    print(f"\nIn the browser: nvae play --workdir={os.path.relpath(workdir)}")


def _require_extras() -> None:
    """Names all extras that are missing, before minutes of training."""
    missing = [extra for extra in _EXTRAS if extras.missing(extra)]
    if missing:
        raise UserError(
            f"The demo also writes a report and exports, which needs the "
            f"extras {', '.join(missing)}: "
            f"{extras.how_to_install(','.join(missing))}."
        )


def _nvae(words: str, *arguments: str) -> None:
    _run("nvae", *words.split(), *arguments)


def _run(program: str, *arguments: str) -> None:
    """Runs a command as it is shown, with this interpreter."""
    print(f"\n$ {program} {shlex.join(arguments)}", flush=True)
    module = ["-m", "nvae_tf"] if program == "nvae" else []
    command = [sys.executable, *module, *arguments]
    status = run_command(command)
    if status:
        raise UserError(
            f"The command above failed with status {status}. Once the cause "
            "is mended, the same demo command goes on from there."
        )
