"""The page's worker and engine in Node.js, with a stand-in for the runtime."""

import pathlib

from tests.support.node import call, needs_node

pytestmark = needs_node

_STAGE = pathlib.Path(__file__).parent / "stage.mjs"


def _played(name, *values):
    (result,) = call(_STAGE, name, values)
    return result


def test_long_drawing_keeps_no_other_view_waiting():
    result = _played("turns")
    assert result["rowsBefore"] < 12
    # What is left ends with the part that is being drawn.
    assert result["left"] == "Superseded"
    assert result["rowsAfter"] <= result["rowsBefore"] + 2
