"""The page's worker and engine in Node.js, with a stand-in for the runtime."""

import pathlib

import pytest

from tests.support.node import call, needs_node

pytestmark = needs_node

_STAGE = pathlib.Path(__file__).parent / "stage.mjs"


def _played(name, *values):
    (result,) = call(_STAGE, name, values)
    return result


def test_long_drawing_keeps_no_other_view_waiting():
    result = _played("turns")
    assert result["rowsBefore"] < 40
    # What is left ends with the part that is being drawn.
    assert result["left"] == "Superseded"
    assert result["rowsAfter"] <= result["rowsBefore"] + 2


def _trial(play, model=None):
    return _played("trial", play, model or {})


def test_trial_of_a_faster_engine_ends_with_it():
    result = _trial(
        {"wasm": {"milliseconds": 20}, "webgpu": {"milliseconds": 2}}
    )
    assert result["name"] == "WebGPU"
    assert "draws the same picture" in result["note"]


def test_trial_of_a_slow_model_keeps_nobody_waiting():
    result = _trial(
        {
            "wasm": {"milliseconds": 300},
            "webgpu": {"milliseconds": 400, "compiling": 200},
        }
    )
    assert result["name"] == "WebAssembly"
    # One row at a time, and one in all of the engine that draws.
    assert {run["rows"] for run in result["runs"]} == {1}
    ours = [run for run in result["runs"] if run["engine"] == "wasm"]
    assert len(ours) == len(result["waits"]) + 1


def test_trial_takes_the_noise_that_fits():
    # 5 MB a row.
    result = _trial({}, {"latents": [[64, 64, 320]]})
    assert {run["rows"] for run in result["runs"]} == {1, 4}


def test_engine_that_draws_something_else_is_not_taken():
    result = _trial({"wasm": {"milliseconds": 9}, "webgpu": {"brighter": 0.1}})
    assert result["name"] == "WebAssembly"
    assert "another picture" in result["note"]


def test_model_that_fits_once_alone_is_not_tried_twice():
    play = {"navigator": {"deviceMemory": 0.25}}
    result = _trial(play, {"modelBytes": 2**26})
    assert "too large" in result["note"]
    assert {run["engine"] for run in result["runs"]} == {"wasm"}


def test_part_of_ones_own_is_kept_under_more_classes_than_a_batch_has():
    result = _played("keptOfClasses", 20, {})
    assert result == {"pictures": 25, "scores": 20}


def test_part_of_ones_own_is_kept_where_few_encodings_are():
    # 21 MB each: three at most.
    model = {"latents": [[64, 64, 1280]]}
    result = _played("keptOfClasses", 4, model)
    assert result["pictures"] == 9


def test_engine_that_takes_over_draws_what_was_asked_for_already():
    result = _played("takeover", False)
    assert result == {"told": [100, False], "seen": [51], "engine": "WebGPU"}


def test_nothing_older_comes_after_an_engine_has_taken_over():
    result = _played("takeover", True)
    assert result["told"] == ["Superseded", 100]
    assert result["seen"] == [102]


def test_lost_gpu_is_gone_back_from():
    result = _played("lostGpu")
    assert result["names"] == ["WebGPU", "WebAssembly"]
    assert result["levels"] == [[51] * 3, [102] * 3]
    assert "The device is lost" in result["note"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("none", [51, False]),
        ("newer", ["Superseded", 102]),
        ("drop", ["Superseded", False]),
    ],
)
def test_lost_gpu_leaves_what_is_no_longer_wanted(change, told):
    assert _played("lostGpuWith", change) == told


def test_lost_gpu_that_nothing_can_replace_leaves_no_workers_behind():
    # WebAssembly's ended when the GPU took over; the GPU's is left.
    assert _played("lostGpuOffline") == [1, 1, 1]


def test_file_that_could_not_be_loaded_is_asked_for_again():
    first, second = _played("lostFile")
    assert first == "infer.onnx cannot be loaded: 503."
    assert second == "done"
