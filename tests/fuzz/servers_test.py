"""Fuzzers of what servers answer, and of exported pages' manifests."""

import io
import json

import numpy as np
import pytest
from hypothesis import strategies as st

from nvae_tf.serving.client import Client
from nvae_tf.serving.rest_predictor import RestPredictor
from nvae_tf.web import manifest
from nvae_tf.web.server import PageServer
from tests.fuzz.harness import fuzz, hold, scratch
from tests.fuzz.mutations import junk, mutated, with_junk

pytest.importorskip("urllib3")
pytestmark = pytest.mark.filterwarnings("ignore")

_SHAPE = (2, 2, 1)


def _tensor(dtype, *sizes):
    dims = [{"size": str(size)} for size in (-1, *sizes)]
    return {"dtype": dtype, "tensor_shape": {"dim": dims}}


_SEED = {"seed": _tensor("DT_INT64")}
_IMAGES = {"images": _tensor("DT_UINT8", *_SHAPE)}
_SCORES = {
    "nelbo": _tensor("DT_FLOAT"),
    "kl_per_group": _tensor("DT_FLOAT", 1),
    "bits_per_dim": _tensor("DT_FLOAT"),
}
_METADATA = {
    "metadata": {
        "signature_def": {
            "signature_def": {
                "sample": {"inputs": _SEED, "outputs": _IMAGES},
                "decode": {
                    "inputs": {"z_0": _tensor("DT_FLOAT", 2)},
                    "outputs": _IMAGES,
                },
                "reconstruct": {
                    "inputs": {**_SEED, **_IMAGES},
                    "outputs": _IMAGES,
                },
                "score": {"inputs": {**_SEED, **_IMAGES}, "outputs": _SCORES},
            }
        }
    }
}
_PIXELS = {"outputs": np.full((2, *_SHAPE), 7).tolist()}
_SCORED = {
    "outputs": {
        "nelbo": [1.0, 2.0],
        "kl_per_group": [[1.0], [2.0]],
        "bits_per_dim": [0.5, 0.25],
    }
}


class _Pool:
    """Answers in place of a server."""

    def __init__(self, *contents):
        self._contents = iter(contents)

    def request(self, *_, **__):
        return _Answer(next(self._contents))


class _Answer(io.BytesIO):
    status = 200

    def read1(self, size, **_):
        return super().read1(size)

    def release_conn(self):
        pass


def _ask(name, metadata, answer):
    predictor = RestPredictor("http://nowhere", retries=0, timeout=60)
    predictor._pool = _Pool(metadata, answer)
    client = Client(predictor)
    if name == "sample":
        images = client.sample([1, 2])
        assert images.dtype == np.uint8
        assert len(images) == 2
        return images
    scores = client.score(np.zeros((2, *_SHAPE), np.uint8), [1, 2])
    assert all(len(value) == 2 for value in scores.values())
    return scores


_NAMES = st.sampled_from(["sample", "score"])


@fuzz("answers of servers", 0.02, name=_NAMES, metadata=with_junk(_METADATA))
def test_metadata_with_other_values(name, metadata):
    answer = json.dumps(_PIXELS if name == "sample" else _SCORED).encode()
    content = json.dumps(metadata).encode()
    hold("answers of servers", _ask, name, content, answer)


@fuzz(
    "answers of servers",
    0.03,
    answer=st.tuples(
        st.just("sample"),
        (with_junk(_PIXELS) | junk).map(json.dumps).map(str.encode)
        | mutated([json.dumps(_PIXELS).encode()], [b"[", b"1e999", b"NaN"]),
    )
    | st.tuples(
        st.just("score"), with_junk(_SCORED).map(json.dumps).map(str.encode)
    ),
)
def test_answers_with_other_values(answer):
    metadata = json.dumps(_METADATA).encode()
    hold("answers of servers", _ask, answer[0], metadata, answer[1])


_DIGEST = "0" * 64
_PAGE = {
    "kind": "nvae_tf web export",
    "format": 1,
    "model": {},
    "origin": {},
    "runtime": {"name": "x", "version": "1", "engines": {}},
    "graphs": {"sample": {"path": "model/nvae.onnx", "noise": []}},
    "files": {
        "index.html": {"bytes": 1, "sha256": _DIGEST},
        "model/nvae.onnx": {"bytes": 1, "sha256": _DIGEST},
    },
}
_PATHS = junk | st.sampled_from(
    ["../x", "/etc/passwd", "a/../../x", "a//b", ".", "", "\0", "model"]
)


def _open_page(folder):
    content = manifest.read(folder)
    problems = manifest.problems(folder, content)
    assert all(line.isprintable() and len(line) < 500 for line in problems)
    PageServer(folder).server_close()
    return content


@fuzz("manifests of pages", 0.02, content=with_junk(_PAGE, _PATHS))
def test_manifests_of_pages_with_other_values(content):
    with scratch() as folder:
        (folder / "index.html").write_text("x")
        (folder / manifest.FILE_NAME).write_text(json.dumps(content))
        hold("manifests of pages", _open_page, folder)


def test_samples_are_what_the_readers_take():
    """Else the fuzzers would see refusals alone."""
    metadata = json.dumps(_METADATA).encode()
    for name, answer in (("sample", _PIXELS), ("score", _SCORED)):
        assert len(_ask(name, metadata, json.dumps(answer).encode()))
    with scratch() as folder:
        (folder / manifest.FILE_NAME).write_text(json.dumps(_PAGE))
        assert _open_page(folder) == _PAGE
