"""Fuzzers of the readers that need no TensorFlow."""

import hashlib
import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import strategies as st

from nvae_tf.authors import torch_file
from nvae_tf.config import Config, DataConfig, config_from_dict, presets
from nvae_tf.core.errors import CheckpointError, DataError, ExportError
from nvae_tf.core.json_files import read_json
from nvae_tf.core.npz_files import read_npz
from nvae_tf.datasets import arrays
from nvae_tf.datasets.folder import decode_image
from nvae_tf.datasets.geometry import match_channels, match_size
from nvae_tf.export import onnx_file
from nvae_tf.report import records
from nvae_tf.runs import checkpoint_folder
from nvae_tf.runs.checkpoint_folder import Checkpoint
from nvae_tf.runs.retention import Note
from tests.fuzz import samples
from tests.fuzz.harness import fuzz, hold, scratch
from tests.fuzz.mutations import huge, junk, mutated, with_junk
from tests.support import torch_pickles as codes

pytestmark = pytest.mark.filterwarnings("ignore")


def _hold_file(reader, read, name, content):
    with scratch() as folder:
        path = folder / name
        path.write_bytes(content)
        return hold(reader, read, path)


# Files of torch.save

_TORCH_WORDS = [
    b"PK\1\2", b"PK\3\4", b"PK\5\6", b"data.pkl", b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", b"\x93", b"R",
    b"\x81", b"b", b"Q", b"h\0", b"q\0", b"(", b"t", b"e", b"u", b".",
]  # fmt: skip


@fuzz("torch.save", 0.12, content=mutated(samples.torch_files(), _TORCH_WORDS))
def test_mutated_torch_files(content):
    _hold_file("torch.save", torch_file.read, "x.pt", content)


_INTEGERS = st.sampled_from([0, 1, 2, 4, -1, 2**31, 2**62, 2**63, -(2**63)])
_OPCODES = st.one_of(
    st.sampled_from(
        [b"N", b"\x88", b"\x89", b"}", b"]", b")", b"\x8f", b"(", b"t", b"e",
         b"u", b"s", b"a", b"b", b"R", b"\x81", b"Q", b"\x85", b"\x86", b"\x87",
         b"\x90", b"\x91", b"\x93", b"\x94", b"0", codes.TENSOR, codes.FLOATS,
         codes.HOOKS, codes.NAMESPACE, b"ctorch\nSize\n", b"cbuiltins\nset\n",
         b"ctorch._utils\n_rebuild_parameter\n", codes.storage()]
    ),
    st.builds(codes.text, st.sampled_from(["0", "storage", "cpu", "", "a"])),
    st.builds(codes.integer, _INTEGERS | st.integers(0, 9)),
    st.builds(lambda n: b"h" + bytes([n]), st.integers(0, 5)),
    st.builds(lambda n: b"q" + bytes([n]), st.integers(0, 5)),
    st.builds(
        lambda offset, size, stride: codes.tensor(
            codes.storage(), offset=offset, size=size, stride=stride
        ),
        _INTEGERS,
        st.lists(_INTEGERS, max_size=4).map(tuple),
        st.lists(_INTEGERS, max_size=4).map(tuple),
    ),
)  # fmt: skip


@fuzz(
    "pickles",
    0.1,
    code=st.lists(_OPCODES, max_size=40).map(b"".join),
    write=st.sampled_from([codes.write_zip, codes.write_stream]),
)
def test_pickles_from_the_opcodes_that_are_allowed(code, write):
    with scratch() as folder:
        path = write(folder / "x.pt", code)
        hold("pickles", torch_file.read, path)


# Configurations and JSON

_CONFIG = json.loads(json.dumps(presets.load("tiny").to_dict()))


@fuzz("config", 0.1, value=with_junk(_CONFIG, junk | huge) | junk)
def test_configurations_with_other_values(value):
    found = hold("config", config_from_dict, value)
    if isinstance(found, Config):
        # Whatever is let pass can be counted with.
        assert found.model.num_groups < 20_000
        assert found.model.least_weights() < 10**15
        json.dumps(found.to_dict(), allow_nan=False)


_JSON = [
    json.dumps(_CONFIG).encode(),
    b'{"a": [1, -0.5e3, null, true, "\\u00e9\\n", {}], "b": {"c": "\xc3\xa9"}}',
]
_JSON_WORDS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\ud800", b"NaN", b"e",
    b"-Infinity", b"1e999", b"9" * 400, b"[" * 2000, b'{"a":' * 2000, b"\xff",
]  # fmt: skip


@fuzz("json", 0.06, content=mutated(_JSON, _JSON_WORDS))
def test_mutated_json(content):
    with scratch() as folder:
        path = folder / "x.json"
        path.write_bytes(content)
        value = hold("json", read_json, path, DataError)
        if value is not None:
            json.dumps(value, allow_nan=False).encode()


_HISTORY = b"".join(
    json.dumps(record).encode() + b"\n"
    for record in (
        {"step": 1, "kind": "train", "loss": 1.5, "kl_per_group": [0.1, 2.0]},
        {"step": 2, "kind": "train", "loss": None, "kl_per_group": [1, 2]},
        {"step": 2, "kind": "evaluation", "nelbo": 3.0},
        {"step": 2, "kind": "rollback", "diagnosis": "a"},
    )
)


def _history(path):
    history = records.read_history(path)
    assert history.last_step < 2**62
    for name in ("loss", "kl_per_group", "nelbo"):
        for kind in ("train", "evaluations"):
            series = history.series(name, kind)
            if series is not None:
                series.thinned(2)
    return history


@fuzz("metrics", 0.04, content=mutated([_HISTORY], [*_JSON_WORDS, b'"step"']))
def test_mutated_metrics_of_a_run(content):
    _hold_file("metrics", _history, "metrics.jsonl", content)


# Checkpoints

_TENSORS = {
    "model/a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model/b": np.zeros((0, 2), np.float32),
    "optimizer/m": np.zeros(4, np.float64),
    "training/updates": np.array(3),
}
_STATE = {"position": [0, 3], "evaluation": {"nelbo": 1.5}, "model": {"a": 1}}


def _checkpoint():
    with scratch() as folder:
        checkpoint_folder.write(
            folder, Checkpoint(3, _TENSORS, _STATE), Note(hours=1.0)
        )
        return (
            (folder / "tensors.safetensors").read_bytes(),
            (folder / "state.json").read_bytes(),
        )


_ARRAYS, _RECORD = _checkpoint()


def _read_checkpoint(folder):
    checkpoint_folder.read_note(folder)
    found = checkpoint_folder.read(folder, 3)
    assert isinstance(found.metadata, dict)
    return found


def _hold_checkpoint(reader, content, record):
    with scratch() as folder:
        (folder / "tensors.safetensors").write_bytes(content)
        (folder / "state.json").write_bytes(record)
        hold(reader, _read_checkpoint, folder)


def _sealed(content):
    record = json.loads(_RECORD)
    record["sha256"] = hashlib.sha256(content).hexdigest()
    return json.dumps(record).encode()


@fuzz("safetensors", 0.06, content=mutated([_ARRAYS], [b'"F32"', b"[0,4]"]))
def test_mutated_arrays_whose_checksum_is_right(content):
    _hold_checkpoint("safetensors", content, _sealed(content))


_ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
_TYPES = st.sampled_from(
    ["F32", "F64", "F16", "BF16", "BOOL", "U8", "I64", "F8_E4M3", "C64", ""]
)
_HEADER = st.dictionaries(
    st.sampled_from(["a", "model/a", "__metadata__", "", "\x1b", "x" * 9000]),
    st.fixed_dictionaries(
        {
            "dtype": _TYPES,
            "shape": st.lists(_INTEGERS | st.integers(0, 9), max_size=3),
            "data_offsets": st.lists(_INTEGERS, min_size=2, max_size=2),
        }
    )
    | with_junk(_ENTRY)
    | junk,
    max_size=3,
)


@fuzz("safetensors", 0.04, header=_HEADER, data=st.sampled_from([0, 4, 24]))
def test_arrays_whose_header_is_made_up(header, data):
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(data)
    _hold_checkpoint("safetensors", content, _sealed(content))


@fuzz("checkpoint state", 0.03, record=with_junk(json.loads(_RECORD)))
def test_states_with_other_values(record):
    _hold_checkpoint("checkpoint state", _ARRAYS, json.dumps(record).encode())


# Images

_IMAGE_WORDS = [
    b"\x89PNG\r\n\x1a\n", b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"acTL", b"fcTL",
    b"\xff\xd8", b"\xff\xda", b"\xff\xc2", b"\xff\xe1", b"Exif\0\0", b"MM\0*",
    b"RIFF", b"VP8X", b"VP8L", b"ANIM", b"ANMF", b"BM", b"%!PS-Adobe",
]  # fmt: skip


def _decode(path):
    image = decode_image(path, 2**20)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert 1 <= image.shape[-1] <= 4
    return image


@fuzz("images", 0.12, content=mutated(samples.images(), _IMAGE_WORDS))
def test_mutated_images(content):
    _hold_file("images", _decode, "x.png", content)


_SIDES = st.sampled_from([0, 1, 8, 1000, 2**16, 2**31 - 1, 2**32 - 1])
_PACKED = st.binary(max_size=64).map(zlib.compress) | st.just(
    zlib.compress(bytes(5000))
)


@fuzz(
    "images",
    0.04,
    size=st.tuples(_SIDES, _SIDES),
    head=st.binary(min_size=5, max_size=5)
    | st.sampled_from([b"\x08\2\0\0\0", b"\x10\6\0\0\1", b"\1\3\0\0\0"]),
    chunks=st.lists(
        st.tuples(
            st.sampled_from(
                [b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf",
                 b"acTL", b"fcTL", b"fdAT", b"gAMA", b"pHYs", b"IEND"]
            ),
            _PACKED | st.binary(max_size=20),
        ),
        max_size=6,
    ),
)  # fmt: skip
def test_png_files_whose_chunks_are_made_up(size, head, chunks):
    content = b"\x89PNG\r\n\x1a\n" + samples.chunk(
        b"IHDR", struct.pack(">II", *size) + head
    )
    content += b"".join(samples.chunk(*chunk) for chunk in chunks)
    _hold_file("images", _decode, "x.png", content)


_SHAPES = st.tuples(
    st.sampled_from([1, 2, 7, 64]),
    st.sampled_from([1, 3, 8, 2**16]),
    st.integers(1, 5),
)


def _fit(image, channels, size, alpha, policy):
    image = match_channels(image, channels, alpha=alpha, convert_colors=True)
    return match_size(image, size, policy)


@fuzz(
    "geometry",
    0.02,
    shape=_SHAPES,
    dtype=st.sampled_from([np.uint8, np.uint16]),
    channels=st.integers(1, 4),
    size=st.sampled_from([1, 8, 33]),
    alpha=st.sampled_from(["drop", "keep", "white", "black"]),
    policy=st.sampled_from(["crop", "resize", "random_crop", "celeba", "none"]),
)
def test_images_of_any_shape(shape, dtype, channels, size, alpha, policy):
    image = np.ones(shape, dtype)
    hold("geometry", _fit, image, channels, size, alpha, policy)


# Arrays

_SINGLE, _PACKED_ARRAYS = samples.arrays()
_ARRAY_WORDS = [
    b"'|u1'", b"'|O'", b"'<f8'", b"'|V0'", b"(1,)", b"(-1, 2)", b"'''", b"\n",
    b"(9999999999999,)", b"True", b"{", b"lambda", b"((((((((", b"\x93NUMPY",
    b"PK\1\2", b"PK\5\6", b".npy",
]  # fmt: skip


def _open_array(path, open_it=arrays.open_array):
    data = DataConfig(
        source="array",
        path=str(path),
        max_unpacked_mb=1,
        validation_fraction=0.5,
    )
    for split in ("train", "test"):
        source = open_it(data, split)
        image = source[len(source) - 1]
        assert image.dtype in (np.uint8, np.uint16)
        assert image.ndim == 3
    return source


@fuzz("npy", 0.06, content=mutated(_SINGLE, _ARRAY_WORDS))
def test_mutated_npy_files(content):
    _hold_file("npy", _open_array, "x.npy", content)


@fuzz("npz", 0.04, content=mutated(_PACKED_ARRAYS, _ARRAY_WORDS))
def test_mutated_npz_files(content):
    _hold_file("npz", _open_array, "x.npz", content)


def _npy_header(fields, version, end):
    if isinstance(fields.get("shape"), list):
        fields = {**fields, "shape": tuple(fields["shape"])}
    text = (repr(fields) + end).encode()
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text


_HEADERS = st.builds(
    _npy_header,
    with_junk(
        {"descr": "|u1", "fortran_order": False, "shape": [6, 4, 4]},
        junk | st.sampled_from(["|O", "<f4", "|V0", [("a", "|u1")], (6, 2, 2)]),
    ),
    st.sampled_from([(1, 0), (2, 0), (3, 0), (0, 9)]),
    st.sampled_from(["\n", "", " " * 70 + "\n", "\n'''", "\x00"]),
)


@fuzz("npz", 0.04, header=_HEADERS, size=st.sampled_from([0, 96, 5000]))
def test_npy_files_whose_header_is_made_up(header, size):
    content = header + bytes(size)
    _hold_file("npy", _open_array, "x.npy", content)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.npy", content)
    with scratch() as folder:
        path = folder / "x.npz"
        path.write_bytes(packed.getvalue())
        hold("npz", read_npz, path, 2**20)
        hold("npz", _open_array, path)


def _gzip(content):
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(content) + packer.flush()


@fuzz(
    "idx",
    0.05,
    content=mutated(
        [samples.idx(), samples.idx((3, 4, 4, 3)), samples.idx((2, 4))]
    ),
    is_packed=st.booleans(),
)
def test_mutated_idx_files(content, is_packed):
    content = _gzip(content) if is_packed else content
    _hold_file("idx", _open_idx, "x", content)


@fuzz("idx", 0.01, content=mutated([_gzip(samples.idx())]))
def test_mutated_gzipped_idx_files(content):
    _hold_file("idx", _open_idx, "x.gz", content)


def _open_idx(path):
    return _open_array(path, arrays.open_idx)


# ONNX

_ONNX = [
    samples.onnx_model(),
    samples.onnx_model(
        ((13, samples.protobuf((1, b"location"), (2, b"x.data"))), (14, 1))
    ),
]
_ONNX_WORDS = [
    b"location", b"../", b"/etc/passwd", b"offset", b"length", b"nvae_noise",
    samples.protobuf((13, samples.protobuf((1, b"location"), (2, b"a/../b")))),
    samples.protobuf((15, b"")), samples.protobuf((14, 1)),
]  # fmt: skip


def _onnx(path):
    try:
        metadata = onnx_file.read_metadata(path)
    except ValueError as error:
        raise ExportError(str(error)) from error
    assert all(isinstance(text, str) for text in metadata.values())
    return metadata


@fuzz("onnx", 0.05, content=mutated(_ONNX, _ONNX_WORDS))
def test_mutated_onnx_files(content):
    _hold_file("onnx", _onnx, "x.onnx", content)


_MESSAGES = st.recursive(
    st.binary(max_size=12) | st.sampled_from([b"location", b"x", b"../x"]),
    lambda inner: st.lists(
        st.tuples(
            st.sampled_from([1, 2, 5, 6, 7, 10, 11, 13, 14, 15, 20, 22, 25]),
            inner | st.sampled_from([0, 1, 2**32, 2**63]),
        ),
        max_size=4,
    ).map(lambda fields: samples.protobuf(*fields)),
    max_leaves=12,
)


@fuzz("onnx", 0.03, content=_MESSAGES)
def test_onnx_files_whose_messages_are_made_up(content):
    _hold_file("onnx", _onnx, "x.onnx", content)


_NOISE = [{"name": "u_0", "kind": "uniform", "stream": 0, "shape": [2, 2, 1]}]


@fuzz(
    "onnx sampler",
    0.02,
    noise=with_junk(_NOISE).map(json.dumps) | st.text(max_size=9),
    groups=st.sampled_from(["1", "0", "-1", "x", "9" * 99, "1.5"]),
    batch=st.sampled_from(["0", "2", "-1", "x", ""]),
)
def test_properties_of_a_sampler_that_are_made_up(noise, groups, batch):
    pytest.importorskip("onnxruntime")
    from nvae_tf.export.onnx_sampler import Sampler

    def draw(path):
        try:
            return Sampler(path, ["CPUExecutionProvider"]).sample([1, 2])
        except ValueError as error:
            raise ExportError(str(error)) from error

    try:
        content = samples.onnx_model(
            properties={
                "nvae_noise": noise,
                "nvae_num_groups": groups,
                "nvae_fixed_batch": batch,
            }
        )
    except UnicodeEncodeError:
        return
    _hold_file("onnx sampler", draw, "x.onnx", content)


def test_samples_are_what_the_readers_take():
    """Else the fuzzers would see refusals alone."""
    with scratch() as folder:
        for content in samples.images():
            (folder / "x.png").write_bytes(content)
            assert _decode(folder / "x.png").size
        for content in samples.torch_files():
            (folder / "x.pt").write_bytes(content)
            assert torch_file.read(folder / "x.pt")
        single, packed = samples.arrays()
        # The last ones are of dtypes that images do not have.
        for content in single[:5]:
            (folder / "x.npy").write_bytes(content)
            assert len(_open_array(folder / "x.npy"))
        for content in packed:
            (folder / "x.npz").write_bytes(content)
            assert len(_open_array(folder / "x.npz"))
        header = {"descr": "|u1", "fortran_order": False, "shape": [6, 4, 4]}
        content = _npy_header(header, (1, 0), "\n") + bytes(96)
        (folder / "x.npy").write_bytes(content)
        assert len(_open_array(folder / "x.npy"))
        (folder / "x").write_bytes(samples.idx())
        assert len(_open_idx(folder / "x"))
        (folder / "x.onnx").write_bytes(samples.onnx_model())
        assert _onnx(folder / "x.onnx")["nvae_graph"] == "sample"
    with pytest.raises(CheckpointError):
        torch_file.read("nothing")
