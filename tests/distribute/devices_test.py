"""How a process finds out which devices train with it."""

import json
import types

import pytest
import tensorflow as tf

from nvae_tf.core.errors import UserError
from nvae_tf.distribute import devices, machine, rendezvous, replicas

_SURROUNDINGS = (
    "TF_CONFIG",
    "TPU_NAME",
    "SLURM_PROCID",
    "CUDA_VISIBLE_DEVICES",
    "NVAE_TF_LAUNCHED",
)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nothing around the tests decides how they run."""
    for name in _SURROUNDINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def described(monkeypatch):
    """The cluster resolvers that a strategy was made of; none is set up."""
    found = []

    def strategy(cluster_resolver):
        found.append(cluster_resolver)
        jobs = cluster_resolver.cluster_spec().as_dict()
        count = sum(map(len, jobs.values()))
        return types.SimpleNamespace(num_replicas_in_sync=count)

    def meet(addresses, number, patience, *, run):
        assert 0 <= number < len(addresses)
        assert patience < 60  # Nobody launched this process.

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", strategy)
    monkeypatch.setattr(rendezvous, "meet", meet)
    return found


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs there are; the ones that stay visible are noted."""
    visible = []

    def have(count):
        monkeypatch.setattr(
            tf.config,
            "list_physical_devices",
            lambda kind: [f"{kind}:{i}" for i in range(count)],
        )
        monkeypatch.setattr(
            tf.config, "set_visible_devices", lambda *a: visible.append(a)
        )
        return visible

    return have


def _tf_config(monkeypatch, cluster, task_type, index):
    text = json.dumps(
        {"cluster": cluster, "task": {"type": task_type, "index": index}}
    )
    monkeypatch.setenv("TF_CONFIG", text)


def test_process_alone_uses_one_device():
    found = devices.open_devices("auto")
    assert found.num_replicas == found.local_replicas == found.num_workers == 1
    assert found.is_chief


def test_process_alone_never_makes_a_copy_for_each_gpu(gpus):
    gpus(8)
    assert devices.open_devices("auto").num_replicas == 1


@pytest.mark.parametrize(("index", "gpu"), [(0, 0), (1, 1), (2, 0), (3, 1)])
def test_processes_of_a_machine_take_a_gpu_each(
    monkeypatch, described, gpus, index, gpu
):
    visible = gpus(2)
    workers = ["a:1", "a:2", "b:1", "b:2"]
    _tf_config(monkeypatch, {"worker": workers}, "worker", index)
    assert devices.open_devices("auto").worker == index
    assert visible == [(f"GPU:{gpu}", "GPU")]


def test_process_that_was_given_its_gpu_takes_it(monkeypatch, described, gpus):
    visible = gpus(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    _tf_config(monkeypatch, {"worker": ["a:1", "a:2"]}, "worker", 1)
    assert devices.open_devices("auto").num_replicas == 2
    assert not visible


@pytest.mark.parametrize(
    ("count", "visible"), [(1, None), (4, None), (3, "0,1,2")]
)
def test_other_than_one_process_for_each_gpu_is_refused(
    monkeypatch, described, gpus, count, visible
):
    gpus(count)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    _tf_config(monkeypatch, {"worker": ["a:1", "a:2"]}, "worker", 1)
    with pytest.raises(UserError, match=rf"2 of .* on a, .* {count} GPUs"):
        devices.open_devices("auto")


def test_process_that_was_given_a_gpu_does_not_train_on_a_cpu(
    monkeypatch, described, gpus, driver
):
    gpus(0)
    driver("A", "B")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("NVAE_TF_LAUNCHED", "1")
    _tf_config(monkeypatch, {"worker": ["a:1", "a:2"]}, "worker", 1)
    with pytest.raises(UserError, match="has a GPU"):
        devices.open_devices("auto")
    # Whatever has started it believed the environment.
    driver(None)
    with pytest.raises(UserError, match="has a GPU"):
        devices.open_devices("auto")


@pytest.mark.parametrize("name", ["auto", "multi_worker"])
def test_workers_of_tf_config_are_counted(monkeypatch, described, name):
    workers = ["a:1", "b:1", "c:1"]
    _tf_config(monkeypatch, {"worker": workers}, "worker", 2)
    found = devices.open_devices(name)
    assert described[0].cluster_spec().as_dict() == {"worker": workers}
    assert (found.worker, found.num_workers) == (2, 3)
    assert not found.is_chief


@pytest.mark.parametrize(
    ("task_type", "index", "worker"),
    [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)],
)
def test_chief_of_tf_config_comes_before_its_workers(
    monkeypatch, described, task_type, index, worker
):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    _tf_config(monkeypatch, cluster, task_type, index)
    found = devices.open_devices("auto")
    assert described
    assert (found.worker, found.num_workers) == (worker, 3)
    assert found.is_chief == (worker == 0)


def test_several_workers_need_a_cluster():
    with pytest.raises(UserError, match="--num_processes=N"):
        devices.open_devices("multi_worker")


def test_missing_tpu_is_said_to_be_missing():
    with pytest.raises(UserError, match="--strategy=tpu cannot be set up"):
        devices.open_devices("tpu")


def test_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="mirrored, multi_worker"):
        devices.open_devices("horovod")


def test_missing_process_is_told_and_not_waited_for(monkeypatch):
    monkeypatch.setattr(rendezvous, "PATIENCE_SECONDS", 0.5)
    _tf_config(monkeypatch, {"worker": ["127.0.0.1:1", "b:1"]}, "worker", 1)
    with pytest.raises(UserError, match=r"0 \(127\.0\.0\.1:1\)"):
        devices.open_devices("auto")


def test_parts_of_a_batch_are_told_by_the_replicas_that_take_them():
    strategy = types.SimpleNamespace(num_replicas_in_sync=4)
    second = devices.Devices(strategy, worker=1, num_workers=2)
    parts = second.local_parts(tf.range(6))
    assert {k: v.numpy().tolist() for k, v in parts.items()} == {
        2: [0, 1, 2],
        3: [3, 4, 5],
    }


def test_kind_of_devices_is_the_strategys(monkeypatch):
    assert replicas.device_kind() == "CPU"
    on_cpu = tf.distribute.MirroredStrategy(["CPU:0"])
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda: [
            tf.config.LogicalDevice(f"/device:{kind}:0", kind)
            for kind in ("CPU", "GPU")
        ],
    )
    assert replicas.device_kind() == "GPU"
    with on_cpu.scope():
        assert replicas.device_kind() == "CPU"


@pytest.fixture
def driver(monkeypatch):
    """Sets which GPUs the driver sees; None for no driver."""

    def has(*names):
        def driver_gpus():
            if names == (None,):
                raise FileNotFoundError("nvidia-smi")
            return [machine.Gpu(name, 2**34) for name in names]

        monkeypatch.setattr(machine, "driver_gpus", driver_gpus)

    return has


@pytest.mark.parametrize("visible", [None, "0", "0,1"])
def test_gpu_that_tensorflow_cannot_use_is_not_left_idle(
    gpus, driver, monkeypatch, visible
):
    gpus(0)
    driver("NVIDIA H100")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=r"H100.*nvae doctor.*one_device"):
        devices.open_devices("auto")
    assert devices.open_devices("one_device").num_replicas == 1


@pytest.mark.parametrize("name", ["auto", "multi_worker"])
def test_worker_of_a_cluster_does_not_leave_its_gpu_idle(
    gpus, driver, described, monkeypatch, name
):
    gpus(0)
    driver("NVIDIA H100")
    _tf_config(monkeypatch, {"worker": ["a:1", "a:2"]}, "worker", 1)
    with pytest.raises(UserError, match=r"H100.*CUDA_VISIBLE_DEVICES=-1"):
        devices.open_devices(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.open_devices(name).num_replicas == 2


@pytest.mark.parametrize("visible", ["", "-1", "-1,0"])
def test_gpus_that_are_left_out_on_purpose_are_left_out(
    gpus, driver, monkeypatch, visible
):
    gpus(0)
    driver("NVIDIA H100")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.open_devices("auto").num_replicas == 1


@pytest.mark.parametrize("names", [(None,), ()])
def test_cpu_is_taken_where_there_is_no_gpu(gpus, driver, names):
    gpus(0)
    driver(*names)
    assert devices.open_devices("auto").describe() == "1 CPU"
