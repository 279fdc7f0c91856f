"""Packages that are there, as if they were not."""

from __future__ import annotations

import sys

import pytest


def hide_packages(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Lets imports of packages and of what is in them fail."""
    for name in names:
        for module in [name, *sys.modules]:
            if module == name or module.startswith(f"{name}."):
                monkeypatch.setitem(sys.modules, module, None)
