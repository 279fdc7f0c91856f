"""Images in a folder: PNG, JPEG, WebP and BMP, nested as they come."""

from __future__ import annotations

import io
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from nvae_tf.config import MAX_PIXELS, DataConfig
from nvae_tf.core.errors import DataError
from nvae_tf.core.reading import read_bytes, shown
from nvae_tf.datasets.image_files import (
    content_fractions,
    hash_fraction,
    list_images,
)
from nvae_tf.datasets.sources import CorruptImageError, Source

__all__ = ["FolderSource", "count_classes", "decode_image", "open_folder"]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SKIP = "replace or delete it, or set data.skip_corrupt=True"
# Of a file: two bytes for each of four channels.
_BYTES_PER_PIXEL = 8
# In a JPEG: a marker, but for those between the pixels of a scan.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_SCAN, _END, _WITHOUT_LENGTH = 0xDA, 0xD9, (0x01, 0xD8)
# What turns a picture upright, by the orientation that EXIF tells.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Programs write about 10; a file with a preview in it has those of both.
_MAX_SCANS = 100
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

    def __init__(
        self,
        name: str,
        paths: list[pathlib.Path],
        max_pixels: int = MAX_PIXELS,
        labels: np.ndarray | None = None,
        num_classes: int = 0,
    ):
        """Keeps the files' paths and labels; nothing is opened."""
        super().__init__(name, bits=8, num_classes=num_classes)
        self.paths = paths
        self._labels = labels
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`: uint8 `[H, W, C]`, C from 1 to 4."""
        return decode_image(self.paths[index], self._max_pixels)

    def read_labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `Source`."""
        return self._labels[np.asarray(indices, np.int64)]

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

    With `data.labels`, the sub-folders of `data.path` (or of a split's folder)
    are the classes, in the order of their names; those of training count.

    Raises:
      DataError: if the folder or the split is missing or empty, or an image
        is of no class.
    """
    root = _root(data)
    if data.split_by == "folder":
        folder = _split_folder(root, split)
        paths = list_images(folder)
        training = paths, folder
        if data.labels and split != "train":
            training = _for_training(data)
        return _source(str(folder), paths, folder, data, training)
    held_out = split != "train"
    paths = everything = list_images(root)
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
    return _source(f"{root} ({kind})", paths, root, data, (everything, root))


def count_classes(data: DataConfig) -> int:
    """The sub-folders with images for training; no image is opened.

    Raises:
      DataError: if there are none, or an image lies in none of them.
    """
    return len(_classes(*_for_training(data)))


def _for_training(data: DataConfig) -> tuple[list[pathlib.Path], pathlib.Path]:
    """The files whose classes count, and the folder that these lie in."""
    root = _root(data)
    if data.split_by == "folder":
        root = _split_folder(root, "train")
    return list_images(root), root


def _classes(paths: list[pathlib.Path], root: pathlib.Path) -> dict[str, int]:
    """The number of every class, by the name of its folder."""
    names = {_class_name(path, root) for path in paths}
    return {name: number for number, name in enumerate(sorted(names))}


def _class_name(path: pathlib.Path, root: pathlib.Path) -> str:
    first, *others = path.relative_to(root).parts
    if not others:
        raise DataError(
            f"data.labels is True, but {path} lies in no sub-folder of {root} "
            "that would name its class; move it into one, or set "
            "data.labels=False."
        )
    return first


def _source(
    name: str,
    paths: list[pathlib.Path],
    root: pathlib.Path,
    data: DataConfig,
    training: tuple[list[pathlib.Path], pathlib.Path],
) -> FolderSource:
    """The files, with their labels where these are wanted.

    `training` is what `_for_training` returns.
    """
    if not data.labels:
        return FolderSource(name, paths, data.max_pixels)
    classes = _classes(*training)
    names = [_class_name(path, root) for path in paths]
    strangers = [found for found in names if found not in classes]
    if strangers:
        raise DataError(
            f"{root / strangers[0]} is a class that no image for training is "
            "of; remove it, or add some."
        )
    labels = np.array([classes[found] for found in names], np.int64)
    return FolderSource(name, paths, data.max_pixels, labels, len(classes))


def _root(data: DataConfig) -> pathlib.Path:
    root = pathlib.Path(data.path).expanduser()
    if not data.path or not root.is_dir():
        raise DataError(
            f"data.path is {data.path!r}, which is not a folder; name the "
            "folder that holds the images with --config.data.path=DIR, or for "
            "a model in use with --data_path."
        )
    return root


def decode_image(
    path: pathlib.Path, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes an image file, turned upright.

    16-bit files are reduced to their upper 8 bits; palettes are expanded; a
    colour that stands for transparency becomes alpha; of an animation the first
    picture counts.  The file may come from anyone: what is none of `SUFFIXES`'
    formats by its content is not looked at any further, and what would grow too
    large is not decoded.

    Args:
      path: the file.
      max_pixels: that it may have by its header.

    Returns:
      uint8 `[H, W, C]`: gray (1), gray and alpha (2), RGB (3), RGBA (4).

    Raises:
      CorruptImageError: if the file is not a readable image, or too large.
    """
    content = read_bytes(
        path, _BYTES_PER_PIXEL * max_pixels + 2**20, CorruptImageError, _SKIP
    )
    try:
        # Without a list, Pillow would try all that it knows: of PostScript
        # under any name it would start a program.
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            _check_size(picture, max_pixels)
            if picture.format in ("JPEG", "MPO"):
                _check_scans(content)
            picture.load()
            return _to_array(_upright(picture))
    except UnidentifiedImageError as error:
        raise CorruptImageError(
            f"{path} cannot be read as an image (it is none of "
            f"{', '.join(_FORMATS)}, or damaged); {_SKIP}."
        ) from error
    # Pillow's readers raise nearly anything for damaged bytes.
    except Exception as error:
        raise CorruptImageError(
            f"{path} cannot be read as an image "
            f"({shown(str(error) or type(error).__name__)}); {_SKIP}."
        ) from error


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise ValueError(
            f"{width}x{height} pixels by its header, more than "
            f"data.max_pixels={max_pixels}"
        )


def _check_scans(content: bytes) -> None:
    """Raises ValueError for a JPEG of many scans.

    A hundred bytes can be a scan of all pixels: a small file could take hours.
    """
    scans, at = 0, 2
    while match := _MARKER.search(content, at):
        kind, at = match[1][0], match.end()
        if kind == _END:
            return
        scans += kind == _SCAN
        if scans > _MAX_SCANS:
            raise ValueError(f"more than {_MAX_SCANS} scans")
        if kind not in _WITHOUT_LENGTH:
            at += int.from_bytes(content[at : at + 2])


def _upright(picture: Image.Image) -> Image.Image:
    """The picture as its camera was held."""
    # Not by ImageOps.exif_transpose: that writes all of EXIF anew, which fails
    # where any of it is odd.
    turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    return picture if turn is None else picture.transpose(turn)


def _to_array(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):
        wide = np.asarray(picture)
        if wide.size and (wide.min() < 0 or wide.max() > 65535):
            raise ValueError("more than 16 bits per pixel")
        return (wide >> 8).astype(np.uint8)[..., None]
    transparent = "transparency" in picture.info
    if picture.mode in ("P", "RGB"):
        picture = picture.convert("RGBA" if transparent else "RGB")
    elif picture.mode in ("1", "L"):
        picture = picture.convert("LA" if transparent else "L")
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
