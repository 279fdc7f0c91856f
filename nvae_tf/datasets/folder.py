"""Images in a folder: PNG, JPEG, WebP and BMP, nested as they come."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nvae_tf.config import DataConfig
from nvae_tf.core.errors import DataError
from nvae_tf.datasets.image_files import (
    content_fractions,
    hash_fraction,
    list_images,
)
from nvae_tf.datasets.sources import CorruptImageError, Source

__all__ = ["FolderSource", "decode_image", "open_folder"]

_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}


class FolderSource(Source):
    """Image files, decoded when they are read.

    Attributes:
      paths: the files.
    """

    def __init__(self, name: str, paths: list[pathlib.Path]):
        """Keeps the files' paths; nothing is opened."""
        super().__init__(name, bits=8)
        self.paths = paths

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`: uint8 `[H, W, C]`, C from 1 to 4."""
        return decode_image(self.paths[index])

    def describe(self, index: int) -> str:
        """The file's path."""
        return str(self.paths[index])


def open_folder(data: DataConfig, split: str) -> Source:
    """Opens the images below `data.path`.

    With `data.split_by` "content", each file falls by a hash of its content, so
    copies stay together, and neither renaming nor adding files moves another;
    with "hash" by one of its path within the folder, as runs of before did,
    where a copy may fall to the other side.  "test" is the validation split
    then.  With "folder" the sub-folders train, validation (val, valid) and
    test (any one of the last two may be missing) are the splits.

    Raises:
      DataError: if the folder or the split is missing or empty.
    """
    root = pathlib.Path(data.path).expanduser()
    if not data.path or not root.is_dir():
        raise DataError(
            f"data.path is {data.path!r}, which is not a folder; name the "
            "folder that holds the images with --config.data.path=DIR."
        )
    if data.split_by == "folder":
        folder = _split_folder(root, split)
        return FolderSource(str(folder), list_images(folder))
    held_out = split != "train"
    paths = list_images(root)
    if data.split_by == "content":
        fractions = content_fractions(paths, skip_corrupt=data.skip_corrupt)
    else:
        fractions = [
            hash_fraction(path.relative_to(root).as_posix()) for path in paths
        ]
    paths = [
        path
        for path, fraction in zip(paths, fractions, strict=True)
        if (fraction < data.validation_fraction) == held_out
    ]
    if not paths:
        raise DataError(
            f"None of the images in {root} fell to the {split} split; add "
            "images or change data.validation_fraction "
            f"({data.validation_fraction})."
        )
    kind = "held-out" if held_out else "train"
    return FolderSource(f"{root} ({kind})", paths)


def decode_image(path: pathlib.Path) -> np.ndarray:
    """Decodes an image file, turned upright.

    16-bit files are reduced to their upper 8 bits; palettes are expanded.

    Returns:
      uint8 `[H, W, C]`: gray (1), gray and alpha (2), RGB (3), RGBA (4).

    Raises:
      CorruptImageError: if the file is not a readable image.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            return _to_array(ImageOps.exif_transpose(picture))
    except FileNotFoundError as error:
        raise CorruptImageError(
            f"{path} has vanished since the folder was listed."
        ) from error
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        reason = str(error).replace(f" {str(path)!r}", "")
        raise CorruptImageError(
            f"{path} cannot be read as an image ({reason}): replace or "
            "delete it, or set data.skip_corrupt=True."
        ) from error


def _to_array(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):
        wide = np.asarray(picture)
        if wide.size and (wide.min() < 0 or wide.max() > 65535):
            raise ValueError("more than 16 bits per pixel")
        return (wide >> 8).astype(np.uint8)[..., None]
    if picture.mode == "P":
        transparent = "transparency" in picture.info
        picture = picture.convert("RGBA" if transparent else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode == "PA":
        picture = picture.convert("RGBA")
    elif picture.mode not in ("L", "LA", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def _split_folder(root: pathlib.Path, split: str) -> pathlib.Path:
    # One held-out folder serves as validation and as test.
    other = {"train": (), "validation": ("test",), "test": ("validation",)}
    for kind in (split, *other[split]):
        for name in _SPLIT_FOLDERS[kind]:
            if (root / name).is_dir():
                return root / name
    wanted = "train" if split == "train" else "validation or test"
    raise DataError(
        f"There is no sub-folder {wanted} in {root}, which data.split_by "
        "'folder' needs; create it, or set data.split_by=content."
    )
