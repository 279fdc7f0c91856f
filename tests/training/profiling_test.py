import pytest
import tensorflow as tf

from nvae_tf.config.schedules import Coefficients
from nvae_tf.core.errors import UserError
from nvae_tf.model.nvae import NVAE
from nvae_tf.model.regularizers import SpectralRegularizer
from nvae_tf.training.optimizer import Adamax
from nvae_tf.training.profile_times import (
    latest_profile,
    op_times,
    operations,
    table,
)
from nvae_tf.training.profiling import StepProfiler
from nvae_tf.training.train_step import TrainStep
from tests.support import in_process, model_cases


def _profiles(folder):
    return sorted(folder.glob("plugins/profile/*/*.xplane.pb"))


@pytest.fixture(scope="module")
def take_step():
    config = model_cases.small(num_latent_scales=1)
    model = NVAE(config)
    step = TrainStep(
        model, Adamax(model.trainable_variables), SpectralRegularizer(model)
    )
    x = tf.constant(model_cases.images(config))
    coefficients = Coefficients(*map(tf.constant, (1.0, 1e-2, 1e-3)))
    return lambda i: step(x, coefficients, seed=tf.constant([0, i])).nelbo


@pytest.fixture(scope="module")
def profiled(take_step, tmp_path_factory):
    """A workdir with the profile of steps 2 and 3 of five."""
    workdir = tmp_path_factory.mktemp("run")
    folder = workdir / "tensorboard"
    found = []
    with StepProfiler(folder, 2, skip=2) as profiler:
        for i in range(5):
            with profiler.step(i):
                take_step(i).numpy()
            found.append(len(_profiles(folder)))
    return workdir, found


@pytest.mark.long
def test_profile_is_written_when_its_last_step_is_over(profiled):
    assert profiled[1] == [0, 0, 0, 1, 1]


@pytest.mark.long
def test_profile_names_the_steps_and_their_operations(profiled):
    path = latest_profile(profiled[0] / "tensorboard")
    assert b"train" in path.read_bytes()
    times = {time.kind: time for time in op_times(path)}
    assert any("Conv2D" in kind for kind in times)
    assert sum(time.share for time in times.values()) == pytest.approx(1)
    assert all(time.seconds >= 0 for time in times.values())
    # Once per step and variable of the optimiser's moments at least.
    assert times["AssignVariableOp"].count % 2 == 0


@pytest.mark.long
def test_table_has_a_line_per_kind_of_operation(profiled):
    path = latest_profile(profiled[0] / "tensorboard")
    heading, *lines = table(path, 3).splitlines()
    assert heading.split() == ["share", "cumulated", "calls", "operation"]
    kinds = [time.kind for time in op_times(path)]
    assert [line.split()[-1] for line in lines] == kinds[:3]


@pytest.mark.long
def test_command_prints_the_table_of_a_run(profiled, capsys):
    in_process.run("profile", f"--workdir={profiled[0]}", "--num=3")
    path, *lines = capsys.readouterr().out.splitlines()
    assert path == str(latest_profile(profiled[0] / "tensorboard"))
    assert lines == table(path, 3).splitlines()


def test_time_of_an_operation_is_without_that_of_inner_ones(tmp_path):
    """But with that of what is no operation, such as its part of a region."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    plane = space.planes.add()
    line = plane.lines.add()
    for i, (name, start, end) in enumerate(
        [
            ("outer:While", 0, 100),
            ("inner:Mul", 10, 30),
            ("Region", 12, 20),
            ("inner:Add", 40, 45),
            ("after:Mul", 100, 110),
        ]
    ):
        plane.event_metadata[i].name = name
        line.events.add(metadata_id=i, offset_ps=start, duration_ps=end - start)
    path = tmp_path / "x.xplane.pb"
    path.write_bytes(space.SerializeToString())
    seconds = {
        operation.name + operation.kind: round(operation.seconds * 1e12)
        for operation in operations(path)
    }
    assert seconds == {
        "outerWhile": 75,
        "innerMul": 20,
        "innerAdd": 5,
        "afterMul": 10,
    }


def test_interrupted_profile_is_written(tmp_path, capsys):
    def run():
        with StepProfiler(tmp_path, 3, skip=0) as profiler:
            with profiler.step(7):
                tf.constant(1.0).numpy()
            with profiler.step(8):
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run()
    assert len(_profiles(tmp_path)) == 1
    assert "profile of step 7 " in capsys.readouterr().err


def test_run_that_is_too_short_says_so(tmp_path, capsys):
    with StepProfiler(tmp_path, 3) as profiler:
        with profiler.step(0):
            pass
    assert "No profile was written" in capsys.readouterr().err
    assert not _profiles(tmp_path)


def test_no_steps_to_profile_do_nothing(tmp_path, capsys):
    with StepProfiler(tmp_path, 0, skip=0) as profiler:
        with profiler.step(0):
            pass
    assert not _profiles(tmp_path)
    assert not capsys.readouterr().err


def test_negative_numbers_of_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="negative"):
        StepProfiler(tmp_path, -1)


def test_missing_and_damaged_profiles_are_named(tmp_path):
    with pytest.raises(UserError, match="--profile"):
        latest_profile(tmp_path)
    damaged = tmp_path / "x.xplane.pb"
    damaged.write_bytes(b"\xff" * 40)
    with pytest.raises(UserError, match=r"x\.xplane\.pb is not a profile"):
        op_times(damaged)
    damaged.write_bytes(b"")
    with pytest.raises(UserError, match="no operation"):
        op_times(damaged)
