"""Training survives: killed anywhere, it ends as if nothing had happened."""

import collections
import os
import signal
import time

import numpy as np
import pytest

from nvae_tf.core.errors import RESUME_STATUS
from nvae_tf.training.watchdog import STACKS_FILE, Watchdog
from tests.support import train_processes
from tests.support.run_helpers import SMALLEST, make_config, write_images
from tests.support.train_processes import TrainingRun

pytestmark = pytest.mark.long

_STEPS_PER_EPOCH = 9
_SOAK_KILLS = int(os.environ.get("NVAE_TF_SOAK_KILLS", "50"))
# Seconds: a kill must be able to come in the middle of writing.
_SLOW_DISK = 0.02


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "blobs.npy")


def _config(images, epochs=4, model=SMALLEST):
    return make_config(
        images,
        model=model,
        data={"num_workers": 1},
        train={"epochs": epochs, "batch_size": 4, "ema_decay": 0.9},
        checkpoint={"every_steps": 4, "keep": 2},
        evaluation={"image_temperatures": ()},
    )


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """Two runs of the same command that nothing disturbs."""
    runs = [
        TrainingRun(tmp_path_factory.mktemp("whole"), _config(images))
        for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        assert run.wait() == 0, run.log.read_text()
    return runs


def _assert_same_end(run, whole):
    """The same weights, statistics, moments, state and metrics, to the bit."""
    a, b = (
        r.workdir.checkpoints().restore_latest(discard=False)
        for r in (run, whole)
    )
    assert a.step == b.step
    assert a.metadata == b.metadata
    assert a.tensors.keys() == b.tensors.keys()
    for name, value in b.tensors.items():
        np.testing.assert_array_equal(a.tensors[name], value, err_msg=name)
    assert run.metrics() == whole.metrics()


def _moments(count, epochs, seed):
    """Kinds of moments, and the steps after which they come."""
    random = np.random.default_rng(seed)
    kinds = ["starting", "training", "writing", "evaluating"]
    kinds = [kinds[i % 4] for i in range(count)]
    random.shuffle(kinds)
    last = (epochs - 1) * _STEPS_PER_EPOCH
    steps = np.sort(random.integers(0, last, count))
    return list(zip(kinds, steps.tolist(), random.random(count), strict=True))


def _kill(run, kind, step, share, start_up):
    """Kills a process that has just been started; returns its phase."""
    begin = time.monotonic()
    reached = {
        "starting": lambda: time.monotonic() - begin >= share * start_up,
        "training": lambda: not run.is_starting() and run.step() > step,
        "writing": lambda: run.is_writing() and run.step() > step,
        "evaluating": lambda: run.is_evaluating() and run.saved_step() > step,
    }
    run.wait_until(reached[kind])
    phase = run.phase()
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    return phase


def _kill_again_and_again(run, moments):
    """Returns how many kills came in each phase."""
    begin = time.monotonic()
    run.start()
    run.wait_until(lambda: not run.is_starting())
    start_up = time.monotonic() - begin
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    phases = collections.Counter(training=1)
    for kind, step, share in moments:
        run.start()
        phases[_kill(run, kind, step, share, start_up)] += 1
    run.start()
    assert run.wait() == 0, run.log.read_text()
    return phases


def test_same_command_twice_gives_the_same_run(finished):
    _assert_same_end(*finished)


def test_run_that_is_killed_at_every_phase_ends_like_one_that_is_not(
    finished, images, tmp_path
):
    run = TrainingRun(tmp_path, _config(images), _SLOW_DISK)
    phases = _kill_again_and_again(run, _moments(4, epochs=4, seed=1))
    assert phases.total() == 5
    assert {*phases} == {"starting", "training", "writing", "evaluating"}
    _assert_same_end(run, finished[0])


@pytest.mark.soak
def test_hierarchy_that_is_killed_fifty_times_ends_like_one_that_is_not(
    images, tmp_path
):
    config = _config(
        images,
        epochs=12,
        model={"architecture": "res_mbconv", "use_se": True},
    )
    whole = TrainingRun(tmp_path / "whole", config)
    whole.start()
    assert whole.wait() == 0, whole.log.read_text()
    run = TrainingRun(tmp_path / "killed", config, _SLOW_DISK)
    moments = _moments(_SOAK_KILLS - 1, epochs=12, seed=2)
    phases = _kill_again_and_again(run, moments)
    assert phases.total() == _SOAK_KILLS
    for phase in ("starting", "training", "writing", "evaluating"):
        assert phases[phase] >= _SOAK_KILLS // 10
    _assert_same_end(run, whole)


@pytest.mark.soak
def test_two_processes_killed_fifty_times_end_like_two_that_are_not(
    images, tmp_path
):
    """One of them or both: in a step, an evaluation, writing and rotation."""
    epochs = 24
    config = make_config(
        images,
        model=SMALLEST,
        train={"epochs": epochs, "batch_size": 2, "ema_decay": 0.9},
        checkpoint={"every_steps": 3, "keep": 2},
        evaluation={"image_temperatures": ()},
    )
    flags = ("--num_processes=2",)
    whole = TrainingRun(tmp_path / "whole", config, flags=flags)
    whole.start()
    assert whole.wait() == 0, whole.log.read_text()
    places = [
        (process, place)
        for place in ("step", "evaluation", "writing", "rotation")
        for process in ("0", "1", "all")
        # Only the first one writes.
        if place in ("step", "evaluation") or process != "1"
    ]
    run = TrainingRun(tmp_path / "killed", config, flags=flags)
    last = whole.step() - 2 * _STEPS_PER_EPOCH
    for number in range(_SOAK_KILLS):
        process, place = places[number % len(places)]
        step = number * last // _SOAK_KILLS
        run.start(failure=f"{process}:{step}:kill:{place}")
        assert run.wait() == RESUME_STATUS, run.log.read_text()
        assert run.saved_step() < whole.step()
    run.start()
    assert run.wait() == 0, run.log.read_text()
    _assert_same_end(run, whole)


def test_run_told_to_stop_saves_and_goes_on_and_keeps_others_out(
    finished, images, tmp_path
):
    run = TrainingRun(tmp_path, _config(images))
    run.start()
    run.wait_until(lambda: not run.is_starting() and run.step() >= 5)
    other = TrainingRun(tmp_path, _config(images))
    other.log = tmp_path / "other.txt"
    other.start()
    assert other.wait() == 2
    assert "Another process is training in" in other.log.read_text()
    begin = time.monotonic()
    run.signal(signal.SIGTERM)
    assert run.wait() == RESUME_STATUS
    assert time.monotonic() - begin < 20
    assert run.saved_step() == run.step()
    assert f"Stopped at step {run.step()}; the state is saved" in (
        run.log.read_text()
    )
    run.start()
    assert run.wait() == 0
    _assert_same_end(run, finished[0])


def test_disk_without_room_stops_the_run_and_costs_no_checkpoint(
    finished, images, tmp_path
):
    run = TrainingRun(tmp_path, _config(images))
    run.start()
    run.wait_until(lambda: run.saved_step() >= 4 and run.step() > 4)
    saved = run.saved_step()
    arrays = run.workdir.path / f"checkpoints/{saved:08d}/tensors.safetensors"
    assert arrays.stat().st_size > train_processes.FILE_LIMIT
    run.signal(signal.SIGUSR1)
    assert run.wait() == 2
    assert "error: Cannot write the checkpoint" in run.log.read_text()
    checkpoint = run.workdir.checkpoints().restore_latest()
    assert checkpoint.step >= saved
    run.start()
    assert run.wait() == 0
    _assert_same_end(run, finished[0])


def _hang_in_tensorflow(folder, log):
    train_processes.write_output_to(log)
    import tensorflow as tf

    queue = tf.queue.FIFOQueue(1, tf.float32)
    wait = tf.function(queue.dequeue)
    with Watchdog(1.0, folder) as watchdog:
        watchdog.beat("step 3")
        wait()


def test_process_that_hangs_in_tensorflow_ends_with_the_status_to_resume(
    tmp_path,
):
    process = train_processes.start(
        _hang_in_tensorflow, tmp_path, tmp_path / "log.txt"
    )
    process.join(120)
    assert process.exitcode == RESUME_STATUS
    assert "after step 3" in (tmp_path / "log.txt").read_text()
    stacks = (tmp_path / STACKS_FILE).read_text()
    assert "_hang_in_tensorflow" in stacks
