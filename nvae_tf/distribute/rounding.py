"""Whether GPUs round the factors of float32 products to ten bits, TF32."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

__all__ = ["tf32"]


@contextlib.contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Switches it for all of the process, and back at the end of the block.

    Args:
      enabled: whether they are to.
    """
    experimental = tf.config.experimental
    before = experimental.tensor_float_32_execution_enabled()
    experimental.enable_tensor_float_32_execution(enabled)
    try:
        yield
    finally:
        experimental.enable_tensor_float_32_execution(before)
