"""Starting several processes, without TensorFlow: what is quickly tested."""

import json
import sys

import pytest

from nvae_tf.core.errors import RESUME_STATUS, UserError
from nvae_tf.distribute import launcher, machine
from nvae_tf.training import dry_run
from tests.support.in_process import run

_TWO_WORKERS = json.dumps(
    {
        "cluster": {"worker": ["a:1", "a:2"]},
        "task": {"type": "worker", "index": 1},
    }
)
_VARIABLES = ("TF_CONFIG", "SLURM_PROCID", "TPU_NAME", "CUDA_VISIBLE_DEVICES")


def test_first_process_that_saves_is_waited_for_when_others_have_stopped(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.05)
    program = """
import json, os, pathlib, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
    time.sleep(1.5)
    pathlib.Path(%r, "saved").touch()
sys.exit(75)
"""
    command = [sys.executable, "-c", program % str(tmp_path)]
    assert launcher.launch(2, tmp_path, command) == RESUME_STATUS
    assert (tmp_path / "saved").exists()


def test_process_that_hangs_when_the_first_has_stopped_is_ended(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.05)
    program = """
import json, os, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"]:
    time.sleep(600)
sys.exit(75)
"""
    command = [sys.executable, "-c", program]
    assert launcher.launch(2, tmp_path, command) == RESUME_STATUS


def test_first_process_that_never_has_saved_is_ended_at_last(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(launcher, "_SAVING_SECONDS", 0.1)
    program = """
import json, os, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
    time.sleep(600)
sys.exit(75)
"""
    command = [sys.executable, "-c", program]
    assert launcher.launch(2, tmp_path, command) == RESUME_STATUS


@pytest.fixture
def planned(monkeypatch):
    """What a dry run with these flags counts as replicas, on four GPUs."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    found = [machine.Gpu("A", None)] * 4
    monkeypatch.setattr(machine, "driver_gpus", lambda: found)
    monkeypatch.setattr(
        dry_run, "describe", lambda config, num_replicas: num_replicas
    )
    # It would start this test again.
    monkeypatch.setattr(launcher, "launch", lambda *_: 0)

    def plan(capsys, *flags):
        run("train", "--config=configs/tiny.py", "--dry_run", *flags)
        return int(capsys.readouterr().out)

    return plan


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), 4),
        (["--num_processes=2"], 2),
        (["--num_processes=2", "--strategy=multi_worker"], 2),
        (["--strategy=mirrored"], 4),
        (["--strategy=one_device"], 1),
        (["--num_processes=1", "--strategy=one_device"], 1),
    ],
)
def test_dry_run_plans_for_the_devices_of_the_run(
    planned, capsys, flags, expected
):
    assert planned(capsys, *flags) == expected


def test_dry_run_of_a_cluster_plans_for_all_of_it(planned, capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _TWO_WORKERS)
    assert planned(capsys) == 2
    assert planned(capsys, "--strategy=one_device") == 1


@pytest.mark.parametrize("strategy", ["one_device", "mirrored", "tpu"])
@pytest.mark.parametrize("more", ["--dry_run", "--nodry_run"])
def test_processes_of_a_strategy_for_one_are_refused(
    planned, tmp_path, strategy, more
):
    with pytest.raises(UserError, match=f"--strategy={strategy} each would"):
        run(
            "train",
            "--config=configs/tiny.py",
            f"--workdir={tmp_path}",
            "--num_processes=2",
            f"--strategy={strategy}",
            more,
        )


@pytest.mark.parametrize("more", ["--dry_run", "--nodry_run"])
def test_process_of_a_cluster_starts_no_others(
    planned, tmp_path, monkeypatch, more
):
    monkeypatch.setenv("TF_CONFIG", _TWO_WORKERS)
    with pytest.raises(UserError, match="describes 2 processes of this run"):
        run(
            "train",
            "--config=configs/tiny.py",
            f"--workdir={tmp_path}",
            "--num_processes=2",
            more,
        )
