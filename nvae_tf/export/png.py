"""Images as PNG files in memory."""

import io

import numpy as np
from PIL import Image

__all__ = ["from_png", "to_png"]


def to_png(image: np.ndarray) -> bytes:
    """Encodes uint8 `[H, W, C]`, C of 1, 3 or 4."""
    content = io.BytesIO()
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(squeezed).save(content, "PNG")
    return content.getvalue()


def from_png(content: bytes) -> np.ndarray:
    """Decodes to uint8 `[H, W, C]`."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
