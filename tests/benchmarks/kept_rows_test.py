"""Rows of many runs: kept as they come, and not computed again."""

import json

import pytest

from benchmarks import kept_rows
from nvae_tf.core.errors import UserError


def _rows(out, wishes, results):
    """Of `kept_rows`; every wish takes the next of the results."""
    asked = []

    def compute(wish):
        asked.append(wish)
        return results[len(asked) - 1]

    told = []

    def tell(row):
        told.append(row)
        return "told"

    rows = kept_rows.kept_rows(out, wishes, compute, tell)
    return rows, asked, told


@pytest.fixture(autouse=True)
def _one_core(monkeypatch):
    """One after the other, so that what fails is known."""
    monkeypatch.setattr(kept_rows, "available_cores", lambda: 1)


_WISHES = [{"name": name, "seed": seed} for name in "ab" for seed in (1, 2)]


def test_what_is_there_is_not_computed_again(tmp_path):
    out = tmp_path / "rows.jsonl"
    rows, asked, told = _rows(out, _WISHES[:2], [{"x": [1]}, {"x": [2]}])
    assert rows == told == [w | {"x": [i + 1]} for i, w in enumerate(asked)]
    assert asked == _WISHES[:2]
    rows, asked, told = _rows(out, _WISHES[1:], [{"x": [3]}, {"x": [4]}])
    assert asked == _WISHES[2:]
    assert told == rows[2:]
    assert list(map(json.loads, out.read_text().splitlines())) == rows


def test_what_came_before_an_error_is_kept(tmp_path):
    out = tmp_path / "rows.jsonl"
    results = [{"x": 1}, {"error": "no memory"}, {"x": 3}, {"x": 4}]
    with pytest.raises(UserError, match="a, 2: no memory"):
        _rows(out, _WISHES, results)
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert kept[0] == _WISHES[0] | {"x": 1}
    # The next may have begun before the error was known.
    assert _WISHES[1] not in [
        {"name": r["name"], "seed": r["seed"]} for r in kept
    ]
    _, asked, _ = _rows(out, _WISHES, [{"x": 5}] * 4)
    assert asked[0] == _WISHES[1]
    assert len(asked) + len(kept) == 4
