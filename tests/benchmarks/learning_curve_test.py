"""Two programs that learn side by side: rows are kept, and summed up."""

import pytest

from benchmarks import learning_curve
from benchmarks.learning_curve import PROGRAMS


def _row(program, seed, nelbos, epochs=2):
    points = [
        {"step": 90 * (i + 1), "nelbo": n, "active": [1, seed]}
        for i, n in enumerate(nelbos)
    ]
    return {
        "program": program,
        "seed": seed,
        "epochs": epochs,
        "points": points,
    }


_ROWS = [
    _row(PROGRAMS[0], 1, [110.0, 100.0]),
    _row(PROGRAMS[0], 2, [112.0, 98.0]),
    _row(PROGRAMS[1], 1, [109.0, 101.0]),
    _row(PROGRAMS[1], 2, [111.0, 99.0]),
]


def test_difference_is_of_means_and_spread_of_the_peers_runs():
    found = learning_curve.summarize(_ROWS)
    assert found["step"] == [90, 180]
    assert found["difference"] == [1.0, -1.0]
    assert found["spread"] == pytest.approx([2**0.5, 2**0.5])
    assert found["active"][PROGRAMS[0]] == [[1, 1], [1, 2]]


def test_every_seed_is_of_both_programs(tmp_path, monkeypatch):
    asked = []

    def measured(function, **arguments):
        interpreter = arguments.get("interpreter")
        asked.append((function.partition(":")[2], interpreter))
        return {"points": _ROWS[0]["points"]}

    monkeypatch.setattr(learning_curve, "measured", measured)
    out = tmp_path / "rows.jsonl"
    rows = learning_curve.run(out, [1, 2], 2, python="other")
    assert sorted(asked, key=str) == [
        *[("learn", "other")] * 2,
        *[("train_ours", None)] * 2,
    ]
    assert sorted((r["program"], r["seed"]) for r in rows) == sorted(
        (program, seed) for seed in (1, 2) for program in PROGRAMS
    )
    # Runs of another length are others.
    learning_curve.run(out, [1], 3, python="other")
    assert len(asked) == 6
    assert learning_curve.run(out, [1], 2, python="other") == rows


def test_every_run_is_drawn(tmp_path):
    path = tmp_path / "curve.png"
    learning_curve.draw(_ROWS, path)
    assert path.read_bytes().startswith(b"\x89PNG")
