"""Fuzzers of the readers that need TensorFlow, or a model."""

import argparse
import copy
import functools
import json
import logging
import math
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from nvae_tf.core.errors import ExportError
from nvae_tf.core.json_files import read_json
from nvae_tf.datasets import records
from nvae_tf.datasets.records import open_records, read_shard_index
from nvae_tf.evaluation.features import load_features
from nvae_tf.export import verify
from nvae_tf.export.beside import graph_folder
from nvae_tf.export.beside.graph_folder import GraphFolder
from tests.fuzz.harness import fuzz, hold, scratch
from tests.fuzz.mutations import huge, junk, mutated, with_junk
from tests.support import taking_over
from tests.support.data_helpers import make_config

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True, scope="module")
def _errors_alone():
    """Thousands of inputs would each log a warning."""
    logger = logging.getLogger("nvae_tf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


# Values of the authors' checkpoints


_ANYTHING = (
    junk
    | huge
    | st.builds(
        lambda shape, dtype: np.zeros(shape, dtype),
        st.sampled_from([(), (1,), (0,), (4, 4), (1,) * 40]),
        st.sampled_from(["f4", "f8", "i8", "?", "c8", "f2"]),
    )
)
_ANYTHING |= st.just(argparse.Namespace(a=1)) | st.just({1, 2})


@functools.cache
def _sample():
    return taking_over.sample(taking_over.FILES[0])


@fuzz("args", 0.03, args=with_junk(vars(_sample()["args"]), _ANYTHING))
def test_arguments_with_other_values(args):
    value = {**_sample(), "args": argparse.Namespace(**args)}
    hold("args", taking_over.take_over, value)


@fuzz(
    "checkpoint of the authors",
    0.02,
    name=st.sampled_from(["state_dict", "optimizer", "epoch", "grad_scalar"]),
    keys=st.lists(st.integers(0, 10**6), min_size=1, max_size=4),
    value=_ANYTHING,
)
def test_checkpoints_of_the_authors_with_other_values(name, keys, value):
    changed = {**_sample()}
    place = changed
    place[name] = copy.copy(place[name])
    place, key = place, name
    for number in keys:
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        inner = place[key] = copy.copy(inner)
        place = inner
        key = (
            list(inner)[number % len(inner)]
            if isinstance(inner, dict)
            else number % len(inner)
        )
    place[key] = value
    hold("checkpoint of the authors", taking_over.take_over, changed)


# Prepared images


def _prepared():
    """The manifest, index and shard of a prepared folder of 6 images."""
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    with scratch() as folder:
        path = records.shard_path(folder, "train", 0, 1)
        records.write_shard(path, images)
        index = path.with_suffix(".index.npz").read_bytes()
        return index, path.read_bytes()


_INDEX, _SHARD = _prepared()
_MANIFEST = {
    "format": 1,
    "image_size": 8,
    "image_channels": 3,
    "bits": 8,
    "resize": "none",
    "splits": dict.fromkeys(("train", "validation", "test"), "train"),
    "images": {"train": 6},
    "num_shards": {"train": 1},
    "skipped": 0,
}
_CONFIG = make_config(source="tfrecord", path="x", resize="none")


def _open_records(folder):
    config = make_config(source="tfrecord", path=str(folder), resize="none")
    source = open_records(config, "train")
    for index in range(len(source)):
        image = source[index]
        assert image.ndim == 3
        assert image.dtype == (np.uint8 if source.bits <= 8 else np.uint16)
    return source


def _hold_records(manifest, index, shard):
    with scratch() as folder:
        path = records.shard_path(folder, "train", 0, 1)
        (folder / records.MANIFEST).write_text(manifest)
        path.with_suffix(".index.npz").write_bytes(index)
        path.write_bytes(shard)
        read_shard_index(path)
        return hold("records", _open_records, folder)


@fuzz("records", 0.02, manifest=with_junk(_MANIFEST))
def test_manifests_with_other_values(manifest):
    _hold_records(json.dumps(manifest), _INDEX, _SHARD)


@fuzz("records", 0.02, index=mutated([_INDEX], [b"'<i8'", b"(6,)", b"(7,)"]))
def test_mutated_indices(index):
    _hold_records(json.dumps(_MANIFEST), index, _SHARD)


def _example(pixels, shape, dtype, keys=("image", "shape", "dtype")):
    feature = {
        "image": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[pixels])
        ),
        "shape": tf.train.Feature(int64_list=tf.train.Int64List(value=shape)),
        "dtype": tf.train.Feature(bytes_list=tf.train.BytesList(value=dtype)),
    }
    kept = {key: feature[key] for key in keys}
    features = tf.train.Features(feature=kept)
    return tf.train.Example(features=features).SerializeToString()


_RECORDS = st.builds(
    _example,
    st.sampled_from([bytes(192), b"", bytes(384), bytes(191)]),
    st.lists(st.sampled_from([0, 1, 3, 8, -1, 2**62, -(2**63)]), max_size=5)
    | st.just([8, 8, 3]),
    st.lists(
        st.sampled_from([b"uint8", b"uint16", b"float32", b"\xff", b""]),
        max_size=2,
    ),
    st.sets(st.sampled_from(["image", "shape", "dtype"])),
) | mutated([_example(bytes(192), [8, 8, 3], [b"uint8"])])


@fuzz("records", 0.03, data=_RECORDS)
def test_records_whose_checksum_is_right(data):
    with scratch() as folder:
        path = folder / "x.tfrecord"
        path.write_bytes(bytes(12) + data + bytes(4))
        index = records.Index(
            np.array([12]), np.array([len(data)]), np.array([0]), 0
        )
        index.checksums[0] = zlib.crc32(data)
        source = records.RecordSource("x", [(path, index)], 8)
        image = hold("records", source.__getitem__, 0)
        assert image is None or image.ndim == 3


# Exports and networks


_FACTS = {
    "name": "x",
    "step": 3,
    "temperature": 0.7,
    "batch_norm": "a",
    "weights": "b",
    "precision": "float32",
    "image_shape": [8, 8, 3],
    "config": {"model": {"image_size": 8}},
    "source_options": {"checkpoint": "9", "ema": True},
}


def _report(facts):
    found = verify.read_facts("x", lambda: facts)
    export = verify.Export("x", None, found, "ONNX")
    text = verify.report(export, [verify.Result("sample", 3, 1.0, "")])
    assert len(text) < 2000
    assert text.replace("\n", "").isprintable()
    return text


@fuzz("facts of an export", 0.02, facts=with_junk(_FACTS))
def test_facts_of_exports_with_other_values(facts):
    hold("facts of an export", _report, facts)


_TENSOR = {"name": "x", "shape": [2, 4], "dtype": "float32"}
_NOISE = {"name": "x", "kind": "normal", "stream": 0, "shape": [4]}
_GRAPHS = {
    "format": GraphFolder.FORMAT,
    "graphs": {
        "sample": {"inputs": [_TENSOR], "outputs": [_TENSOR], "noise": [_NOISE]}
    },
    "batch": 2,
    "num_groups": 1,
    "sha256": {},
    "facts": _FACTS,
}


def _open_graphs(folder):
    read_json(folder / graph_folder.DESCRIPTION, ExportError)
    try:
        graphs = GraphFolder(folder)
    except ValueError as error:
        raise ExportError(str(error)[-400:]) from error
    # What is let through is what the engine can be asked.
    for name in graphs.names:
        described = graphs.describe(name)
        for spec in described["inputs"] + described["outputs"]:
            np.broadcast_to(np.zeros([], spec["dtype"]), spec["shape"])
        for spec in described["noise"]:
            assert math.prod(spec["shape"]) <= 2**28
    return graphs


@fuzz("folders of graphs", 0.02, description=with_junk(_GRAPHS))
def test_descriptions_of_graphs_with_other_values(description):
    with scratch() as folder:
        (folder / graph_folder.DESCRIPTION).write_text(json.dumps(description))
        hold("folders of graphs", _open_graphs, folder)


def test_description_that_the_readers_take():
    with scratch() as folder:
        (folder / graph_folder.DESCRIPTION).write_text(json.dumps(_GRAPHS))
        assert _open_graphs(folder).names == ["sample"]


def _litert_model():
    """A LiteRT model of one operation; None where LiteRT is missing."""
    try:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        return None
    code, buffer = schema.OperatorCodeT(), schema.BufferT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    buffer.data = [1, 2, 3, 4]
    tensor, operator = schema.TensorT(), schema.OperatorT()
    tensor.shape, tensor.buffer, tensor.name = [1], 1, b"x"
    operator.inputs, operator.outputs = [0, 0], [0]
    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors, graph.operators = [tensor], [operator]
    graph.inputs = graph.outputs = [0]
    model.version, model.operatorCodes = 3, [code]
    model.subgraphs, model.buffers = [graph], [schema.BufferT(), buffer]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


_LITERT_MODEL = _litert_model()
_NEEDS_LITERT = pytest.mark.skipif(
    _LITERT_MODEL is None, reason='needs LiteRT: pip install ".[litert]"'
)


def _check_litert(content):
    from nvae_tf.export.litert.program import check_model

    try:
        check_model(content)
    except ValueError as error:
        raise ExportError(str(error)) from error
    return content


@_NEEDS_LITERT
@fuzz(
    "LiteRT models",
    0.02,
    content=mutated([_LITERT_MODEL or b""], [b"TFL3", bytes(4), b"\xff" * 4]),
)
def test_mutated_litert_models(content):
    hold("LiteRT models", _check_litert, content)


@_NEEDS_LITERT
def test_litert_model_that_the_reader_takes():
    assert _check_litert(_LITERT_MODEL)


def _graph():
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], "ExpandDims")
        tf.reduce_mean(x, [1, 2], keepdims=True, name="pool_3")
    return graph.as_graph_def().SerializeToString()


@fuzz("frozen graph", 0.01, content=mutated([_graph()], [b"ReadFile", b"\x3a"]))
def test_mutated_frozen_graphs(content):
    with scratch() as folder:
        path = folder / "x.pb"
        path.write_bytes(content)
        hold("frozen graph", load_features, str(path))


def test_samples_are_what_the_readers_take():
    """Else the fuzzers would see refusals alone."""
    assert taking_over.take_over(_sample())
    assert len(_hold_records(json.dumps(_MANIFEST), _INDEX, _SHARD)) == 6
    assert "temperature 0.7" in _report(_FACTS)
    with pytest.raises(ExportError):
        _report({})
