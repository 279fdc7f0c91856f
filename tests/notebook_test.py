"""The notebooks run from the first cell to the last."""

import ast
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.long

_FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "notebooks"
_NOTEBOOKS = sorted(_FOLDER.glob("*.ipynb"))


def _run_cell(source: str, names: dict):
    """Runs a cell; the value of its last line, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "cell", "exec"), names)
        return None
    tree.body.pop()
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run_in_order_and_show_pictures(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    shown = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            # Stored results would say what nobody has checked.
            assert not cell["outputs"]
            shown.append(_run_cell("".join(cell["source"]), names))
    pictures = [p for p in shown if isinstance(p, Image.Image)]
    assert len(pictures) >= 3
    for picture in pictures:
        assert len(np.unique(np.asarray(picture))) > 2


def test_there_is_a_tour():
    assert "tour" in [path.stem for path in _NOTEBOOKS]
