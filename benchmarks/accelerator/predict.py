"""Compiles programs for an NVIDIA H100 that need not be there.

    python -m benchmarks.accelerator.predict --folder=gpu --out=predicted.jsonl

What the compiler plans is known without the device: whether it takes the
program, and how much memory that takes.  Nothing is measured, kernels are not
chosen by trying them out, and their machine code is not optimised, which takes
half the time and no other memory.  What --out has rows of is left out.

Needs the CUDA plugin of JAX, which the extra `predict` has (gigabytes), but
neither driver nor GPU.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import sys
import time

__all__ = ["H100", "device_not_there", "main"]

# As XLA describes it.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def device_not_there(target: str = H100):
    """The sharding of arrays on such a device.

    Args:
      target: what XLA is to know of it.
    """
    import jax
    from jax.experimental import topologies

    jax.devices()  # Plugins register with the first back end.
    found = topologies.get_topology_desc(
        platform="cuda", target_config=target, topology="1x1x1"
    )
    return jax.sharding.SingleDeviceSharding(found.devices[0])


def _site() -> pathlib.Path:
    import jaxlib

    return pathlib.Path(jaxlib.__file__).parents[1]


def _prepare_environment(threads: int) -> None:
    """What XLA reads when it starts."""
    cuda = _site() / "nvidia/cu13"
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_cuda_data_dir={cuda} "
        "--xla_gpu_autotune_level=0 --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true "
        f"--xla_gpu_force_compilation_parallelism={threads}"
    )
    os.environ["PATH"] = f"{cuda / 'bin'}:{os.environ['PATH']}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line, and compiles."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--folder", default=".", help="that `prepare` wrote")
    add("--out", default="predicted.jsonl", help="rows are appended to it")
    add("--only", default="", help="regular expression of programs")
    add("--threads", type=int, default=2, help="that compile")
    given = parser.parse_args(arguments)
    _prepare_environment(given.threads)
    import jax

    from benchmarks.accelerator import measuring, rows
    from benchmarks.accelerator.program import Program

    jax.config.update("jax_enable_x64", True)
    sharding = device_not_there()
    out = pathlib.Path(given.out)
    done = {row["label"] for row in rows.read(out)}
    for path in sorted(
        pathlib.Path(given.folder, "programs").glob("*.program")
    ):
        if path.stem in done or not re.search(given.only, path.stem):
            continue
        row = {"label": path.stem, "device": "H100, not there"}
        began = time.monotonic()
        try:
            row |= measuring.described(Program(path).compile(sharding))
        except Exception as error:  # The others are to be compiled as well.
            row["error"] = f"{type(error).__name__}: {str(error)[:400]}"
        row["seconds"] = round(time.monotonic() - began, 1)
        rows.tell(out, row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
