"""Gives all readers many inputs, a few thousand at a time: `make fuzz`.

    python -m tests.fuzz --inputs=100000 --seed=7

Every part is a process of its own, with other inputs.  What came of it is kept
until all are done, so that a run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys

from tests.fuzz import harness

_PART = 5000
_SECONDS = 4 * 3600


def main() -> int:
    """Runs the parts that are not done yet; returns an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument(
        "--seed", type=int, help="Of the first part; by default another each."
    )
    parser.add_argument("--folder", type=pathlib.Path, default="build/fuzz")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    note = arguments.folder / "seed.json"
    seed = arguments.seed
    if seed is None:
        # A run that was ended had one.
        seed = (
            json.loads(note.read_text())
            if note.exists()
            else secrets.randbelow(2**31)
        )
    note.write_text(json.dumps(seed))
    counts: dict[str, collections.Counter] = {}
    found = []
    for number in range(-(-arguments.inputs // _PART)):
        size = min(_PART, arguments.inputs - number * _PART)
        part = arguments.folder / f"{seed + number}_{size}.json"
        print(f"inputs {number * _PART:,} on, seed {seed + number}", flush=True)
        if not part.exists() and not _run(part, seed + number, size):
            found.append(seed + number)
        if part.exists():
            for reader, outcomes in json.loads(part.read_text()).items():
                kept = counts.setdefault(reader, collections.Counter())
                kept.update(outcomes)
    print("\n".join(harness.table(counts)))
    if found:
        print(
            f"Found something: NVAE_TF_FUZZ_SEED={found[0]} "
            f"NVAE_TF_FUZZ_BUDGET={_PART} python -m pytest -n 0 tests/fuzz"
        )
        return 1
    shutil.rmtree(arguments.folder)
    return 0


def _run(part: pathlib.Path, seed: int, size: int) -> bool:
    """Whether no reader failed; `part` then is what they did."""
    draft = part.with_suffix(".tmp")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--tb=short"]
    command += ["-o", "faulthandler_timeout=0", "tests/fuzz"]
    values = {
        "NVAE_TF_FUZZ_BUDGET": f"{size}",
        "NVAE_TF_FUZZ_SEED": f"{seed}",
        "NVAE_TF_FUZZ_COUNTS": f"{draft}",
    }
    try:
        status = subprocess.run(
            command, env={**os.environ, **values}, timeout=_SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"seed {seed} took more than {_SECONDS} seconds", flush=True)
        return False
    # One that failed is run again, once that is mended.
    if draft.exists() and not status:
        os.replace(draft, part)
    return not status


if __name__ == "__main__":
    sys.exit(main())
