"""The flags of the commands that make a web page."""

from __future__ import annotations

from absl import flags

__all__ = ["EngineFlags"]

# `--help` of a command shows its own flags: these are to count as such.
flags.disclaim_key_flags()


class EngineFlags:
    """`--runtime` and `--webgpu`: what runs the model in a browser."""

    def __init__(self):
        """Defines the flags."""
        self._place = flags.DEFINE_string(
            "runtime",
            "",
            "Where ONNX Runtime Web is: a folder that has its files, the "
            "tarball that npm pack makes, or the http(s) address of either. "
            "By default npm is asked.",
        )
        self._webgpu = flags.DEFINE_bool(
            "webgpu",
            True,
            "Also write the engine for GPUs, 27 MB, which the page loads "
            "where a browser has WebGPU.",
        )

    @property
    def place(self) -> str:
        """Where ONNX Runtime Web is; empty for npm."""
        return self._place.value

    @property
    def webgpu(self) -> bool:
        """Whether the engine for GPUs is wanted."""
        return self._webgpu.value

    def require_packages(self) -> None:
        """Refuses, before a model is loaded, where a package is missing.

        Raises:
          UserError: naming the extra that brings it.
        """
        from nvae_tf.core.extras import require_installed

        require_installed("onnx", "A web page")
