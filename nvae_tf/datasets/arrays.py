"""Sources held in arrays: NumPy files, MNIST's IDX files, the demo digits."""

from __future__ import annotations

import functools
import gzip
import math
import os
import pathlib
import struct
import zlib

import numpy as np

from nvae_tf.config import DataConfig
from nvae_tf.core.errors import DataError
from nvae_tf.core.npz_files import NpzFile, map_npy
from nvae_tf.core.reading import open_regular, shown
from nvae_tf.datasets.image_files import hash_fraction
from nvae_tf.datasets.sources import ArraySource, Source, Subset

__all__ = [
    "labelled_mnist_5k",
    "open_array",
    "open_idx",
    "open_mnist_5k",
    "read_idx",
]

MNIST_5K_HELD_OUT = 500
_MNIST_5K_SPLIT_SEED = 20200708
# Names under which files and npz archives keep their splits.
_ARRAY_SPLITS = {
    "train": ("train", "x_train"),
    "validation": ("validation", "valid", "val", "x_val", "x_valid"),
    "test": ("test", "x_test"),
}
_MNIST_5K = pathlib.Path(__file__).parent / "mnist_5k.npz"
_AGAIN = "download it again"
# So many are gone through one by one, to part them.
_MOST_IMAGES = 2**24
_IDX_UBYTE = 0x08
_IDX_SPLITS = {"train": "train", "validation": "t10k", "test": "t10k"}


def open_mnist_5k(split: str) -> Source:
    """The 5,000 real MNIST digits that this package carries, 28x28, 8 bits.

    A fixed permutation holds 500 of them out; "validation" and "test" are
    these same 500.

    Args:
      split: "train" (4,500), "validation" or "test" (500).
    """
    images, _ = labelled_mnist_5k()
    bits = np.random.Philox(key=_MNIST_5K_SPLIT_SEED).random_raw(len(images))
    order = np.argsort(bits, kind="stable")
    if split == "train":
        chosen, kind = order[MNIST_5K_HELD_OUT:], "train"
    else:
        chosen, kind = order[:MNIST_5K_HELD_OUT], "held-out"
    # Not sorted: the file has them by digit, and a look at the first few should
    # show all kinds.
    return ArraySource(f"mnist_5k ({kind})", images[chosen])


def open_array(data: DataConfig, split: str) -> Source:
    """Opens uint8 or uint16 images in `.npy` or `.npz` files.

    `data.path` is a folder with `train.npy`, `validation.npy`, `test.npy`
    (one of the last two may be missing), an `.npz` with arrays of such names
    (or `x_train`, `x_test`), or one file with one array, of which
    `data.validation_fraction` is held out by a hash of the image's number.

    Raises:
      DataError: if files or arrays are missing, damaged, of another dtype
        or not `[N, H, W]` or `[N, H, W, C]`.
    """
    path = pathlib.Path(data.path).expanduser()
    if not data.path or not path.exists():
        raise DataError(
            f"data.path is {data.path!r}, which does not exist; name an "
            ".npy or .npz file with --config.data.path=FILE, or for a model "
            "in use with --data_path."
        )
    if path.is_dir():
        files = {file.stem: file for file in path.glob("*.npy")}
        chosen = _pick(files, split, f"The folder {path}", "file")
        images = map_npy(files[chosen])
        return _checked_source(str(files[chosen]), images, data)
    if path.suffix == ".npz":
        advice = (
            "save it again with NumPy, as .npy files if it is large, or raise "
            f"data.max_unpacked_mb={data.max_unpacked_mb}"
        )
        with NpzFile(path, DataError, advice) as archive:
            # Labels and the like are not images: leave them on disk.
            arrays = {
                name: header
                for name, header in archive.headers.items()
                if len(header.shape) in (3, 4)
            }
            most = data.max_unpacked_mb * 2**20
            if len(arrays) != 1:
                chosen = _pick(arrays, split, str(path), "array")
                images = archive.read(chosen, most)
                return _checked_source(f"{path}:{chosen}", images, data)
            images = archive.read(*arrays, most)
    elif path.suffix == ".npy":
        images = map_npy(path)
    else:
        raise DataError(
            f"{path} is neither .npy nor .npz; save the images with "
            "numpy.save, or choose another data.source."
        )
    source = _checked_source(str(path), images, data)
    return _hash_split(source, data, split)


def open_idx(data: DataConfig, split: str) -> Source:
    """Opens images in MNIST's format, gzipped or not.

    `data.path` is one file, of which `data.validation_fraction` is held out,
    or the folder with MNIST's four files; there "validation" is the test set.

    Raises:
      DataError: if a file is missing, damaged or holds no images.
    """
    path = pathlib.Path(data.path).expanduser()
    if data.path and path.is_file():
        images = read_idx(path, data.max_unpacked_mb)
        source = _checked_source(str(path), images, data)
        return _hash_split(source, data, split)
    prefix = _IDX_SPLITS[split]
    if data.path and path.is_dir():
        for separator in ("-", "."):
            for suffix in ("", ".gz"):
                name = f"{prefix}-images{separator}idx3-ubyte{suffix}"
                if (path / name).is_file():
                    images = read_idx(path / name, data.max_unpacked_mb)
                    return _checked_source(str(path / name), images, data)
    raise DataError(
        f"data.path is {data.path!r}: there is no {prefix}-images-idx3-ubyte "
        "(or .gz) there; name MNIST's folder, or one IDX file, with "
        "--config.data.path=PATH, or for a model in use with --data_path."
    )


def read_idx(path: pathlib.Path, max_unpacked_mb: int) -> np.ndarray:
    """Reads an IDX file of images of unsigned bytes, gzipped or not.

    Args:
      path: the file.
      max_unpacked_mb: MiB that a gzipped file may unpack to by its header.

    Returns:
      uint8 `[N, H, W]` or `[N, H, W, C]`.

    Raises:
      DataError: if it is damaged, too large or holds something else.
    """
    with open_regular(path, DataError, _AGAIN) as file:
        try:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                size = os.fstat(file.fileno()).st_size
                return _read_idx(path, file, size, "the file has")
            most = max_unpacked_mb * 2**20
            with gzip.open(file) as unpacked:
                return _read_idx(
                    path,
                    unpacked,
                    most,
                    f"data.max_unpacked_mb={max_unpacked_mb} allows",
                )
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{path} cannot be read ({shown(str(error))}); {_AGAIN}."
            ) from error


def _read_idx(path: pathlib.Path, file, most: int, why: str) -> np.ndarray:
    """Reads the images; no more than `most` bytes, of which `why` tells."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise DataError(f"{path} is not an IDX file; {_AGAIN}.")
    kind, rank = start[2], start[3]
    if kind != _IDX_UBYTE:
        raise DataError(
            f"{path} holds values of IDX type {kind:#04x}; only unsigned "
            "bytes (0x08) are images."
        )
    if rank not in (3, 4):
        raise DataError(
            f"{path} states {rank} dimensions; images are [N, height, "
            "width] or [N, height, width, channels]."
        )
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise DataError(f"{path} is cut off in its header; {_AGAIN}.")
    shape = struct.unpack(f">{rank}I", header)
    count = math.prod(shape)
    if count > most:
        raise DataError(
            f"{path} states {count:,} values of shape {shape}, more than the "
            f"{most:,} bytes that {why}; if it is cut off or damaged, {_AGAIN}."
        )
    # One more, to see whether it ends there.
    values = file.read(count + 1)
    if len(values) != count:
        raise DataError(
            f"{path} states {count:,} values of shape {shape}, but holds "
            f"{'more' if len(values) > count else f'{len(values):,}'}: it is "
            f"cut off or damaged; {_AGAIN}."
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


@functools.lru_cache(maxsize=1)
def labelled_mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    """All digits, uint8 `[5000, 28, 28, 1]`, and their labels, int64 `[5000]`.

    They lie beside this module: the first 500 of each kind in MNIST's training
    set (Y. LeCun, C. Cortes; CC BY-SA 3.0).
    """
    with np.load(_MNIST_5K) as stored:
        return stored["images"][..., None], stored["labels"].astype(np.int64)


def _pick(arrays: dict, split: str, where: str, kind: str) -> str:
    """The name among `arrays` that holds `split`."""
    other = {"train": (), "validation": ("test",), "test": ("validation",)}
    for wanted in (split, *other[split]):
        for name in _ARRAY_SPLITS[wanted]:
            if name in arrays:
                return name
    wanted = "train" if split == "train" else "validation or test"
    raise DataError(
        f"{where} has no {kind} of images named {wanted}; it has "
        f"{shown(', '.join(sorted(arrays)), 200) or 'none'}."
    )


def _checked_source(
    name: str, images: np.ndarray, data: DataConfig
) -> ArraySource:
    if images.ndim not in (3, 4):
        raise DataError(
            f"{name} has shape {shown(images.shape)}; images are [N, height, "
            "width] or [N, height, width, channels]."
        )
    if math.prod(images.shape[1:3]) > data.max_pixels:
        raise DataError(
            f"{name} has shape {shown(images.shape)}: images of more pixels "
            f"than data.max_pixels={data.max_pixels}."
        )
    if 0 in images.shape[1:] or len(images) > _MOST_IMAGES:
        raise DataError(
            f"{name} has shape {shown(images.shape)}; images have pixels, and "
            f"at most {_MOST_IMAGES:,} are read from one file."
        )
    if images.dtype == bool:
        return ArraySource(name, _with_channels(images).view(np.uint8), 1)
    if images.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{name} {_wrong_dtype(images)}")
    full = 8 * images.dtype.itemsize
    bits = data.bits or full
    if bits > full:
        raise DataError(
            f"{name} is {images.dtype}, but data.bits is {bits}; lower it."
        )
    return ArraySource(name, _with_channels(images), bits)


def _with_channels(images: np.ndarray) -> np.ndarray:
    return images[..., None] if images.ndim == 3 else images


def _wrong_dtype(images: np.ndarray) -> str:
    text = f"holds {shown(images.dtype)} values; images must be uint8 or uint16"
    if not np.issubdtype(images.dtype, np.floating):
        return f"{text}: convert them with .astype(numpy.uint8)."
    if np.isnan(images.flat[: 2**20]).any():
        return f"{text}, and these contain NaN: correct and convert them."
    return (
        f"{text}: if they lie in [0, 1], convert them with "
        "(255 * x).round().astype(numpy.uint8)."
    )


def _hash_split(source: Source, data: DataConfig, split: str) -> Source:
    held_out = split != "train"
    chosen = [
        index
        for index in range(len(source))
        if (hash_fraction(str(index)) < data.validation_fraction) == held_out
    ]
    if not chosen:
        raise DataError(
            f"None of the {len(source)} images of {source.name} fell to the "
            f"{split} split; change data.validation_fraction "
            f"({data.validation_fraction})."
        )
    kind = "held-out" if held_out else "train"
    return Subset(f"{source.name} ({kind})", source, chosen)
