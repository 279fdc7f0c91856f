"""Limits of memory for the fuzzers, and what became of their inputs."""

import json
import os

import pytest

from tests.fuzz import harness


@pytest.fixture(autouse=True)
def _limits():
    with harness.limited_memory():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    reader = getattr(item.function, "reader", None)
    if reader and report.failed:
        harness.COUNTS[reader]["bad"] += 1
    return report


def pytest_terminal_summary(terminalreporter):
    counts = {name: c for name, c in harness.COUNTS.items() if c.total()}
    if not counts:
        return
    terminalreporter.section("inputs of the fuzzers")
    for line in harness.table(counts):
        terminalreporter.line(line)
    path = os.environ.get("NVAE_TF_FUZZ_COUNTS")
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(counts, file)
