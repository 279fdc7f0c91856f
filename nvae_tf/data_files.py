"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

from nvae_tf.durable import sync
from nvae_tf.errors import DataError

__all__ = ["replacing", "write_bytes"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a temporary path that takes the place of `path` at the end.

    Args:
      path: the file; its folder is created if need be.  If the block raises,
        whatever was there before stays.

    Raises:
      DataError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    # Beside the target, so that the rename cannot cross file systems.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all.

    Raises:
      DataError: if the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
