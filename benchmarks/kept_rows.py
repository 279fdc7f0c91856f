"""Many runs that take long: a row for each, kept as they come.

What a file has a row of is not computed again, so that a measurement goes on
after it was ended, and takes in further runs later.
"""

import concurrent.futures
import json
import pathlib
from collections.abc import Callable, Iterable

from nvae_tf.core.errors import UserError
from nvae_tf.core.json_files import read_json_lines
from nvae_tf.distribute.cores import available_cores

__all__ = ["kept_rows"]


def kept_rows(
    out,
    wishes: Iterable[dict],
    compute: Callable[[dict], dict],
    told: Callable[[dict], str],
) -> list[dict]:
    """Computes the rows that a file lacks, one on each core.

    Args:
      out: JSON lines, a row each; made if it is not there.
      wishes: which rows there are to be: the entries that tell one from all
        others, as JSON holds them.
      compute: the other entries of a wish's row, or `{"error": why there are
        none}`.
      told: what to print of a new row.

    Returns:
      All rows of the file, the new ones last, as they came.

    Raises:
      UserError: if one could not be computed; those that were are kept.
    """
    out = pathlib.Path(out)
    found = list(read_json_lines(out)) if out.exists() else []
    missing = [
        wish
        for wish in wishes
        if not any(wish.items() <= row.items() for row in found)
    ]

    with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:
        runs = {pool.submit(compute, wish): wish for wish in missing}
        try:
            for ended in concurrent.futures.as_completed(runs):
                row = runs[ended] | ended.result()
                if "error" in row:
                    what = ", ".join(map(str, runs[ended].values()))
                    raise UserError(f"{what}: {row['error']}")
                found.append(row)
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(told(row), flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    return found
