"""What the wheel installs works, far from the clone it was built from."""

import json
import pathlib
import re
import shutil
import zipfile

import pytest

from tests.support.environments import Environment, build_wheel
from tests.support.pretrained_cases import write_pretrained

pytestmark = pytest.mark.long

_SUPPORT = pathlib.Path(__file__).parent / "support"
_ROOT = pathlib.Path(__file__).parents[1]
_CONFIGS = _ROOT / "configs"
_WORKDIR = "--workdir=runs/tiny"
# Three steps of a model that still has two scales and flows.
_TRAIN = (
    "--config=tiny",
    "--config.model.num_groups_per_scale=2",
    "--config.train.epochs=1",
    "--config.train.warmup_epochs=0",
    "--config.train.batch_size=1500",
    "--config.evaluation.final_importance_samples=1",
    "--config.evaluation.image_temperatures=(0.7,)",
)
# Several commands in one process, which imports TensorFlow once.
_SHIP = """
from in_process import run

run("export savedmodel", "--workdir=runs/tiny", "--output=models/nvae")
run("export onnx", "--workdir=runs/tiny", "--output=nvae.onnx")
for export in ("models/nvae", "nvae.onnx"):
    assert run("verify", export, "--workdir=runs/tiny") == 0
import nvae_tf
images = nvae_tf.sample(nvae_tf.load("runs/tiny"), 2)
assert images.shape == (2, 8, 8, 3)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # With one more model than the project has, which may be large.
    return build_wheel(
        tmp_path_factory.mktemp("wheel"),
        lambda copy: write_pretrained(
            copy / "nvae_tf" / "pretrained" / "blobs"
        ),
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel):
    """With the core dependencies alone, until a test adds the others."""
    environment = Environment(tmp_path_factory.mktemp("far"), wheel)
    for name in ("help_pages.py", "in_process.py"):
        shutil.copy(_SUPPORT / name, environment.packages)
    return environment


def test_wheel_installs_one_name_with_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    top = {name.partition("/")[0] for name in names}
    assert [n for n in top if not n.endswith(".dist-info")] == ["nvae_tf"]
    presets = {path.name for path in _CONFIGS.glob("*.py")}
    assert {f"nvae_tf/configs/{name}" for name in presets} <= names
    assert {
        "nvae_tf/py.typed",
        "nvae_tf/datasets/mnist_5k.npz",
        "nvae_tf/report/templates/report.html",
    } <= names
    models = _ROOT / "nvae_tf" / "pretrained"
    shipped = {p.relative_to(_ROOT) for p in models.rglob("*") if p.is_file()}
    assert shipped
    assert {path.as_posix() for path in shipped} <= names


def test_environment_is_far_from_the_clone(environment):
    where = environment.run("python", "-c", "import nvae_tf as n; print(n)")
    assert str(environment.packages) in where
    environment.run(
        "python",
        "-c",
        "from importlib.util import find_spec as f; "
        "assert not any(map(f, ['configs', 'export', 'tests', 'onnx']))",
    )


def test_commands_explain_themselves(environment):
    assert "nvae train" in environment.run("nvae")
    printed = json.loads(environment.run("python", "-m", "help_pages"))
    for words, page in printed["pages"].items():
        assert page["status"] == 0, page["text"]
        assert f"nvae {words}" in page["text"]
    assert "tensorflow" not in printed["modules"]


def test_models_come_with_the_wheel(environment):
    printed = environment.run("nvae", "models")
    assert re.search("^blobs .*8x8x1", printed, re.MULTILINE)
    environment.run("nvae", "sample", "--model=blobs", "--output=blobs.png")
    assert (environment.here / "blobs.png").is_file()
    hub = ("sample", "--model=hf://user/repo")
    message = environment.run("nvae", *hub, status=2)
    assert 'pip install ".[hub]" in a clone' in message


def test_training_needs_the_core_dependencies_alone(environment):
    environment.run("nvae", "train", *_TRAIN, _WORKDIR)
    assert (environment.here / "runs/tiny/checkpoints/00000003").is_dir()
    # What needs more says so, before any work, and where to get it.
    for command, extra in (
        (("export", "onnx"), "onnx"),
        (("export", "savedmodel"), "serving"),
        (("report",), "report"),
    ):
        message = environment.run("nvae", *command, _WORKDIR, status=2)
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        assert f'pip install ".[{extra}]" in a clone' in message
        assert f'.whl[{extra}]"' in message


def test_trained_model_is_drawn_from_and_shipped(environment):
    if not (environment.here / "runs/tiny").exists():
        environment.run("nvae", "train", *_TRAIN, _WORKDIR)
    environment.run("nvae", "sample", _WORKDIR, "--num=4")
    assert (environment.here / "samples.png").is_file()
    environment.add_everything()
    environment.run("python", "-c", _SHIP)
    sampler = ("onnx_sampler.py", "nvae.onnx", "--num=4", "--output=onnx.png")
    environment.run("python", *sampler)
    assert (environment.here / "onnx.png").is_file()
