"""The environment of the tests, set before anything imports TensorFlow."""

import ctypes
import gc
import os
import pathlib
import sys

import pytest

from nvae_tf.distribute.cores import available_cores

# The same numbers everywhere: Keras on TensorFlow, on the CPU.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["MPLBACKEND"] = "Agg"

# The processes that tests start find the package and the tests' own modules.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(
        None,
        [
            str(pathlib.Path(__file__).resolve().parents[1]),
            os.environ.get("PYTHONPATH"),
        ],
    )
)

# Servers of the tests listen on loopback, which no proxy can reach.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(
        filter(None, [os.environ.get(_name), "localhost,127.0.0.1,::1"])
    )

# pytest-xdist's processes share the cores instead of each taking all.
# Subprocesses of the tests inherit this.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:
    _threads = str(max(1, available_cores() // _workers))
    for _name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
    ):
        os.environ.setdefault(_name, _threads)


@pytest.fixture(autouse=True, scope="module")
def _forget_graphs():
    """What a file's tests have built is released before the next file's."""
    yield
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return
    # Every custom gradient of a graph is registered for good, and with it all
    # of the graph's tensors.
    from tensorflow.python.framework import ops

    registered = ops.gradient_registry._registry
    for name in [n for n in registered if n.startswith("CustomGradient-")]:
        del registered[name]
    # Graphs are full of cycles.
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
