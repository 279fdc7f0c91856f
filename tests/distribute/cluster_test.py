"""What describes the processes of a run."""

import json
import os
import subprocess
import sys

import pytest

from nvae_tf.core.errors import UserError
from nvae_tf.distribute import cluster

_PROCESS = """
import json, pathlib, sys
import tensorflow as tf
from nvae_tf.distribute import devices, replicas

found = devices.open_devices("auto")

@tf.function(autograph=False)
def total():
    own = tf.constant([1.0 + found.worker])
    return found.strategy.run(replicas.total, (own,))

result = [found.worker, found.num_workers, float(total()[0])]
path = pathlib.Path(sys.argv[1]) / f"{found.worker}.json"
path.write_text(json.dumps(result))
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Sets what a process finds around it, and nothing else."""
    for name in os.environ:
        if name.startswith(("SLURM_", "TF_CONFIG", "NVAE_TF_LAUNCHED")):
            monkeypatch.delenv(name)

    def set_them(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_them


def _step(number, nodes, tasks, count, **more):
    """Variables of one of srun's tasks."""
    variables = {
        "PROCID": number,
        "NTASKS": count,
        "STEP_NUM_TASKS": count,
        "STEP_NODELIST": nodes,
        "STEP_TASKS_PER_NODE": tasks,
        **more,
    }
    return {f"SLURM_{name}": str(v) for name, v in variables.items()}


def test_process_alone_is_of_no_cluster():
    assert cluster.find() is None


@pytest.mark.parametrize(
    ("nodes", "tasks", "hosts"),
    [
        ("node7", "2", ["node7"] * 2),
        ("n[7-8]", "2(x2)", ["n7", "n7", "n8", "n8"]),
        ("n[08-10]", "1(x3)", ["n08", "n09", "n10"]),
        ("a1,b[2,4-5]", "1(x2),2,1", ["a1", "b2", "b4", "b4", "b5"]),
        ("gpu-a[1-2]-ib", "1(x2)", ["gpu-a1-ib", "gpu-a2-ib"]),
        ("r[1-2]n[3-4]", "1(x4)", ["r1n3", "r1n4", "r2n3", "r2n4"]),
    ],
)
def test_tasks_of_slurm_find_each_other(surroundings, nodes, tasks, hosts):
    places = []
    for number in range(len(hosts)):
        surroundings(**_step(number, nodes, tasks, len(hosts)))
        found = cluster.find()
        assert found.index == number
        places.append(found.addresses)
    assert len(set(places)) == 1
    assert [a.rpartition(":")[0] for a in places[0]] == hosts
    assert len(set(places[0])) == len(hosts)


def test_steps_that_share_a_node_have_ports_of_their_own(surroundings):
    addresses = set()
    # The sums of some of them are the same.
    steps = ((900, 0), (900, 1), (907, 0), (901, 0), (1156, 0))
    for job, step in steps:
        surroundings(
            **_step(0, "n1", "8", 8, JOB_ID=job, STEP_ID=step, LOCALID=0)
        )
        addresses |= {*cluster.find().addresses}
    assert len(addresses) == 8 * len(steps)


def test_batch_script_without_srun_is_told_to_use_it(surroundings):
    surroundings(SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_JOB_ID="7")
    with pytest.raises(UserError, match=r"8 tasks.* put srun in front"):
        cluster.find()
    surroundings(SLURM_NTASKS="1")
    assert cluster.find() is None


@pytest.mark.parametrize(
    ("number", "nodes", "tasks"),
    [(0, "", "2"), (0, "n1", "2(x2)"), (0, "n1", "3"), (2, "n1", "2")],
)
def test_step_that_contradicts_itself_is_refused(
    surroundings, number, nodes, tasks
):
    surroundings(**_step(number, nodes, tasks, 2))
    with pytest.raises(UserError, match="contradict each other"):
        cluster.find()


def test_tasks_that_are_dealt_out_in_turn_are_refused(surroundings):
    surroundings(**_step(1, "n[1-2]", "2(x2)", 4, NODEID=1, LOCALID=0))
    with pytest.raises(UserError, match="--distribution=block"):
        cluster.find()
    surroundings(SLURM_NODEID="0", SLURM_LOCALID="1")
    assert cluster.find().index == 1


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "7",
        "[" * 50_000,
        '{"cluster": []}',
        '{"cluster": {"worker": 3}}',
        '{"cluster": {"worker": ["a:1", 2]}}',
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps"}}',
        '{"cluster": {"worker": ["a:1"]}, "task": ["worker", 0]}',
        '{"cluster": {"worker": ["a:1"]}, '
        '"task": {"type": "worker", "index": 1}}',
    ],
    ids=lambda text: text[:70],
)
def test_tf_config_that_describes_nothing_is_refused(surroundings, text):
    surroundings(TF_CONFIG=text)
    with pytest.raises(UserError, match="TF_CONFIG in the environment"):
        cluster.find()


@pytest.mark.parametrize("text", ["{}", '{"cluster": {}}'])
def test_empty_tf_config_is_no_cluster(surroundings, text):
    surroundings(TF_CONFIG=text)
    assert cluster.find() is None


def test_tf_config_comes_before_slurm(surroundings):
    """The launcher's processes may run in a step."""
    place = {
        "cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]},
        "task": {"type": "worker", "index": "1"},
    }
    surroundings(TF_CONFIG=json.dumps(place), **_step(0, "n1", "1", 1))
    assert cluster.find() == (("a:1", "b:1", "c:1"), 2, "")


@pytest.mark.long
def test_tasks_of_slurm_reduce_together(tmp_path):
    """Real processes, in a step that no Slurm has started."""
    surroundings = dict(os.environ)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(tmp_path)],
            env={
                **surroundings,
                **_step(i, "localhost", "2", 2, JOB_ID=os.getpid()),
                "SLURM_NODEID": "0",
                "SLURM_LOCALID": str(i),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    for i in range(2):
        result = json.loads((tmp_path / f"{i}.json").read_text())
        assert result == [i, 2, 3.0]
