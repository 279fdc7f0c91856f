"""The main job from end to end, on real digits that need no download.

    nvae demo --workdir=runs/demo

Trains `configs/mnist_demo.py`, evaluates, draws, reconstructs, writes the
report, exports to SavedModel and ONNX and samples from the ONNX file, each with
the command that one would type.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys

from absl import flags

from nvae_tf.core.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Folder of the run.")
_CONFIG = flags.DEFINE_string(
    "demo_config", "configs/mnist_demo.py", "What to train."
)

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def main(argv) -> None:
    """Runs the commands, then says where everything is."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value).resolve()
    samples, reconstructions, onnx_samples = (
        workdir / f"{name}.png"
        for name in ("samples", "reconstructions", "onnx_samples")
    )
    saved_model, onnx = workdir / "saved_model", workdir / "nvae.onnx"
    run = f"--workdir={workdir}"
    _run("train.py", f"--config={_CONFIG.value}", run)
    _run(
        "-m",
        "nvae_tf.commands.eval.likelihood",
        run,
        "--num_importance_samples=20",
    )
    _run(
        "-m",
        "nvae_tf.commands.explore.sample",
        run,
        "--num=64",
        f"--output={samples}",
    )
    _run(
        "-m",
        "nvae_tf.commands.explore.reconstruct",
        run,
        f"--output={reconstructions}",
    )
    _run("-m", "nvae_tf.commands.report", run)
    _run(
        "-m",
        "nvae_tf.export.saved_model",
        run,
        f"--output={saved_model}",
        "--overwrite",
    )
    _run("-m", "nvae_tf.export.onnx", run, f"--output={onnx}", "--overwrite")
    _run(
        "-m",
        "nvae_tf.export.onnx_sampler",
        str(onnx),
        "--num=64",
        f"--output={onnx_samples}",
    )
    record = json.loads((workdir / "evaluation.json").read_text())
    print(
        f"\nHeld-out NELBO {record['nelbo']:.2f} nats, "
        f"{record['bits_per_dim']:.4f} bits/dim "
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


def _run(*arguments: str) -> None:
    command = [sys.executable, *arguments]
    print(f"\n$ python {shlex.join(arguments)}", flush=True)
    status = subprocess.run(command, cwd=_ROOT, check=False).returncode
    if status:
        raise UserError(
            f"The command above failed with status {status}. Once the cause "
            "is mended, the same demo command goes on from there."
        )
