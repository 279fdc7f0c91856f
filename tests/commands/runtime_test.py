"""What a process saves goes unnoticed by what runs in it."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from nvae_tf.commands import runtime

_EXTRA = "pandas"


def _import_as(importer, name):
    exec(f"import {name}", {"__name__": importer})


@pytest.fixture
def extra(tmp_path, monkeypatch):
    """A package that TensorFlow must not find, on the path of modules."""
    (tmp_path / f"{_EXTRA}.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, _EXTRA, raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    runtime.prepare()
    yield _EXTRA
    sys.modules.pop(_EXTRA, None)


@pytest.mark.parametrize("importer", ["keras.src.x", "tensorflow.python.x"])
def test_tensorflow_finds_no_package_that_it_can_do_without(extra, importer):
    with pytest.raises(ImportError, match=importer.split(".")[0]):
        _import_as(importer, extra)


@pytest.mark.parametrize("importer", ["keras_of_my_own", "nvae_tf.x"])
def test_others_find_these_packages(extra, importer):
    with pytest.raises(ImportError):
        _import_as("keras.src.x", extra)
    _import_as(importer, extra)
    assert extra in sys.modules


def test_preparing_again_changes_nothing(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    runtime.prepare()
    finders = list(sys.meta_path)
    runtime.prepare()
    assert sys.meta_path == finders


def _run(program, **environment):
    program = "from nvae_tf import runtime\n" + textwrap.dedent(program)
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=pathlib.Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )


def test_tensorflow_computes_without_what_it_can_do_without():
    _run("""
    import sys
    runtime.prepare()
    import tensorflow as tf
    import keras

    assert not {"pandas", "scipy", "sklearn"} & sys.modules.keys()
    dense = keras.layers.Dense(2, kernel_initializer="ones")
    double = tf.function(lambda x: 2.0 * dense(x), autograph=False)
    assert double(tf.ones([1, 3])).numpy().tolist() == [[6.0, 6.0]]
    """)


_THREADS = """
    import tensorflow as tf
    {first}
    runtime.share_cores({work})
    print(tf.config.threading.get_intra_op_parallelism_threads())
"""


@pytest.mark.parametrize(
    ("work", "first", "environment", "expected"),
    [
        (2**20, "", {}, max(1, len(os.sched_getaffinity(0)) // 2)),
        # 0: as many as there are cores.
        (2**30, "", {}, 0),
        (2**20, "tf.constant(1.0)", {}, 0),
        (2**20, "", {"TF_NUM_INTRAOP_THREADS": "3"}, 0),
    ],
)
def test_small_operations_share_the_cores(work, first, environment, expected):
    program = _THREADS.format(work=work, first=first)
    assert _run(program, **environment).stdout.split() == [str(expected)]
