"""Sources held in arrays: NumPy files, MNIST's IDX files, the demo digits."""

from __future__ import annotations

import functools
import logging
import math
import pathlib

import numpy as np

from nvae_tf.config import DataConfig
from nvae_tf.core.errors import DataError
from nvae_tf.core.npz_files import NpzFile, map_npy
from nvae_tf.core.reading import shown
from nvae_tf.datasets.idx_files import read_idx, read_idx_labels
from nvae_tf.datasets.image_files import hash_fraction
from nvae_tf.datasets.labels import checked_labels
from nvae_tf.datasets.sources import ArraySource, Source, Subset

__all__ = [
    "labelled_mnist_5k",
    "open_array",
    "open_idx",
    "open_mnist_5k",
]

_LOG = logging.getLogger(__name__)
MNIST_5K_HELD_OUT = 500
_MNIST_5K_SPLIT_SEED = 20200708
# Names under which files and npz archives keep their splits.
_ARRAY_SPLITS = {
    "train": ("train", "x_train"),
    "validation": ("validation", "valid", "val", "x_val", "x_valid"),
    "test": ("test", "x_test"),
}
_MNIST_5K = pathlib.Path(__file__).parent / "mnist_5k.npz"
# So many are gone through one by one, to part them.
_MOST_IMAGES = 2**24
# Values of an array that are looked at when it is opened; each may be in
# another part of the file.
_LOOKED_AT = 2**16
_IDX_SPLITS = {"train": "train", "validation": "t10k", "test": "t10k"}


def open_mnist_5k(split: str) -> Source:
    """The 5,000 real MNIST digits that this package carries, 28x28, 8 bits.

    A fixed permutation holds 500 of them out; "validation" and "test" are
    these same 500.

    Args:
      split: "train" (4,500), "validation" or "test" (500).
    """
    images, labels = labelled_mnist_5k()
    bits = np.random.Philox(key=_MNIST_5K_SPLIT_SEED).random_raw(len(images))
    order = np.argsort(bits, kind="stable")
    if split == "train":
        chosen, kind = order[MNIST_5K_HELD_OUT:], "train"
    else:
        chosen, kind = order[:MNIST_5K_HELD_OUT], "held-out"
    # Not sorted: the file has them by digit, and a look at the first few should
    # show all kinds.
    return ArraySource(
        f"mnist_5k ({kind})", images[chosen], labels=labels[chosen]
    )


def open_array(data: DataConfig, split: str) -> Source:
    """Opens uint8 or uint16 images in `.npy` or `.npz` files.

    `data.path` is a folder with `train.npy`, `validation.npy`, `test.npy`
    (one of the last two may be missing), an `.npz` with arrays of such names
    (or `x_train`, `x_test`), or one file with one array, of which
    `data.validation_fraction` is held out by a hash of the image's number.

    With `data.labels`, the labels of NAME lie in an integer array `[N]` called
    NAME_labels, of x_NAME also in y_NAME, and of an only array of an `.npz`
    also in labels or y.

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
        labels = _npy_labels(files[chosen]) if data.labels else None
        return _checked_source(str(files[chosen]), images, data, labels)
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
                labels = _npz_labels(archive, chosen, data, most)
                return _checked_source(f"{path}:{chosen}", images, data, labels)
            images = archive.read(*arrays, most)
            labels = _npz_labels(archive, *arrays, data, most, "labels", "y")
    elif path.suffix == ".npy":
        images = map_npy(path)
        labels = _npy_labels(path) if data.labels else None
    else:
        raise DataError(
            f"{path} is neither .npy nor .npz; save the images with "
            "numpy.save, or choose another data.source."
        )
    source = _checked_source(str(path), images, data, labels)
    return _hash_split(source, data, split)


def open_idx(data: DataConfig, split: str) -> Source:
    """Opens images in MNIST's format, gzipped or not.

    `data.path` is one file, of which `data.validation_fraction` is held out,
    or the folder with MNIST's four files; there "validation" is the test set.
    With `data.labels`, those of images-idx3 lie beside it in labels-idx1.

    Raises:
      DataError: if a file is missing, damaged or holds no images.
    """
    path = pathlib.Path(data.path).expanduser()
    if data.path and path.is_file():
        source = _open_idx_file(path, data)
        return _hash_split(source, data, split)
    prefix = _IDX_SPLITS[split]
    if data.path and path.is_dir():
        for separator in ("-", "."):
            for suffix in ("", ".gz"):
                name = f"{prefix}-images{separator}idx3-ubyte{suffix}"
                if (path / name).is_file():
                    return _open_idx_file(path / name, data)
    raise DataError(
        f"data.path is {data.path!r}: there is no {prefix}-images-idx3-ubyte "
        "(or .gz) there; name MNIST's folder, or one IDX file, with "
        "--config.data.path=PATH, or for a model in use with --data_path."
    )


def _open_idx_file(path: pathlib.Path, data: DataConfig) -> ArraySource:
    """A file of images, and that of their labels where these are wanted."""
    images = read_idx(path, data.max_unpacked_mb)
    if not data.labels:
        return _checked_source(str(path), images, data)
    stem = path.name.removesuffix(".gz")
    stem = stem.replace("images", "labels").replace("idx3", "idx1")
    for name in (stem, f"{stem}.gz"):
        beside = path.with_name(name)
        if beside != path and beside.is_file():
            labels = read_idx_labels(beside, data.max_unpacked_mb)
            named = str(beside), labels
            return _checked_source(str(path), images, data, named)
    raise DataError(
        f"data.labels is True, but beside {path} there is no {stem} (or .gz) "
        "with the labels of its images; put it there, or set data.labels=False."
    )


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


def _npy_labels(path: pathlib.Path) -> tuple[str, np.ndarray]:
    """The labels that lie beside a file of images, and where."""
    for name in _label_names(path.stem):
        beside = path.with_name(f"{name}.npy")
        if beside.is_file():
            return str(beside), map_npy(beside)
    raise DataError(
        f"data.labels is True, but beside {path} there is no "
        f"{_label_names(path.stem)[0]}.npy with the labels of its images; put "
        "it there, or set data.labels=False."
    )


def _npz_labels(
    archive: NpzFile, chosen: str, data: DataConfig, most: int, *others: str
) -> tuple[str, np.ndarray] | None:
    """The labels in an archive that belong to its array `chosen`."""
    if not data.labels:
        return None
    names = (*_label_names(chosen), *others)
    for name in names:
        if name in archive.headers:
            return f"{data.path}:{name}", archive.read(name, most)
    raise DataError(
        f"data.labels is True, but {data.path} has no array {names[0]} with "
        f"the labels of {shown(chosen)}; add it, or set data.labels=False."
    )


def _label_names(name: str) -> tuple[str, ...]:
    """What the labels of an array of images may be called."""
    if name.startswith("x_"):
        return f"y_{name[2:]}", f"{name}_labels"
    return (f"{name}_labels",)


def _checked_source(
    name: str,
    images: np.ndarray,
    data: DataConfig,
    labels: tuple[str, np.ndarray] | None = None,
) -> ArraySource:
    """A source of arrays; the labels with the name of where they were."""
    if images.ndim not in (3, 4):
        raise DataError(
            f"{name} has shape {shown(images.shape)}; images are [N, height, "
            "width] or [N, height, width, channels]."
        )
    if _is_one_image(images.shape):
        raise DataError(
            f"{name} has shape {shown(images.shape)}, as one image in colour "
            "has; images are [N, height, width] or [N, height, width, "
            "channels]: save one as image[None]."
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
    known = None
    if labels is not None:
        known = checked_labels(labels[1], len(images), labels[0])
    if images.dtype == bool:
        images = _with_channels(images).view(np.uint8)
        return ArraySource(name, images, 1, known)
    if images.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{name} {_wrong_dtype(images)}")
    full = 8 * images.dtype.itemsize
    bits = data.bits or full
    if bits > 1 and images.flat[:_LOOKED_AT].max(initial=0) == 1:
        _LOG.warning(
            "%s seems to hold 0 and 1 alone, of %d levels, which is nearly "
            "black: if 1 is white, set data.bits=1.",
            name,
            2**bits,
        )
    if bits > full:
        raise DataError(
            f"{name} is {images.dtype}, but data.bits is {bits}; lower it."
        )
    return ArraySource(name, _with_channels(images), bits, known)


def _is_one_image(shape: tuple[int, ...]) -> bool:
    """Whether it is `[height, width, channels]`: none are so narrow."""
    return len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) > 4


def _with_channels(images: np.ndarray) -> np.ndarray:
    return images[..., None] if images.ndim == 3 else images


def _wrong_dtype(images: np.ndarray) -> str:
    text = f"holds {shown(images.dtype)} values; images must be uint8 or uint16"
    if not np.issubdtype(images.dtype, np.floating):
        return (
            f"{text}: convert them with .astype(numpy.uint8), or where values "
            "exceed 255 with .astype(numpy.uint16)."
        )
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
