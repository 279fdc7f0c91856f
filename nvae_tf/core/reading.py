"""Opening and naming what others have written.

Files may come from anyone: what bears the name of a file may be a pipe that
never ends, and what a file says may be as long as it likes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import reprlib
import stat
from typing import Any, BinaryIO

from nvae_tf.core.errors import DataError, UserError

__all__ = ["CHECK_PATH", "open_regular", "read_bytes", "sha256", "shown"]

CHECK_PATH = "check the path and its permissions"
# Beyond 64 bits nothing here counts, and long numbers take long to write out.
_MOST_BITS = 128


def open_regular(
    path: str | os.PathLike,
    error: type[UserError] | None = DataError,
    advice: str = CHECK_PATH,
) -> BinaryIO:
    """Opens a regular file for reading, whoever made it.

    Opening a pipe would wait for its writer, and reading a device may never
    end: only what has a size is opened.

    Args:
      path: the file; links are followed.
      error: what is raised; None for the `OSError` itself.
      advice: the way out, for the message.

    Returns:
      The file, to be closed by the caller.

    Raises:
      UserError: `error`, if there is no such file, it is not a regular one or
        cannot be opened.
    """
    try:
        # Opening what nobody writes to returns at once.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
        raise OSError(
            errno.EINVAL,
            "it is not a file but a folder, a pipe or a device",
            str(path),
        )
    except (OSError, ValueError) as problem:
        raise _refused(path, problem, error, advice) from problem


def read_bytes(
    path: str | os.PathLike,
    most: int,
    error: type[UserError] | None = DataError,
    advice: str = CHECK_PATH,
) -> bytes:
    """Reads a whole regular file that is not too large.

    Args:
      path: the file.
      most: bytes that it may have.
      error: what is raised; None for the `OSError` itself.
      advice: the way out, for the message.

    Raises:
      UserError: `error`, see `open_regular`, or if the file is larger.
    """
    with open_regular(path, error, advice) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            # One more than allowed: a size may change, or not be told.
            content = b"" if size > most else file.read(most + 1)
            if max(size, len(content)) > most:
                raise OSError(
                    errno.EFBIG, f"it has more than {most:,} bytes", str(path)
                )
        except OSError as problem:
            raise _refused(path, problem, error, advice) from problem
    return content


def _refused(
    path, problem: Exception, error: type[UserError] | None, advice: str
) -> Exception:
    """What to raise for a file that cannot be read."""
    if isinstance(problem, ValueError):
        # No file system has such a name.
        problem = OSError(errno.EINVAL, str(problem), str(path))
    if error is None:
        return problem
    if isinstance(problem, FileNotFoundError):
        return error(f"{path} does not exist; {advice}.")
    reason = problem.strerror or problem
    return error(f"{path} cannot be read ({reason}); {advice}.")


class _Shown(reprlib.Repr):
    """`repr`, whose work and length do not grow with the value."""

    def __init__(self, most: int):
        super().__init__()
        self.maxlevel = 2
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 4
        self.maxfrozenset = self.maxdeque = self.maxarray = 4
        self.maxstring = self.maxother = most

    def repr_int(self, value: int, level: int) -> str:
        del level
        if value.bit_length() > _MOST_BITS:
            return f"an integer of {value.bit_length()} bits"
        return repr(value)

    def repr_bytes(self, value: bytes, level: int) -> str:
        del level
        return repr(value[: self.maxstring])

    def repr_ndarray(self, value: Any, level: int) -> str:
        del level
        return f"an array of {value.dtype} {list(value.shape)[:8]}"


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a regular file, in hexadecimal.

    Raises:
      OSError: if it cannot be read.
    """
    with open_regular(path, None) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(value: object, most: int = 80) -> str:
    """Says what a value from a file is, in a message.

    Args:
      value: anything that a file can hold; a string appears without quotes.
      most: characters, about.

    Returns:
      One line that can be printed in any terminal.
    """
    if isinstance(value, str):
        text = value[: most + 1]
        text = text if text.isprintable() else ascii(text)[1:-1]
    else:
        text = _Shown(most).repr(value)
        text = text if text.isprintable() else ascii(text)
    return text if len(text) <= most else f"{text[:most]}..."
