"""What a process saves goes unnoticed by what runs in it."""

import pathlib
import subprocess
import sys
import textwrap

import pytest

from nvae_tf import runtime

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


def _smaps(*mappings):
    """Text of the kernel's list: (permissions, path, anonymous, swap)."""
    lines = []
    for i, (permissions, path, anonymous, swap) in enumerate(mappings):
        lines += [
            f"{4096 * i:08x}-{4096 * (i + 1):08x} {permissions} 0 fe:00 1 "
            + path,
            f"Anonymous: {anonymous} kB",
            f"Swap: {swap} kB",
            "VmFlags: rd mr mw me",
        ]
    return "\n".join(lines)


def test_only_unchanged_code_is_forgotten(tmp_path):
    path = tmp_path / "smaps"
    path.write_text(
        _smaps(
            ("r-xp", "/lib/a.so", 0, 0),
            ("rw-p", "/lib/a.so", 0, 0),
            ("r--p", "/lib/a.so", 4, 0),
            ("r--p", "/lib/a.so", 0, 4),
            ("r--p", "/lib/b.so.2", 0, 0),
            ("r--p", "/data/images", 0, 0),
            ("rw-p", "", 8, 0),
        ),
        encoding="utf-8",
    )
    found = [start // 4096 for start, _ in runtime._unchanged_libraries(path)]
    assert found == [0, 4]


_RESIDENT = """
    import gc

    def resident(name):
        with open("/proc/self/status") as lines:
            found = [line.split()[1] for line in lines if name in line]
        return int(found[0])

    from nvae_tf import runtime
    runtime.prepare()
"""


def _run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_RESIDENT + program)],
        env=environment,
        cwd=pathlib.Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(
    runtime._glibc() is None, reason="Linux with the GNU C library only."
)
def test_libraries_work_after_loading_is_forgotten():
    _run("""
    import numpy as np
    before = resident("RssFile")
    runtime.forget_loading()
    assert resident("RssFile") < before / 2
    assert np.linalg.inv(np.eye(3)).sum() == 3
    """)


@pytest.mark.skipif(
    runtime._glibc() is None, reason="Linux with the GNU C library only."
)
def test_free_pages_between_used_ones_go_back():
    _run(
        """
    kept = [bytes(1000) for _ in range(100_000)]
    kept = kept[::20]
    gc.collect()
    before = resident("RssAnon")
    with runtime.trimmed_heap():
        import time
        time.sleep(1.2)
    assert resident("RssAnon") < before - 50_000
    assert all(piece == bytes(1000) for piece in kept)
    """,
        PYTHONMALLOC="malloc",
    )


def test_tensorflow_computes_without_what_it_can_do_without():
    _run("""
    import sys
    import tensorflow as tf
    import keras

    assert not {"pandas", "scipy", "sklearn"} & sys.modules.keys()
    runtime.settle()
    options = tf.config.optimizer.get_experimental_options()
    assert options["constant_folding"] is False
    dense = keras.layers.Dense(2, kernel_initializer="ones")
    double = tf.function(lambda x: 2.0 * dense(x), autograph=False)
    assert double(tf.ones([1, 3])).numpy().tolist() == [[6.0, 6.0]]
    """)
