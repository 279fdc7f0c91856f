"""How large the package's parts are.

Which packages may import which is held by import-linter: `make lint`.
"""

import pathlib

import nvae_tf

_PACKAGE = pathlib.Path(nvae_tf.__file__).parent


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
