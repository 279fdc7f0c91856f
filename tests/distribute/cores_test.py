"""How a process shares the cores and its heap."""

import os

import pytest

from nvae_tf.distribute import cores
from nvae_tf.distribute.cores import available_cores
from tests.support import train_processes


def _share(work, is_late, environment, path):
    """Shares the cores in a process that has not used TensorFlow."""
    os.environ.pop("TF_NUM_INTRAOP_THREADS", None)
    os.environ.update(environment)
    import tensorflow as tf

    if is_late:
        tf.constant(1.0)
    cores.share_cores(work)
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    path.write_text(str(threads))


@pytest.mark.parametrize(
    ("work", "is_late", "environment", "expected"),
    [
        (2**20, False, {}, max(1, available_cores() // 2)),
        # 0: as many as there are cores.
        (2**30, False, {}, 0),
        (2**20, True, {}, 0),
        (2**20, False, {"TF_NUM_INTRAOP_THREADS": "3"}, 0),
    ],
)
def test_small_operations_share_the_cores(
    tmp_path, work, is_late, environment, expected
):
    path = tmp_path / "threads"
    process = train_processes.start(_share, work, is_late, environment, path)
    process.join(60)
    assert process.exitcode == 0
    assert path.read_text() == str(expected)
