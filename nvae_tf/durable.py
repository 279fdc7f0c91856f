"""What was written outlives a power cut."""

import os

__all__ = ["sync"]


def sync(path: str | os.PathLike) -> None:
    """Brings a file's content, or the names in a folder, to the disk.

    Args:
      path: of the file or folder.

    Raises:
      OSError: if that fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
