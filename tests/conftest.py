"""The environment of the tests, set before anything imports TensorFlow."""

import ctypes
import gc
import os
import pathlib
import sys

import pytest

from nvae_tf.distribute.cores import available_cores, share_heaps

# The same numbers everywhere: Keras on TensorFlow, on the CPU unless asked.
os.environ["KERAS_BACKEND"] = "tensorflow"
if os.environ.setdefault("NVAE_TEST_DEVICE", "CPU") == "CPU":
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
elif os.environ["NVAE_TEST_DEVICE"] == "GPU":
    # Several processes share it.
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
else:
    raise pytest.UsageError("NVAE_TEST_DEVICE is neither CPU nor GPU.")
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


# As commands do: what one thread has freed is there for all of them.
share_heaps()


def pytest_collection_modifyitems(items):
    """Files that take long come first: a process idles after its last."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


@pytest.fixture(autouse=True, scope="module")
def _as_many_passes_over_graphs_as_needed():
    """Leaves TensorFlow's optimiser of graphs out, but where it belongs.

    It takes as long as tracing a graph, and rewrites what the tests run once.
    It stays on in all processes that tests start, and everywhere where the
    environment has NVAE_TEST_OPTIMIZED, as for `make test-numerics`.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        # Its rounding would be taken for a mistake.
        tensorflow.config.experimental.enable_tensor_float_32_execution(False)
        optimizer = tensorflow.config.optimizer
        optimizer.set_experimental_options(
            {
                "disable_meta_optimizer": not os.environ.get(
                    "NVAE_TEST_OPTIMIZED"
                )
            }
        )


def pytest_collection_finish():
    """What was imported stays: garbage is looked for in the rest."""
    gc.freeze()
    # A graph has ten thousands of objects that stay until it goes.
    gc.set_threshold(20_000, 20, 100)


@pytest.fixture(autouse=True)
def _forget_graphs():
    """Graphs that a test has built are released before long."""
    yield
    if "tensorflow" not in sys.modules:
        return
    # Every custom gradient of a graph is registered for good, and with it all
    # of the graph's tensors.
    from tensorflow.python.framework import ops

    registered = ops.gradient_registry._registry
    names = [n for n in registered if n.startswith("CustomGradient-")]
    for name in names:
        del registered[name]
    if names and _resident_bytes() - _heap["after"] >= _MOST_GARBAGE:
        # Graphs are full of cycles.
        _collect()


@pytest.fixture(autouse=True, scope="module")
def _forget_models(request):
    """What a file's tests share is released before the next file's."""
    yield
    for value in vars(request.module).values():
        if getattr(value, "__module__", None) == request.module.__name__:
            getattr(value, "cache_clear", lambda: None)()
    if "tensorflow" in sys.modules:
        from tensorflow.python.eager import context

        # What graphs were compiled into stays there when they are gone.
        context.context().clear_kernel_cache()
    if _resident_bytes() - _heap["after"] >= _MOST_GARBAGE / 10:
        _collect()


# Looking for garbage takes longer than many a test.
_MOST_GARBAGE = 150e6
_heap = {"after": 0.0}


def _collect():
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        _heap["after"] = _resident_bytes()


def _resident_bytes():
    """Infinite where nobody knows."""
    if sys.platform != "linux":
        return float("inf")
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
