"""SavedModels without Python code of ours: as TF Serving and C load them."""

import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.export.runners import SavedModelRunner
from nvae_tf.export.warmup import example_inputs
from tests.support.shared_exports import saved_model

pytestmark = pytest.mark.early

HERE = pathlib.Path(__file__).parent

# Imports of what a server does not have fail in the processes of these tests.
_PROGRAM = """
import importlib.machinery
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "export", "keras", "nvae_tf", "tensorflow_probability", "tf_keras"
        }:
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is not to be imported")

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Refuse())
for name in ("keras", "nvae_tf", "export"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)

import numpy as np
import tensorflow as tf

folder, questions, answers = sys.argv[1:]
inputs = dict(np.load(questions, allow_pickle=True))
results = {}

def ask(name, rows):
    prefix = f"{name}/{rows}/"
    return {
        key.removeprefix(prefix): value
        for key, value in inputs.items()
        if key.startswith(prefix)
    }

asked = sorted({tuple(key.split("/")[:2]) for key in inputs})
# The loader of TensorFlow 1, which is the server's.
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    meta = tf.compat.v1.saved_model.load(session, ["serve"], folder)
    for name, rows in asked:
        signature = meta.signature_def[name]
        values = session.run(
            {key: info.name for key, info in signature.outputs.items()},
            {
                signature.inputs[key].name: value
                for key, value in ask(name, rows).items()
            },
        )
        for key, value in values.items():
            results[f"session/{name}/{rows}/{key}"] = value

signatures = tf.saved_model.load(folder).signatures
for name, rows in asked:
    values = signatures[name](
        **{key: tf.constant(v) for key, v in ask(name, rows).items()}
    )
    for key, value in values.items():
        results[f"loaded/{name}/{rows}/{key}"] = value.numpy()

assert "keras" not in sys.modules
np.savez(answers, **results)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved_model("served", tmp_path_factory)


@pytest.fixture(scope="module")
def runner(folder):
    return SavedModelRunner(folder)


def _run(*command, **kwargs):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **kwargs,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.long
def test_loads_where_keras_and_this_package_cannot_be_imported(
    folder, runner, tmp_path
):
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    questions, expected = {}, {}
    for name in runner.names:
        for rows in (1, 3, 64):
            given = example_inputs(runner.inputs(name), rows, (8, 8, 3))
            outputs = runner.run(name, given)
            for key, value in given.items():
                questions[f"{name}/{rows}/{key}"] = value
            for key, value in outputs.items():
                expected[f"{name}/{rows}/{key}"] = value
    np.savez(tmp_path / "questions.npz", **questions)
    paths = (tmp_path / "questions.npz", tmp_path / "answers.npz")
    _run(sys.executable, program, folder, *paths, cwd=tmp_path)
    answers = np.load(tmp_path / "answers.npz", allow_pickle=True)
    assert len(answers) == 2 * len(expected)
    for loader in ("session", "loaded"):
        for key, value in expected.items():
            answer = answers[f"{loader}/{key}"]
            if value.dtype.kind == "f":
                np.testing.assert_allclose(
                    answer, value, rtol=1e-4, atol=1e-4, err_msg=key
                )
            else:
                np.testing.assert_array_equal(answer, value, err_msg=key)


def _saved_model_cli(*arguments):
    module = "tensorflow.python.tools.saved_model_cli"
    return _run(sys.executable, "-m", module, *arguments)


@pytest.mark.long
def test_saved_model_cli_shows_and_runs(folder, runner, tmp_path):
    shown = _saved_model_cli(
        "show", "--dir", folder, "--tag_set", "serve", "--signature_def",
        "sample",
    )  # fmt: skip
    assert re.search(r"inputs\['seed'\] tensor_info:\s+dtype: DT_INT64", shown)
    assert "shape: (-1, 8, 8, 3)" in shown
    groups = runner.inputs("sample")["temperature"][1][1]
    _saved_model_cli(
        "run", "--dir", folder, "--tag_set", "serve", "--signature_def",
        "sample", "--input_exprs",
        f"seed=[5];temperature=[{[0.7] * groups}]",
        "--outdir", tmp_path,
    )  # fmt: skip
    np.testing.assert_array_equal(
        np.load(tmp_path / "images.npy"), _draw(runner, [5])
    )


def _draw(runner, seeds):
    _, groups = runner.inputs("sample")["temperature"][1]
    temperature = np.full([len(seeds), groups], 0.7)
    given = {"seed": np.array(seeds), "temperature": temperature}
    return runner.run("sample", given)["images"]


def _tensor_names(folder):
    """Names in the graph of `sample`'s inputs and output."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
    signature = meta.signature_def["sample"]
    return [
        re.sub(":0$", "", info.name)
        for info in (
            signature.inputs["seed"],
            signature.inputs["temperature"],
            signature.outputs["images"],
        )
    ]


@pytest.mark.long
@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"),
    reason="needs Linux and a C compiler",
)
def test_c_program_draws_the_same_images(folder, runner, tmp_path):
    include = pathlib.Path(tf.sysconfig.get_include())
    library = include.parent
    program = tmp_path / "serving_test"
    _run(
        "cc", HERE / "export_serving_test.c", "-o", program, f"-I{include}",
        f"-L{library}", f"-Wl,-rpath,{library}", "-l:libtensorflow_cc.so.2",
        "-l:libtensorflow_framework.so.2",
    )  # fmt: skip
    rows = (1, 3, 64)
    printed = _run(program, folder, *_tensor_names(folder), *rows)
    for count, line in zip(rows, printed.splitlines(), strict=True):
        images = np.array(line.split(), np.uint8).reshape(count, 8, 8, 3)
        np.testing.assert_array_equal(images, _draw(runner, range(count)))
