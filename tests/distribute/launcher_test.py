"""Several processes of one run: lost, stopped, and started again."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nvae_tf.core.errors import RESUME_STATUS, UserError
from nvae_tf.distribute import launcher, machine
from nvae_tf.distribute.cores import available_cores
from tests.support import failing_train
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


@pytest.mark.parametrize("process", [0, 1])
def test_processes_go_back_together_when_the_steps_of_one_fail(
    config, tmp_path, process
):
    train = dataclasses.replace(
        config.train, epochs=2, skips_before_rollback=2, max_rollbacks=1
    )
    run = _run(tmp_path, dataclasses.replace(config, train=train))
    run.start(failure=f"{process}:10:nan")
    assert run.wait() == 0, run.log.read_text()
    records = [*map(json.loads, run.metrics().splitlines())]
    steps = [r for r in records if r["kind"] == "train"]
    assert [r["step"] for r in steps] == [*range(1, 19)]
    # Not one of those that were skipped is among them.
    assert not any(r["skipped"] for r in steps)
    assert all(np.isfinite(r["nelbo"]) for r in steps)
    (event,) = (r for r in records if r["kind"] == "rollback")
    assert (event["step"], event["failed_at"]) == (8, 12)
    checkpoint = run.workdir.checkpoints().restore_latest()
    assert checkpoint.step == 18
    (rollback,) = checkpoint.metadata["rollbacks"]
    assert rollback["target"] == 8
    # The first process says what it knows, the other in a log of its own.
    ends = [
        line
        for log in (run.log, run.workdir.path / "logs/worker_1.log")
        for line in log.read_text().splitlines()
        if line.startswith(failing_train.STATE)
    ]
    assert len(ends) == 2
    assert ends[0] == ends[1]


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


def test_run_goes_on_with_fewer_processes_and_with_more(config, tmp_path):
    """A step is the same, but for the noise, which each draws for itself."""
    # What the encoder's normalisations have seen depends on the images, their
    # order and the weights, which stay what they are.
    train = dataclasses.replace(
        config.train, epochs=3, learning_rate=1e-12, min_learning_rate=0.0
    )
    config = dataclasses.replace(config, train=train)
    whole = _run(tmp_path / "whole", config)
    whole.start()
    assert whole.wait() == 0, whole.log.read_text()
    run = _run(tmp_path / "changed", config)
    run.start(failure="0:10:kill")
    assert run.wait() == RESUME_STATUS, run.log.read_text()

    alone = ("--num_processes=1", "--strategy=one_device")
    run.start(*alone)
    assert run.wait() == 2
    text = run.log.read_text()
    assert "trained with 4 images per step" in text
    assert "Set --config.train.batch_size=4" in text
    assert "Traceback" not in text

    alone = (*alone, "--config.train.batch_size=4")
    run.start(*alone, failure="0:18:kill")
    assert run.wait() == -signal.SIGKILL, run.log.read_text()
    assert run.saved_step() == 16

    run.start()
    assert run.wait() == 0, run.log.read_text()
    records = map(json.loads, run.metrics().splitlines())
    steps = [r["step"] for r in records if r["kind"] == "train"]
    assert steps == list(range(1, 28))
    first, second = (
        {
            name: tensor
            for name, tensor in each.workdir.checkpoints()
            .restore_latest()
            .tensors.items()
            if name.startswith("model/encoder/")
        }
        for each in (whole, run)
    )
    assert any(name.endswith("/variance") for name in first)
    for name, tensor in first.items():
        np.testing.assert_allclose(
            second[name], tensor, rtol=1e-4, atol=1e-6, err_msg=name
        )


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


def test_processes_stop_when_their_launcher_is_killed(tmp_path):
    worker = """
import os, pathlib, time
from nvae_tf.distribute import launcher
launcher.end_with_launcher()
path = pathlib.Path(%r) / f"{os.getpid()}.pid"
path.touch()
time.sleep(600)
"""
    program = f"""
import sys
from nvae_tf.distribute import launcher
command = [sys.executable, "-c", {worker % str(tmp_path)!r}]
launcher.launch(2, {str(tmp_path)!r}, command)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    _wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert all(map(_runs, pids))
    process.kill()
    process.wait()
    _wait_for(lambda: not any(map(_runs, pids)))


def _wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Ended, but for its parent to notice.
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2][1] != "Z"


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


_TWO_WORKERS = json.dumps(
    {
        "cluster": {"worker": ["a:1", "a:2"]},
        "task": {"type": "worker", "index": 1},
    }
)


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs there are, and which of them to use."""

    def have(count, visible=None):
        found = [machine.Gpu("A", None)] * count
        monkeypatch.setattr(machine, "driver_gpus", lambda: found)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    for name in ("TF_CONFIG", "SLURM_PROCID", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    return have


@pytest.mark.parametrize(
    ("count", "visible", "expected"),
    [
        (0, None, 1),
        (8, None, 8),
        (8, "2,5", 2),
        (8, "", 1),
        (8, "-1", 1),
        (8, "3,-1,4", 1),
    ],
)
def test_run_wants_a_process_for_each_gpu(gpus, count, visible, expected):
    gpus(count, visible)
    assert launcher.processes_to_launch() == expected


def test_machine_without_a_driver_gets_one_process(gpus, monkeypatch):
    gpus(0)

    def missing():
        raise FileNotFoundError

    monkeypatch.setattr(machine, "driver_gpus", missing)
    assert launcher.processes_to_launch() == 1


@pytest.mark.parametrize(
    ("surroundings", "expected"),
    [
        ({"TF_CONFIG": _TWO_WORKERS}, 1),
        ({"TPU_NAME": "v4"}, 1),
        ({"TF_CONFIG": "{}", "SLURM_PROCID": "0"}, 8),
    ],
)
def test_process_of_several_launches_no_others(
    gpus, monkeypatch, surroundings, expected
):
    gpus(8)
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    assert launcher.processes_to_launch() == expected


def test_more_processes_than_gpus_are_refused(gpus, tmp_path):
    gpus(2)
    with pytest.raises(UserError, match="more than the 2 GPUs"):
        launcher.launch(3, tmp_path, ["true"])
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1"]), ("4,7", ["4", "7"]), ("-1", ["-1", "-1"])],
)
def test_processes_get_a_gpu_each(gpus, tmp_path, visible, expected):
    gpus(2, visible)
    program = """
import json, os, pathlib
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
path = pathlib.Path(%r) / f"gpu_{index}"
path.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
"""
    assert _status(tmp_path, program % str(tmp_path)) == 0
    found = [(tmp_path / f"gpu_{i}").read_text() for i in range(2)]
    assert found == expected


def test_workdir_that_cannot_hold_the_logs_is_named(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(UserError, match="file cannot be written to"):
        launcher.launch(2, path, ["true"])
