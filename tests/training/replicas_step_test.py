"""Training on several replicas gives what one replica gives.

The same images and noise: once as one batch, once split over logical devices
of a process, once over processes on this machine.
"""

import subprocess
import sys

import numpy as np
import pytest

from nvae_tf.distribute import launcher

pytestmark = pytest.mark.long

_SCRIPT = [sys.executable, "-m", "tests.training.replica_script"]


def _run(folder, strategy, replicas):
    out = folder / f"{strategy}_{replicas}.npz"
    command = [*_SCRIPT, str(out), strategy, str(replicas)]
    if strategy == "multi_worker":
        assert launcher.launch(replicas, folder, command) == 0
    else:
        subprocess.run(command, check=True, capture_output=True)
    return dict(np.load(out))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def alone(folder):
    return _run(folder, "one_device", 1)


@pytest.mark.parametrize(
    ("strategy", "replicas"),
    [("mirrored", 2), ("multi_worker", 2), ("multi_worker", 4)],
)
def test_replicas_train_as_one_with_the_whole_batch(
    folder, alone, strategy, replicas
):
    several = _run(folder, strategy, replicas)
    assert several.keys() == alone.keys()
    for name, expected in alone.items():
        if name.endswith("stop_requests"):
            continue
        np.testing.assert_allclose(
            several[name], expected, rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert several["0/stop_requests"] == replicas
    # An image of NaN on one replica held all of them back, once.
    skipped = [int(several[f"{i}/skipped"]) for i in range(3)]
    assert skipped == [0, 1, 1]
    assert int(several["state/training/updates"]) == 2
    assert np.isfinite(several["2/total_loss"])
