"""A disk that fails when a test says so."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import resource
from collections.abc import Iterator

import pytest

_CALLS = ("fsync", "replace", "rename", "mkdir", "pwrite", "truncate")


class PreemptedError(BaseException):
    """What ends a process, whatever it is doing."""


class Disk:
    """Counts the calls that change the disk, and fails at one of them.

    Attributes:
      calls: what was called so far.
    """

    def __init__(self, fails_at: int | None, error_number: int | None):
        self.calls: list[str] = []
        self._fails_at = fails_at
        self._error_number = error_number

    def use(self, name: str, target) -> None:
        """Notes a call, which may fail."""
        self.calls.append(f"{name} {target}")
        if len(self.calls) - 1 == self._fails_at:
            number = self._error_number
            if number is None:
                raise PreemptedError(self.calls[-1])
            raise OSError(number, os.strerror(number), str(target))


@contextlib.contextmanager
def disk(fails_at: int | None, error_number: int) -> Iterator[Disk]:
    """Within, the call number `fails_at` that changes the disk raises.

    Args:
      fails_at: from 0; None to count alone.
      error_number: of `errno`; None for a `PreemptedError`.
    """
    made = Disk(fails_at, error_number)

    def guard(module, name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            if name != "mkdir" or not os.path.exists(args[0]):
                made.use(name, args[0])
            return original(*args, **kwargs)

        patch.setattr(module, name, call)

    original_open = builtins.open

    def guarded_open(file, mode="r", *args, **kwargs):
        if set(mode) & set("wxa+"):
            made.use("open", file)
        return original_open(file, mode, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            guard(os, name)
        # The same function under two names: pathlib uses the second.
        patch.setattr(builtins, "open", guarded_open)
        patch.setattr(io, "open", guarded_open)
        yield made


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Within, no file of this process gets larger, C++ code's included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def numbers_of_calls(work) -> range:
    """The calls that change the disk while `work` runs, by their numbers."""
    with disk(None, 0) as made:
        work()
    assert made.calls
    return range(len(made.calls))
