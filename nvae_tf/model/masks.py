"""Masks of autoregressive convolution kernels (paper section 3.2, flows)."""

import functools

import numpy as np

__all__ = ["autoregressive_mask"]


@functools.cache
def autoregressive_mask(
    shape: tuple[int, int, int, int],
    *,
    depthwise: bool = False,
    strict: bool = False,
    mirrored: bool = False,
) -> np.ndarray:
    """Which taps of a kernel an output may look at, in raster order.

    Taps above the centre and to its left are open.  The centre tap is open by
    channel order; where the channel counts differ, channels are matched in
    runs.  Depthwise kernels have an open centre.

    Args:
      shape: `(kh, kw, c_in, c_out)`; of a depthwise kernel `(kh, kw, 1, C)`.
      depthwise: whether every output sees its own channel only.
      strict: also close the centre to the output's own channel (or run).
      mirrored: turn the spatial order around.

    Returns:
      float32 of 0 and 1, of `shape`.
    """
    height, width, c_in, c_out = shape
    mask = np.zeros(shape, np.float32)
    mask[: height // 2] = 1
    mask[height // 2, : width // 2] = 1
    mask[height // 2, width // 2] = (
        1 if depthwise else _channel_order(c_in, c_out, strict)
    )
    if mirrored:
        mask = mask[::-1, ::-1]
    return np.ascontiguousarray(mask)


def _channel_order(c_in: int, c_out: int, strict: bool) -> np.ndarray:
    """`[c_in, c_out]`: 1 where the output may see the input's same pixel."""
    inputs = np.arange(c_in)[:, None]
    outputs = np.arange(c_out)[None, :]
    if c_out >= c_in:
        run = outputs // (c_out // c_in)
        return inputs < run if strict else inputs <= run
    ratio = c_in // c_out
    return inputs < (outputs if strict else outputs + 1) * ratio
