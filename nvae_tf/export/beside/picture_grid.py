"""Images side by side in one picture, with NumPy and Pillow alone.

Becomes part of the programs that lie beside exports.
"""

import math
import os

import numpy as np

__all__ = ["grid", "write_png"]


def grid(images):
    """uint8 `[N, H, W, C]` -> `[rows * H, columns * W, C]`, about square."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, *images.shape[1:]), 255, np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, columns, height, width, channels)
    sheet = sheet.transpose(0, 2, 1, 3, 4)
    return sheet.reshape(rows * height, columns * width, channels)


def write_png(path, image):
    """Writes a picture, uint8 `[H, W, C]`, whole or not at all."""
    from PIL import Image

    if image.shape[-1] == 1:
        image = image[..., 0]
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        Image.fromarray(image).save(temporary, "PNG")
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
