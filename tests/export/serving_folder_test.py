"""The folder of a served model: its versions, and the files beside them."""

import gc
import hashlib
import pathlib
import shutil
import subprocess
import threading
import urllib.parse

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.config import model_server_config_pb2

from nvae_tf.core.errors import ExportError
from nvae_tf.export import saved_model
from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.saved_model import export_saved_model
from nvae_tf.export.served import templates
from nvae_tf.export.served.row_status import OUTPUT
from nvae_tf.export.serving import ServedModel
from nvae_tf.export.serving_files import held_versions
from nvae_tf.export.warmup import example_inputs
from tests.support.export_cases import source
from tests.support.export_servers import Backend, serve_rest

_SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A SavedModel whose weights are variables."""
    path = tmp_path_factory.mktemp("nvae") / "1"
    served = ServedModel(source("served"), max_constant_bytes=0)
    assert served.module.weights
    served.save(str(path))
    return path


def test_variables_outlive_a_collection_of_garbage(exported):
    runner = SavedModelRunner(exported)
    inputs = example_inputs(runner.inputs("sample"), 2, _SHAPE)
    before = runner.run("sample", inputs)
    for _ in range(3):
        gc.collect()
    np.testing.assert_array_equal(
        runner.run("sample", inputs)["images"], before["images"]
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (None, [7]),
        ("", [7]),
        ("model_version_policy { latest { num_versions: 1 } }", [7]),
        ("model_version_policy: { latest: { num_versions: 2 } }", [3, 7]),
        ("model_version_policy { latest { } }", [7]),
        ("# model_version_policy { all {} }", [7]),
        ("model_version_policy { all { } }", [1, 3, 7]),
        ("model_version_policy { specific { versions: 3 } }", [1, 3, 7]),
        ("model_version_policy { latest { num_versions: x } }", [1, 3, 7]),
    ],
)
def test_version_that_a_server_may_hold_is_not_replaced(
    tmp_path, monkeypatch, policy, expected
):
    monkeypatch.setattr(saved_model, "ServedModel", None)  # Not even begun.
    for version in (1, 3, 7):
        (tmp_path / str(version)).mkdir()
    if policy is not None:
        (tmp_path / "models.config").write_text(policy)
    assert held_versions(tmp_path) == expected
    for version in expected:
        with pytest.raises(ExportError, match="what a server holds"):
            export_saved_model(
                source("served"), tmp_path, version=version, overwrite=True
            )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A SavedModel that loads in no time."""
    module = tf.Module()
    module.factor = tf.Variable(2.0)
    double = tf.function(lambda x: {"y": module.factor * x})
    spec = tf.TensorSpec([None], tf.float32, "x")
    path = tmp_path_factory.mktemp("small") / "1"
    tf.saved_model.save(
        module, str(path), {"double": double.get_concrete_function(spec)}
    )
    return path


class _Ready:
    """In place of a model that takes time to trace."""

    folder: pathlib.Path

    def __init__(self, _):
        pass

    def save(self, path):
        shutil.copytree(self.folder, path, dirs_exist_ok=True)


def _digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "count", [20, pytest.param(200, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("in_place", [False, True])
def test_poller_never_sees_half_a_version(
    small, tmp_path, monkeypatch, count, in_place
):
    """One that loads each version the moment its folder appears."""
    monkeypatch.setattr(saved_model, "ServedModel", _Ready)
    monkeypatch.setattr(_Ready, "folder", small, raising=False)
    monkeypatch.setattr(saved_model, "check", lambda *_: None)
    output, seen, problems = tmp_path / "nvae", {}, []
    done = threading.Event()
    if in_place:
        # What would be noticed.
        monkeypatch.setattr(saved_model, "new_folder", _in_place)

    def poll():
        while not done.is_set() or len(seen) < count:
            if done.is_set() and problems:
                return
            for path in output.glob("[0-9]*"):
                if path.name in seen:
                    continue
                # At once, before anything else.
                seen[path.name] = _digests(path)
                try:
                    loaded = tf.saved_model.load(str(path))
                    assert loaded.signatures["double"](tf.ones([1]))
                except Exception as error:
                    problems.append(error)

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        for _ in range(count):
            export_saved_model(source("served"), output, warmup_batch_sizes=())
    finally:
        done.set()
        poller.join()
    whole = {p.name: _digests(p) for p in output.glob("[0-9]*")}
    assert len(whole) == count
    if in_place:
        assert problems or seen != whole
    else:
        assert not problems
        assert seen == whole


class _in_place:  # noqa: N801
    """A version that is written where servers look for it."""

    def __init__(self, path, **_):
        self._path = path

    def __enter__(self):
        self._path.mkdir(parents=True)
        return self._path

    def __exit__(self, *_):
        return False


@pytest.mark.parametrize("name", ["nvae", "My_model.v2", "2nd"])
def test_files_of_containers_agree_with_each_other(name):
    files = templates.fill(name)
    config = text_format.Parse(
        files["models.config"], model_server_config_pb2.ModelServerConfig()
    )
    (model,) = config.model_config_list.config
    compose = yaml.safe_load(files["docker-compose.yml"])["services"]
    assert set(compose) == {name, f"{name}-gpu"}
    # Whoever wants only the one does not get the other.
    assert "profiles" not in compose[name]
    deployment, service = yaml.safe_load_all(files["kubernetes.yaml"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for command in (
        *(c["command"] for c in compose.values()),
        container["args"],
    ):
        for argument in command:
            _, _, value = argument.partition("=")
            if value.startswith("/"):
                folder, _, file = value.rpartition("/")
                assert folder == model.base_path
                assert file in files
    for c in compose.values():
        (mount,) = c["volumes"]
        assert mount == f"./:{model.base_path}:ro"
        # Nobody from outside.
        assert all(port.startswith("127.0.0.1:") for port in c["ports"])
        assert "latest" not in c["image"]
    (mount,) = container["volumeMounts"]
    assert mount["mountPath"] == model.base_path
    assert mount["readOnly"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    for port in service["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    resource = service["metadata"]["name"]
    assert resource[0].isalpha()
    assert resource.replace("-", "").isalnum()
    assert resource == resource.lower()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_health_is_that_of_a_loaded_model(exported):
    def health(name, port):
        compose = yaml.safe_load(templates.fill(name)["docker-compose.yml"])
        kind, *command = compose["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        command[-1] = command[-1].replace("8501", str(port))
        return subprocess.run(command, timeout=60, check=False).returncode

    with serve_rest(Backend(exported)) as url:
        port = urllib.parse.urlsplit(url).port
        assert health("nvae", port) == 0
        assert health("other", port) != 0
    assert health("nvae", port) != 0


# Of the operations in the exports, those that servers of TensorFlow 2.19 have:
# https://github.com/tensorflow/tensorflow/tree/r2.19/tensorflow/core/ops/compat/ops_history_v2
_KNOWN = set(
    (pathlib.Path(__file__).parent / "serving_operations.txt")
    .read_text()
    .split()
)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("normal", "plain_vae")
        ),
    ],
)
def test_older_servers_have_every_operation(name, tmp_path):
    ServedModel(source(name)).save(str(tmp_path / "1"))
    content = (tmp_path / "1" / "saved_model.pb").read_bytes()
    saved = saved_model_pb2.SavedModel.FromString(content)
    (meta,) = saved.meta_graphs
    graph = meta.graph_def
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    assert {node.op for node in nodes} - {
        f.signature.name for f in graph.library.function
    } <= _KNOWN
    # What an older one does not know of is left out where it says nothing.
    assert meta.meta_info_def.stripped_default_attrs
    assert graph.versions.min_consumer <= 12


def test_status_is_an_output_of_every_signature(exported):
    runner = SavedModelRunner(exported)
    for name in runner.names:
        assert runner.outputs(name)[OUTPUT] == ("int32", [None])
