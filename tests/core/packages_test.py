"""The shape of the package: what one import brings, and how large parts are.

Which packages may import which is held by import-linter: `make lint`.
"""

import pathlib
import subprocess
import sys

import nvae_tf

_PACKAGE = pathlib.Path(nvae_tf.__file__).parent
_HEAVY = {"absl", "keras", "numpy", "tensorflow", "tensorflow_probability"}


def test_importing_the_package_imports_no_framework():
    program = "import sys, nvae_tf; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stdout.split())
    assert "nvae_tf" in imported
    assert not imported & _HEAVY


def test_no_module_is_too_long_to_be_read_at_once():
    lines = {
        str(path.relative_to(_PACKAGE)): path.read_text("utf-8").count("\n")
        for path in _PACKAGE.rglob("*.py")
    }
    assert lines
    assert not {name: n for name, n in lines.items() if n > 400}


def test_no_package_has_more_modules_than_one_overlooks():
    folders = [path.parent for path in _PACKAGE.rglob("__init__.py")]
    modules = {
        str(folder.relative_to(_PACKAGE)): len(
            [p for p in folder.glob("*.py") if p.name != "__init__.py"]
        )
        for folder in folders
    }
    assert not {name: n for name, n in modules.items() if n > 20}
