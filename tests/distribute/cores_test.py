"""How a process shares the cores and its heap."""

import pathlib
import subprocess
import sys
import textwrap

import pytest

from nvae_tf.distribute.cores import available_cores


def _run(program, **environment):
    program = "from nvae_tf.distribute import cores\n" + textwrap.dedent(
        program
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=pathlib.Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )


_THREADS = """
    import tensorflow as tf
    {first}
    cores.share_cores({work})
    print(tf.config.threading.get_intra_op_parallelism_threads())
"""


@pytest.mark.parametrize(
    ("work", "first", "environment", "expected"),
    [
        (2**20, "", {}, max(1, available_cores() // 2)),
        # 0: as many as there are cores.
        (2**30, "", {}, 0),
        (2**20, "tf.constant(1.0)", {}, 0),
        (2**20, "", {"TF_NUM_INTRAOP_THREADS": "3"}, 0),
    ],
)
def test_small_operations_share_the_cores(work, first, environment, expected):
    program = _THREADS.format(work=work, first=first)
    assert _run(program, **environment).stdout.split() == [str(expected)]
