"""Videos, through FFmpeg as PyAV brings it (the extra `video`)."""

from __future__ import annotations

import fractions
import os

import numpy as np

from nvae_tf.core import extras
from nvae_tf.core.files import replacing

__all__ = ["require_av", "write_mp4"]


def require_av():
    """PyAV.

    Raises:
      DataError: if it is not installed; the message names the extra.
    """
    return extras.require("av", "video", "An .mp4")


def write_mp4(
    path: str | os.PathLike, frames: np.ndarray, frames_per_second: float
) -> None:
    """Writes an H.264 video, whole or not at all.

    Colours are kept at half the resolution, as players expect; an odd side
    loses its last line of pixels to that.

    Args:
      path: the file; its folder is created if need be.
      frames: uint8 `[N, H, W, C]`, C of 1 to 4, sides of at least 2;
        transparency is lost.
      frames_per_second: above 0.

    Raises:
      DataError: if the file cannot be written, or PyAV is not installed.
    """
    av = require_av()
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    frames = frames[:, :height, :width]
    if frames.shape[-1] < 3:
        frames = np.repeat(frames[..., :1], 3, axis=-1)
    with replacing(path) as temporary:
        # The name of the temporary file does not tell the format.
        with av.open(str(temporary), "w", format="mp4") as container:
            rate = fractions.Fraction(frames_per_second).limit_denominator(1000)
            # Close to what was drawn: these are a few small frames.
            stream = container.add_stream(
                "libx264", rate=rate, options={"crf": "12"}
            )
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(frame[..., :3]), format="rgb24"
                )
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
