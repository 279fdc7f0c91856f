"""Tests of ONNX files that were made to hurt whoever opens them."""

import json
import os

import numpy as np
import pytest

from nvae_tf.core.errors import ExportError
from nvae_tf.export import onnx_sampler
from nvae_tf.export.onnx_file import read_metadata
from nvae_tf.export.onnx_runner import OnnxRunner
from nvae_tf.export.onnx_sampler import Sampler
from nvae_tf.export.verify import open_export
from tests.fuzz.samples import onnx_model, protobuf
from tests.support.refusals import refused

_ELSEWHERE = (14, 1)


def _entries(**values):
    """Fields of a tensor that say where its values are."""
    return tuple(
        (13, protobuf((1, key.encode()), (2, value.encode())))
        for key, value in values.items()
    )


def _refused(path, *parts):
    """No reader opens it; all say why."""
    for read in (read_metadata, Sampler, OnnxRunner, open_export):
        with refused((ValueError, ExportError), *parts, path=path):
            read(path)


@pytest.fixture
def opened(monkeypatch):
    """Files that ONNX Runtime was given."""
    onnxruntime = pytest.importorskip("onnxruntime")
    files = []
    real = onnxruntime.InferenceSession

    def session(path, *args, **kwargs):
        files.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return files


def test_small_sampler_draws(tmp_path, opened):
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx_model())
    images = Sampler(path).sample([1, 2, 3], 1.0)
    assert images.shape == (3, 2, 2, 1)
    assert images.std() > 5
    assert opened == [str(path)]


def test_weights_in_a_file_of_their_own_beside_it_are_read(tmp_path, opened):
    path = tmp_path / "x.onnx"
    (tmp_path / "x.onnx.data").write_bytes(np.float32(3.0).tobytes())
    place = _entries(location="x.onnx.data", offset="0", length="4")
    path.write_bytes(onnx_model((*place, _ELSEWHERE), values=False))
    assert Sampler(path).sample([1, 2], 1.0).max() <= 3


@pytest.mark.parametrize(
    "location",
    [
        "a/../../x",
        "../secret",
        "/etc/passwd",
        "sub/secret",
        "./secret",
        "..",
        ".",
        "",
        "a\\..\\secret",
        "C:\\secret",
        "secret\0",
        "*/_ORT_MEM_ADDR_/*",
        "*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*",
        "file:///etc/passwd",
        "missing",
        "x" * 10**5,
    ],
)
def test_weights_from_anywhere_else_are_not_read(tmp_path, opened, location):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder / "sub"):
        (place / "secret").write_bytes(bytes(100))
    path = folder / "x.onnx"
    for fields in (
        (*_entries(location=location), _ELSEWHERE),
        _entries(location=location),
        (
            *_entries(location="x.onnx", offset="0"),
            *_entries(location=location),
        ),
    ):
        path.write_bytes(onnx_model(fields))
        _refused(path)
    assert not opened


@pytest.mark.parametrize("kind", ["symlink", "inner", "hard", "pipe", "folder"])
def test_weights_behind_a_link_are_not_read(tmp_path, opened, kind):
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(100))
    data = folder / "x.data"
    if kind == "symlink":
        data.symlink_to(secret)
    elif kind == "inner":
        (folder / "y").write_bytes(bytes(100))
        data.symlink_to("y")
    elif kind == "hard":
        os.link(secret, data)
    elif kind == "pipe":
        os.mkfifo(data)
    else:
        data.mkdir()
    path = folder / "x.onnx"
    path.write_bytes(onnx_model((*_entries(location="x.data"), _ELSEWHERE)))
    _refused(path, "put a copy in its place")
    assert not opened


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "x.data", "offset": "-1"},
        {"location": "x.data", "offset": "101"},
        {"location": "x.data", "offset": "90", "length": "11"},
        {"location": "x.data", "length": "9" * 5000},
        {"location": "x.data", "length": "1e3"},
        {"location": "x.data", "basepath": "/"},
        {"location": "x.data", "__class__": "x"},
        {"offset": "0"},
        {},
    ],
)
def test_places_that_are_none_are_refused(tmp_path, opened, entries):
    (tmp_path / "x.data").write_bytes(bytes(100))
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx_model((*_entries(**entries), _ELSEWHERE)))
    _refused(path)
    assert not opened


def _evil(*more):
    return protobuf(*_entries(location="../secret"), _ELSEWHERE, *more)


@pytest.mark.parametrize(
    "model",
    [
        onnx_model(graph=((5, _evil()),)),
        onnx_model(nodes=(protobuf((5, protobuf((5, _evil())))),)),
        onnx_model(nodes=(protobuf((5, protobuf((10, _evil())))),)),
        onnx_model(
            nodes=(protobuf((5, protobuf((6, protobuf((5, _evil())))))),)
        ),
        onnx_model(
            nodes=(protobuf((5, protobuf((11, protobuf((5, _evil())))))),)
        ),
        onnx_model() + protobuf((7, protobuf((5, _evil())))),
        onnx_model() + protobuf((20, protobuf((1, protobuf((5, _evil())))))),
        onnx_model()
        + protobuf((25, protobuf((7, protobuf((5, protobuf((5, _evil())))))))),
        onnx_model() + protobuf((25, protobuf((11, protobuf((5, _evil())))))),
        # Said twice, or at greater length than need be.
        onnx_model(graph=((5, _evil((14, 0))),)),
        onnx_model(graph=((5, _evil((14, 2**32))),)),
        onnx_model().replace(b"\x2a", b"\xaa\x00", 1) + b"\xba\x00",
        onnx_model() + b"\xba\x80\x80\x80\x10\x00",
        onnx_model(graph=((15, protobuf((1, b""))),)),
        onnx_model(nodes=(protobuf((5, protobuf((22, b"")))),)),
        onnx_model(nodes=(protobuf((5, protobuf((23, b"")))),)),
    ],
)
def test_weights_are_found_wherever_they_may_stand(tmp_path, opened, model):
    (tmp_path / "secret").write_bytes(bytes(100))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "x.onnx").write_bytes(model)
    _refused(folder / "x.onnx")
    assert not opened


def _deep(levels):
    graph = b""
    for _ in range(levels):
        graph = protobuf((1, protobuf((5, protobuf((6, graph))))))
    return graph


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no model",
        bytes(100),
        b"\xff" * 100,
        onnx_model()[:-7],
        protobuf((7, _deep(2000))),
        protobuf((14, protobuf((1, b"k"), (2, bytes(2**24 + 1))))),
        protobuf((14, protobuf((1, b"nvae_graph"), (2, b"\xff")))),
        onnx_model(properties={"nvae_graph": "other"}),
        onnx_model(properties={"nvae_graph": ""}),
    ],
)
def test_what_is_no_export_is_not_opened(tmp_path, opened, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    _refused(path) if b"nvae_graph" not in content else None
    with pytest.raises(ValueError, match=r"x\.onnx"):
        Sampler(path)
    with pytest.raises(ExportError, match=r"x\.onnx"):
        OnnxRunner(path)
    assert not opened


@pytest.mark.parametrize(
    "properties",
    [
        {"nvae_noise": ""},
        {"nvae_noise": "3"},
        {"nvae_noise": "[3]"},
        {"nvae_noise": "[" * 10**5},
        {"nvae_noise": "{}"},
        {"nvae_noise": "[]"},
        {"nvae_num_groups": "x"},
        {"nvae_num_groups": "9" * 5000},
        {"nvae_fixed_batch": "-1"},
        *(
            {"nvae_noise": json.dumps([{**noise, **change}])}
            for noise in (
                {"name": "u_0", "kind": "uniform", "stream": 0, "shape": [4]},
            )
            for change in (
                {"name": 3},
                {"name": "other"},
                {"kind": "x"},
                {"kind": []},
                {"stream": -1},
                {"stream": 2**80},
                {"shape": 3},
                {"shape": [2**40]},
                {"shape": [10**4000]},
                {"shape": [-1]},
                {"shape": [2**20, 2**20]},
                {"shape": ["x"]},
            )
        ),
    ],
)
def test_sampler_says_what_is_wrong_with_its_properties(
    tmp_path, capsys, properties
):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx_model(properties=properties))
    with pytest.raises(ValueError, match="export it again"):
        Sampler(path)
    assert onnx_sampler.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 500 + len(str(path))


def test_graph_that_does_not_run_gets_a_sentence(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    noise = [{"name": "u_0", "kind": "uniform", "stream": 0, "shape": [7, 1]}]
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx_model(properties={"nvae_noise": json.dumps(noise)}))
    with pytest.raises(ValueError, match="does not run"):
        Sampler(path).sample([1])
    assert onnx_sampler.main([str(path), "--num=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num=" + "9" * 5000],
        ["--seed=" + "9" * 5000],
        ["--batch_size=1e9"],
        ["--temperature=x"],
    ],
)
def test_arguments_that_are_none_get_a_short_line(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        onnx_sampler.main(["x.onnx", *arguments])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err) < 600


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num=" + "9" * 30],
        ["--num=0"],
        ["--batch_size=" + "9" * 30],
        ["--num=2", f"--seed={2**63 - 1}"],
        ["--num=1", "--seed=" + "9" * 30],
        ["--temperature=nan"],
        ["--temperature=-1"],
        ["--temperature=inf"],
    ],
)
def test_numbers_beyond_measure_get_a_sentence(tmp_path, capsys, arguments):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx_model())
    assert onnx_sampler.main([str(path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error) < 600


def test_facts_of_an_export_that_are_none_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "x.onnx"
    whole = {
        **dict.fromkeys(("name", "weights", "batch_norm"), "x"),
        "step": None,
        "precision": "float32",
        "temperature": 0.7,
        "image_shape": [2, 2, 1],
        "config": {"model": {}},
        "source_options": {"checkpoint": "9", "ema": True},
    }
    path.write_bytes(onnx_model(properties={"nvae_facts": json.dumps(whole)}))
    assert open_export(path).facts == whole
    lacking = [
        json.dumps({k: v for k, v in whole.items() if k != name})
        for name in whole
    ]
    lacking += [
        json.dumps({**whole, "source_options": options})
        for options in ([], {"steps": 3}, {"checkpoint": 9}, {"ema": "yes"})
    ]
    for facts in ("", "[]", "{}", "[" * 10**5, '{"name": 3}', *lacking):
        path.write_bytes(onnx_model(properties={"nvae_facts": facts}))
        with pytest.raises(ExportError) as caught:
            open_export(path)
        assert "does not tell what it is" in str(caught.value)
        assert len(str(caught.value)) < 500 + len(str(path))
