"""Several processes of one run: lost, stopped, and started again."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from nvae_tf.core.errors import RESUME_STATUS, UserError
from nvae_tf.distribute import launcher
from nvae_tf.distribute.cores import available_cores
from tests.support.run_helpers import SMALLEST, make_config, write_images
from tests.support.train_processes import TrainingRun

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    images = write_images(tmp_path_factory.mktemp("data") / "blobs.npy")
    return make_config(
        images,
        model=SMALLEST,
        train={"epochs": 5, "batch_size": 2},
        checkpoint={"every_steps": 4},
        evaluation={"every_epochs": 5, "image_temperatures": ()},
    )


def _run(folder, config, **kwargs):
    return TrainingRun(folder, config, flags=("--num_processes=2",), **kwargs)


def _assert_same_end(run, whole):
    ends = [
        r.workdir.checkpoints().restore_latest().tensors for r in (whole, run)
    ]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], value, err_msg=name)
    assert run.metrics() == whole.metrics()


def test_run_of_two_processes_survives_the_loss_of_each_and_a_stop(
    config, tmp_path
):
    whole = _run(tmp_path / "whole", config)
    whole.start()
    assert whole.wait() == 0, whole.log.read_text()
    # On a slow disk, so that there is time to do something to the processes.
    run = _run(tmp_path / "lost", config, slow_disk=0.02)

    run.start(failure="1:10:kill")
    assert run.wait() == RESUME_STATUS, run.log.read_text()
    assert run.saved_step() == 8
    run.start(failure="0:15:kill")
    assert run.wait() == RESUME_STATUS, run.log.read_text()
    assert run.saved_step() == 12
    run.start(failure="1:17:error")
    assert run.wait() == 1, run.log.read_text()
    assert "as it was told to" in run.log.read_text()
    assert run.saved_step() == 16

    run.start()
    run.wait_for(lambda: run.saved_step() >= 24)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.wait() == RESUME_STATUS, run.log.read_text()
    text = run.log.read_text()
    assert f"Stopped at step {run.saved_step()}; the state is saved" in text

    run.start()
    assert run.wait() == 0, run.log.read_text()
    _assert_same_end(run, whole)
    assert (run.workdir.path / "logs/worker_1.log").exists()


def test_peer_that_does_not_come_is_told_within_a_minute(
    config, tmp_path, monkeypatch
):
    """By the process that waits, where no launcher started it."""
    ports = launcher._free_ports(2)
    workers = [f"127.0.0.1:{port}" for port in ports]
    place = {
        "cluster": {"worker": workers},
        "task": {"type": "worker", "index": 0},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(place))
    monkeypatch.delenv("NVAE_TF_LAUNCHED", raising=False)
    run = TrainingRun(tmp_path, config)
    command = [
        sys.executable,
        *("-m", "nvae_tf", "train"),
        f"--config={run._config}",
        f"--workdir={run.workdir.path}",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"within 50 seconds: 1 ({workers[1]})" in done.stderr
    assert "Traceback" not in done.stderr


def _status(tmp_path, program, num_processes=2):
    command = [sys.executable, "-c", program]
    return launcher.launch(num_processes, tmp_path, command)


def test_failure_of_one_process_ends_the_others_and_is_shown(tmp_path, capfd):
    program = """
import json, os, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"]:
    sys.exit("out of memory, say")
time.sleep(600)
"""
    assert _status(tmp_path, program) == 1
    shown = capfd.readouterr().err
    assert "Process 1 ended with status 1" in shown
    assert "out of memory, say" in shown


def test_processes_know_their_places_and_share_the_cores(tmp_path):
    program = """
import json, os, pathlib
place = json.loads(os.environ["TF_CONFIG"])
name = f"place_{place['task']['index']}.json"
place["threads"] = os.environ["TF_NUM_INTRAOP_THREADS"]
path = pathlib.Path(%r) / name
path.write_text(json.dumps(place))
"""
    assert _status(tmp_path, program % str(tmp_path), 3) == 0
    places = [
        json.loads((tmp_path / f"place_{i}.json").read_text()) for i in range(3)
    ]
    clusters = [place["cluster"]["worker"] for place in places]
    assert clusters[0] == clusters[1] == clusters[2]
    assert len(set(clusters[0])) == 3
    cores = available_cores()
    assert {int(place["threads"]) for place in places} == {max(1, cores // 3)}


def test_workdir_that_cannot_hold_the_logs_is_named(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(UserError, match="file cannot be written to"):
        launcher.launch(2, path, ["true"])
