"""Whether files of images are still what they were, without reading them."""

from __future__ import annotations

import hashlib
import os
import pathlib

from nvae_tf.config import DataConfig
from nvae_tf.datasets.image_files import list_images

__all__ = ["data_state"]

# The files that a source reads, in its folder or beside its file.  Others of
# their kind may be among them: to compute something anew is no harm.
_PATTERNS = {
    "array": ("*.npy",),
    "idx": ("*ubyte*",),
    "tfrecord": ("*.tfrecord", "*.index.npz"),
}


def data_state(data: DataConfig) -> str:
    """What tells the files that `data` names from those of another time.

    Names, sizes and times of change count, not contents, which would take as
    long as to read all images.

    Args:
      data: of a run's configuration.

    Returns:
      Hexadecimal digits; empty where the images come with this package or
      from TensorFlow Datasets, which do not change.

    Raises:
      DataError: if a folder of images cannot be read.
    """
    if data.source in ("mnist_5k", "tfds"):
        return ""
    root = pathlib.Path(data.path).expanduser()
    digest = hashlib.sha256()
    for path in _files(data, root):
        entry = [os.path.relpath(path, root), *_status(path)]
        digest.update(os.fsencode(f"{entry}\n"))
    return digest.hexdigest()[:16]


def _files(data: DataConfig, root: pathlib.Path) -> list[pathlib.Path]:
    if data.source == "image_folder":
        return list_images(root)
    if not root.is_dir() and not data.labels:
        return [root]
    # Labels lie beside a file of images.
    folder = root if root.is_dir() else root.parent
    found = {p for name in _PATTERNS[data.source] for p in folder.glob(name)}
    return sorted(found if root.is_dir() else found | {root})


def _status(path: pathlib.Path) -> tuple[int, ...]:
    """Size and time of change; of a file that is gone nothing."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns
