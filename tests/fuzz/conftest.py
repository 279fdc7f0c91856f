"""Limits of memory for the fuzzers, and what became of their inputs."""

import pytest

from tests.fuzz import harness


@pytest.fixture(autouse=True)
def _limits():
    with harness.limited_memory():
        yield


def pytest_terminal_summary(terminalreporter):
    rows = {name: c for name, c in harness.COUNTS.items() if c.total()}
    if not rows:
        return
    terminalreporter.section("inputs of the fuzzers")
    total = 0
    for name, counts in sorted(rows.items()):
        number = counts["read"] + counts["refused"]
        total += number
        terminalreporter.line(
            f"{name:24} {number:8,} {counts['read']:8,} read "
            f"{counts['refused']:8,} refused "
            f"{counts['milliseconds'] / max(number, 1):8.2f} ms each"
        )
    terminalreporter.line(f"{'in all':24} {total:8,}")
