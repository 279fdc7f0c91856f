"""Tests of the files of `torch.save`, read and written without PyTorch.

The samples were made with PyTorch, by `data/torch_file/make_samples.py`.
"""

import argparse
import collections
import contextlib
import os
import pickle
import random
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nvae_tf.authors import torch_file
from nvae_tf.core.errors import CheckpointError
from tests.support.torch_pickles import (
    FLOATS,
    HOOKS,
    NAMESPACE,
    TENSOR,
    integer,
    integers,
    storage,
    tensor,
    text,
    write_stream,
    write_zip,
)

_SAMPLES = Path(__file__).parents[1] / "data" / "torch_file"
_NAMES = ("zip.pt", "zip_protocol4.pt", "stream.pt")


def _replace_record(source: Path, path: Path, change) -> Path:
    """Copies a zip file with `change(name, content)` for its records."""
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(path, "w") as new,
    ):
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


def _flatten(name: str, value: object, arrays: dict[str, np.ndarray]) -> dict:
    if isinstance(value, np.ndarray):
        arrays[name] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            _flatten(f"{name}/{key}" if name else str(key), item, arrays)
    return arrays


def _assert_same(actual: object, expected: object) -> None:
    assert type(actual) is type(expected)
    if isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(actual, expected, strict=False)
        assert actual.shape == expected.shape
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        assert list(map(type, actual)) == list(map(type, expected))
        for key, item in expected.items():
            _assert_same(actual[key], item)
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            _assert_same(one, other)
    elif isinstance(expected, argparse.Namespace):
        _assert_same(vars(actual), vars(expected))
    else:
        assert repr(actual) == repr(expected)


def _assert_refused(path: Path, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        torch_file.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "; " in message  # What follows is the way out.
    assert "\n" not in message
    for part in parts:
        assert part in message


# What torch wrote


@pytest.mark.parametrize("name", _NAMES)
def test_tensors_equal_those_that_torch_saved(name):
    value = torch_file.read(_SAMPLES / name)
    arrays = _flatten("", value, {})
    with np.load(_SAMPLES / "expected.npz") as expected:
        assert set(arrays) == set(expected.files)
        for key, array in arrays.items():
            assert array.dtype == expected[key].dtype
            assert array.shape == expected[key].shape
            np.testing.assert_array_equal(array, expected[key])


@pytest.mark.parametrize("name", _NAMES)
def test_other_values_come_back_as_they_were(name):
    value = torch_file.read(_SAMPLES / name)
    assert type(value) is dict
    assert value["epoch"] == 7
    state_dict = value["state_dict"]
    assert type(state_dict) is collections.OrderedDict
    assert list(state_dict)[:3] == ["0.weight", "0.bias", "1.weight"]
    assert state_dict._metadata["1"] == {"version": 2}
    assert value["args"] == argparse.Namespace(
        dataset="mnist", use_se=True, root=None
    )
    assert list(value["optimizer"]["state"]) == [0, 1, 2, 3]
    assert value["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    expected = [-1, 300, 70000, 2**40, 0.5, None, "h\u00e9", (1, (2,)), {"s"}]
    assert value["plain"] == expected
    assert value["size"] == (4, 5)


@pytest.mark.parametrize("name", _NAMES)
def test_arrays_share_memory_as_tensors_did_and_are_read_only(name):
    tensors = torch_file.read(_SAMPLES / name)["tensors"]
    assert np.shares_memory(tensors["grid"], tensors["part"])
    assert not np.shares_memory(tensors["grid"], tensors["scalar"])
    assert not any(array.flags.writeable for array in tensors.values())


def test_file_without_byte_order_is_little_endian(tmp_path):
    path = _replace_record(
        _SAMPLES / "zip.pt",
        tmp_path / "old.pt",
        lambda name, content: None if name == "byteorder" else content,
    )
    _assert_same(torch_file.read(path), torch_file.read(_SAMPLES / "zip.pt"))


def test_big_endian_file_reads_the_same(tmp_path):
    code = tensor(storage(), size=(2, 2), stride=(1, 2))
    values = np.array([1, -2, 3.5, 1e-30])
    raw = values.astype(">f4").tobytes()
    path = write_zip(
        tmp_path / "big.pt", code, **{"data/0": raw, "byteorder": b"big"}
    )
    expected = values.astype(np.float32).reshape(2, 2).T
    _assert_same(torch_file.read(path), expected)


def test_big_endian_bfloat16_reads_the_same(tmp_path):
    halves = storage(count=2, kind=b"ctorch\nBFloat16Storage\n")
    path = write_zip(
        tmp_path / "big.pt",
        tensor(halves, size=(2,), stride=(1,)),
        **{"data/0": b"\x3f\x80\xc0\x20", "byteorder": b"big"},
    )
    expected = np.array([1.0, -2.5], np.float32)
    _assert_same(torch_file.read(path), expected)


def test_bool_that_is_neither_0_nor_1_is_true(tmp_path):
    flags = storage(count=3, kind=b"ctorch\nBoolStorage\n")
    code = tensor(flags, size=(3,), stride=(1,))
    path = write_zip(tmp_path / "bool.pt", code, **{"data/0": b"\2\0\1"})
    assert (torch_file.read(path) + 0).tolist() == [1, 0, 1]


def test_oldest_tensors_and_parameters_are_known(tmp_path):
    view = storage() + integer(1) + integers(3) + integers(1)
    code = b"ctorch._utils\n_rebuild_tensor\n(" + view + b"tR"
    code = b"ctorch._utils\n_rebuild_parameter\n(" + code
    code += b"\x88" + HOOKS + b"tR"
    value = torch_file.read(write_zip(tmp_path / "old.pt", code))
    _assert_same(value, np.zeros(3, np.float32))


def test_unused_stride_of_a_single_element_may_be_anything(tmp_path):
    code = tensor(storage(), offset=3, size=(1, 1), stride=(2**62, 7))
    value = torch_file.read(write_zip(tmp_path / "one.pt", code))
    _assert_same(value, np.zeros((1, 1), np.float32))


# What must not run


class _Spy:
    """Would make a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [write_zip, write_stream])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_foreign_call_is_refused_by_name_and_does_not_run(
    tmp_path, write, protocol
):
    spied = tmp_path / "spied"
    # Twice, so that from protocol 4 on the names come from the memo.
    code = pickle.dumps([1.5, _Spy(spied), _Spy(spied)], protocol)
    path = write(tmp_path / "evil.pt", code[:-1])
    _assert_refused(path, f"{os.name}.mkdir")
    assert not spied.exists()


def test_plain_pickle_is_refused_by_the_name_in_it(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(_Spy(tmp_path / "spied")))
    _assert_refused(path, f"{os.name}.mkdir")
    path.write_bytes(pickle.dumps({"a": 1}))
    _assert_refused(path, "magic number")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (b"cos\nsystem\n", "os.system"),
        (b"(ios\nsystem\n", "os.system"),
        (b"(S'true'\nios\nsystem\n", "os.system"),
        (b"NcNone\nos.system\n", "None.os.system"),
        (b"cbuiltins\neval\n", "builtins.eval"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n", "_rebuild_tensor_v3"),
        (b"ctorch.storage\nUntypedStorage\n", "torch.storage.UntypedStorage"),
        (b"ctorch\nfloat32\n", "torch.float32"),
        (b"ccollections\nOrderedDict.update\n", "OrderedDict.update"),
        (b"cargparse\n_os.system\n", "argparse._os.system"),
        (text("os") + text("system") + b"\x93", "os.system"),
        (b"U\x02osS'system'\n\x93", "os.system"),
        (b"\x8c\x06system\x940\x8c\x02osh\0\x93", "os.system"),
        (text("o") + text("os") + b"0" + text("x") + b"\x93", "computes"),
        (b"N" + text("system") + b"\x93", "computes"),
        (b"\x82\x01", "EXT1"),
        (b"\x83\x01\x01", "EXT2"),
        (b"\x84\x01\x01\x01\x01", "EXT4"),
        (b"(cargparse\nNamespace\no", "OBJ"),
        (b"P0\n", "PERSID"),
        (b"\x8c\x01aC\x01b", "BINBYTES"),
        (NAMESPACE + b")}\x92", "NEWOBJ_EX"),
    ],
)
def test_anything_foreign_is_refused_by_its_name(tmp_path, code, name):
    _assert_refused(write_zip(tmp_path / "evil.pt", code), name)
    _assert_refused(write_stream(tmp_path / "evil.old.pt", code), name)


@pytest.mark.parametrize("value", [np.float64(1.5), np.dtype("f4")])
def test_numpy_value_is_refused_by_name_with_advice(tmp_path, value):
    code = pickle.dumps({"lr": value}, 2)[:-1]
    _assert_refused(write_zip(tmp_path / "np.pt", code), "numpy", ".item()")


def test_foreign_name_cannot_write_to_the_terminal(tmp_path):
    code = b"cos\n\x1b[2J\xed\xb2\x80" + b"x" * 5000 + b"\n"
    with pytest.raises(CheckpointError) as caught:
        torch_file.read(write_zip(tmp_path / "evil.pt", code))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "code",
    [
        # States of classes and functions instead of those of objects.
        NAMESPACE + b"N}" + text("__eq__") + b"Ns\x86b",
        NAMESPACE + b"}" + text("__eq__") + b"Nsb",
        TENSOR + b"N}" + text("__defaults__") + b"Ns\x86b",
        NAMESPACE + b")\x81N}" + text("a") + b"Ns\x86b",
        # Calls of what is no function, and in ways that torch does not use.
        text("system") + text("ls") + b"\x85R",
        NAMESPACE + b"NR",
        NAMESPACE + b")R",
        b"ccollections\nOrderedDict\n)\x81",
        FLOATS + b")R",
        FLOATS + b")\x81",
        b"ccollections\nOrderedDict\n]\x85R",
        b"ctorch._utils\n_rebuild_parameter\nN\x85R",
    ],
)
def test_known_names_serve_no_other_end(tmp_path, code):
    before = dict(vars(argparse.Namespace))
    _assert_refused(write_zip(tmp_path / "evil.pt", code))
    assert dict(vars(argparse.Namespace)) == before


def test_state_of_ordered_dict_cannot_hide_its_methods(tmp_path):
    state = b"}(" + text("items") + b"N" + text("_metadata") + b"}ub"
    path = write_zip(tmp_path / "evil.pt", HOOKS + state)
    value = torch_file.read(path)
    assert vars(value) == {"_metadata": {}}


# What is damaged


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (tensor(storage(), size=(5,), stride=(1,)), "needs 5 elements"),
        (tensor(storage(), size=(2, 2), stride=(3, 1)), "needs 5"),
        (tensor(storage(), offset=4, size=(1,), stride=(1,)), "needs 5"),
        (tensor(storage(), offset=-1, size=(1,), stride=(1,)), "offset"),
        (tensor(storage(), size=(-1,), stride=(1,)), "size"),
        (tensor(storage(), size=(2,), stride=(-1,)), "strides"),
        (tensor(storage(), size=(2,), stride=()), "strides"),
        (tensor(storage(), size=(0, 2**62), stride=(1, 1)), "damaged"),
        (tensor(storage(), size=(1,) * 99, stride=(1,) * 99), "damaged"),
        (tensor(storage(), size=(2**40,), stride=(0,)), "elements"),
        (tensor(storage(), size=(2**62,), stride=(1,)), "elements"),
        (tensor(storage(count=3), size=(1,), stride=(1,)), "16 bytes"),
        (tensor(storage(count=2**60), size=(1,), stride=(1,)), "16 bytes"),
        (tensor(storage(count=-1), size=(1,), stride=(1,)), "reference"),
        (tensor(storage(key="1"), size=(1,), stride=(1,)), "data/1"),
        (tensor(storage(key="../0"), size=(1,), stride=(1,)), "missing"),
        (tensor(storage(kind=HOOKS), size=(), stride=()), "reference"),
        (tensor(b"N", size=(), stride=()), "without storage"),
        (storage() + storage(count=2) + b"\x86", "two ways"),
        (text("storage") + b"Q", "reference"),
        (storage(), "class or storage"),
        (NAMESPACE, "class or storage"),
        (HOOKS + b"}" + text("_metadata") + NAMESPACE + b"sb", "class"),
        (b"}" + NAMESPACE + b"Ns", "key"),
        (b"}" + b"))\x86" + b"Ns", "key"),
        (b"\x8f(]\x90", "member"),
        (b"}(Nu", "damaged"),
        (b"Na", "damaged"),
        (b"NNa", "container"),
        (b"\x85", "tuple"),
        (b"h\x07", "damaged"),
        (b"t", "damaged"),
        (b"", "damaged"),
        (b"NN", "damaged"),
        (b"]q\0h\0a", "contains itself"),
        (b"}q\0Nh\0s", "contains itself"),
        (b"]" * 500 + b"a" * 499, "100 deep"),
        (b"N" + b"\x85" * 100_000, "100 deep"),
        (b"\x80\xff", "damaged"),
    ],
)
def test_malformed_pickle_is_refused(tmp_path, code, part):
    _assert_refused(write_zip(tmp_path / "bad.pt", code), part)


@pytest.mark.parametrize(
    "code",
    [
        tensor(storage(count=2**40), size=(1,), stride=(1,)),
        tensor(storage(), size=(2**40,), stride=(0,)),
        tensor(storage(), size=(2**20, 2**40), stride=(0, 0)),
        b"\x8d" + struct.pack("<Q", 2**50),  # a string
        b"\x8b" + struct.pack("<I", 2**31 - 1),  # an integer
        b"Nr" + struct.pack("<I", 2**32 - 1),  # an index of the memo
    ],
)
@pytest.mark.parametrize("write", [write_zip, write_stream])
def test_claims_of_size_cost_no_memory(tmp_path, write, code):
    path = write(tmp_path / "bad.pt", code)
    tracemalloc.start()
    try:
        if code.startswith(b"Nr") and write is write_zip:
            assert torch_file.read(path) is None
        else:
            _assert_refused(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_shared_tuples_as_a_key_cost_no_time(tmp_path):
    code = b")" + b"q\0h\0\x86" * 60  # Hashing would take 2**60 steps.
    _assert_refused(write_zip(tmp_path / "bad.pt", b"}" + code + b"Ns"), "key")


def test_shared_containers_cost_no_time(tmp_path):
    code = b"]q\0"
    for number in range(60):
        get = b"h" + bytes([number])
        code += b"](" + get + get + b"eq" + bytes([number + 1])
    code = b"(" + code + b"t"
    # Whoever walks through them would take 2**60 steps.
    _assert_refused(write_zip(tmp_path / "shared.pt", code), "share")


def test_compressed_record_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10**6))
    _assert_refused(path, "compressed")


def test_records_that_overlap_are_refused(tmp_path):
    path = write_zip(tmp_path / "bomb.pt", b"N", **{"data/0": bytes(1000)})
    content = path.read_bytes()
    start = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    copies = content[start:end] * 9
    counts = struct.pack("<HHI", 18, 18, len(copies))
    tail = content[end : end + 8] + counts + content[end + 16 :]
    renamed = bytearray(copies)
    for number in range(9):
        at = renamed.index(b"data/0", number * (end - start))
        renamed[at + 5] = ord("0") + number
    path.write_bytes(content[:start] + renamed + tail)
    _assert_refused(path, "more bytes")


def test_record_before_the_start_is_refused(tmp_path):
    path = write_zip(tmp_path / "bad.pt", b"N")
    content = path.read_bytes()
    # Moving the directory towards the end moves all records to the front.
    end = content.index(b"PK\5\6")
    offset = struct.unpack("<I", content[end + 16 : end + 20])[0] + 50
    path.write_bytes(
        content[: end + 16] + struct.pack("<I", offset) + content[end + 20 :]
    )
    _assert_refused(path, "before its start")


def test_foreign_files_are_refused(tmp_path):
    cases = {
        "empty": b"",
        "text": b"epoch: 7\n",
        "gzip": b"\x1f\x8b\x08\0",
        "pickle": pickle.dumps([1], 2),
        "cut": b"PK\3\4",
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        _assert_refused(path)
    path = tmp_path / "arrays.npz"
    np.savez(path, a=np.zeros(2))
    _assert_refused(path, "data.pkl")


def test_unknown_version_of_the_stream_is_refused(tmp_path):
    path = tmp_path / "new.pt"
    head = (0x1950A86A20F9469CFC6C, 1002)
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in head))
    _assert_refused(path, "version")


def test_unknown_byte_order_is_refused(tmp_path):
    path = write_zip(tmp_path / "odd.pt", b"N", byteorder=b"middle")
    _assert_refused(path, "byte order")


def test_missing_file_and_folder_are_refused(tmp_path):
    _assert_refused(tmp_path / "none.pt", "does not exist")
    _assert_refused(tmp_path, "is not a file")
    os.mkfifo(tmp_path / "pipe.pt")
    _assert_refused(tmp_path / "pipe.pt", "is not a file")


@pytest.mark.parametrize(
    ("keys", "rest"),
    [
        (["0"], struct.pack("<q", 4) + bytes(15)),
        (["0"], struct.pack("<q", 4)),
        (["0"], b"\4\0"),
        (["0"], struct.pack("<q", 3) + bytes(16)),
        (["0"], struct.pack("<q", -4) + bytes(16)),
        ([], struct.pack("<q", 4) + bytes(16)),
        (["1"], struct.pack("<q", 4) + bytes(16)),
        (["0", "0"], struct.pack("<q", 4) + bytes(16)),
        ("0", struct.pack("<q", 4) + bytes(16)),
        ([[]], struct.pack("<q", 4) + bytes(16)),
    ],
)
def test_malformed_storages_of_the_stream_are_refused(tmp_path, keys, rest):
    code = tensor(storage(), size=(4,), stride=(1,))
    good = pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16)
    path = write_stream(tmp_path / "good.pt", code, good)
    _assert_same(torch_file.read(path), np.zeros(4, np.float32))
    rest = pickle.dumps(keys, 2) + rest
    _assert_refused(write_stream(tmp_path / "bad.pt", code, rest))


@pytest.mark.parametrize("name", ["zip.pt", "stream.pt"])
def test_truncated_file_is_refused(tmp_path, name):
    content = (_SAMPLES / name).read_bytes()
    path = tmp_path / name
    ends = {*range(0, len(content), 41), *range(40), len(content) - 1}
    for end in sorted(ends):
        path.write_bytes(content[:end])
        _assert_refused(path)


@pytest.mark.parametrize("name", _NAMES)
def test_damaged_bytes_raise_nothing_but_checkpoint_errors(tmp_path, name):
    content = (_SAMPLES / name).read_bytes()
    path = tmp_path / name
    generator = random.Random(name)
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(content))
            damaged[at] = generator.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            torch_file.read(path)


@pytest.mark.parametrize("name", ["zip.pt", "zip_protocol4.pt"])
def test_damaged_pickle_raises_nothing_but_checkpoint_errors(tmp_path, name):
    # With a checksum that fits, so that the damage reaches the unpickler.
    with zipfile.ZipFile(_SAMPLES / name) as archive:
        (folder,) = {entry.split("/")[0] for entry in archive.namelist()}
        content = archive.read(f"{folder}/data.pkl")
        records = {
            entry.partition("/")[2]: archive.read(entry)
            for entry in archive.namelist()
            if entry.startswith(f"{folder}/data/")
        }
    generator = random.Random(name)
    path = tmp_path / name
    for _ in range(300):
        code = bytearray(content[2:-1])
        for _ in range(generator.randint(1, 3)):
            at = generator.randrange(len(code))
            code[at : at + generator.randint(0, 2)] = generator.randbytes(1)
        write_zip(path, bytes(code), **records)
        with contextlib.suppress(CheckpointError):
            torch_file.read(path)


# What we write


def _make_value() -> dict[str, object]:
    arrays = [
        np.array(values, dtype)
        for dtype, values in {
            "f2": [1.5, 65504],
            "f4": [[1.5, np.nan], [np.inf, -0.0]],
            "f8": 1 / 3,
            "i1": [-128, 127],
            "i2": [-1],
            "i4": [2**31 - 1],
            "i8": [[-(2**63)]],
            "u1": [255],
            "?": [True, False],
            "c8": [1 - 2j],
            "c16": [1 - 2j],
        }.items()
    ]
    state_dict = collections.OrderedDict(
        {"b": np.zeros((0, 3), "f4"), "a": np.arange(6.0).reshape(2, 3)}
    )
    state_dict._metadata = collections.OrderedDict({"": {"version": 1}})
    return {
        "state_dict": state_dict,
        "arrays": arrays,
        "views": (arrays[1].T, np.arange(12)[::-3], np.array([1, 2], ">i4")),
        "args": argparse.Namespace(root=None, nested=argparse.Namespace(a=[1])),
        "numbers": [0, -1, 255, 256, 2**31, -(2**31), 2**70, -(2**70), 2**2000],
        "floats": [0.1, -0.0, float("inf"), float("nan"), 1e-310],
        "texts": ["", "h\u00e9\U0001f600\n", "\ud800"],
        "empty": [[], (), {}, collections.OrderedDict(), argparse.Namespace()],
        0: {1: True, 2.5: False, None: None, (1, "a"): ((1,), (1, 2, 3, 4))},
    }


def test_what_was_written_is_read_back_exactly(tmp_path):
    value = _make_value()
    torch_file.write(tmp_path / "a.pt", value)
    read = torch_file.read(tmp_path / "a.pt")
    _assert_same(read, value)
    _assert_same(read["state_dict"]._metadata, value["state_dict"]._metadata)


@pytest.mark.parametrize("name", _NAMES)
def test_what_torch_wrote_survives_being_written_again(tmp_path, name):
    value = torch_file.read(_SAMPLES / name)
    value["plain"].pop()  # A set: read, but not written.
    torch_file.write(tmp_path / "a.pt", value)
    _assert_same(torch_file.read(tmp_path / "a.pt"), value)


def test_written_records_are_stored_aligned(tmp_path):
    path = tmp_path / "a.pt"
    torch_file.write(path, [np.zeros(n, "f4") for n in (1, 100, 0, 7)])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = [info.filename for info in archive.infolist()]
        assert names[0] == "archive/data.pkl"
        assert set(names[1:]) == {
            *(f"archive/data/{number}" for number in range(4)),
            "archive/byteorder",
            "archive/version",
        }
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            header = path.read_bytes()[info.header_offset :]
            name, extra = struct.unpack("<HH", header[26:30])
            assert (info.header_offset + 30 + name + extra) % 64 == 0


def test_writing_the_same_twice_gives_the_same_bytes(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch_file.write(tmp_path / name, _make_value())
    first, second = (tmp_path / name for name in ("a.pt", "b.pt"))
    assert first.read_bytes() == second.read_bytes()


def _make_loop() -> list:
    loop = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"a": [1, {2, 3}]}, "value['a'][1] is of type builtins.set"),
        (argparse.Namespace(a=b""), "vars(value)['a']"),
        ([np.float32(1)], "numpy.float32"),
        (np.float64(1), "numpy.float64"),
        (np.zeros(2, "u4"), "uint32"),
        (np.array(["a"]), "dtype"),
        (np.array([None]), "object"),
        (collections.Counter("a"), "collections.Counter"),
        (object(), "builtins.object"),
        (Path("a"), "Path"),
        ({((1,),): 1}, "key of type tuple"),
        ({b"a": 1}, "key of type bytes"),
        (2**3000, "376 bytes"),
        (_make_loop(), "contains itself"),
    ],
)
def test_what_torch_cannot_hold_is_refused_and_nothing_written(
    tmp_path, value, part
):
    path = tmp_path / "a.pt"
    path.write_bytes(b"before")
    with pytest.raises(CheckpointError) as caught:
        torch_file.write(path, value)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.pt"
    torch_file.write(path, {"a": 1})
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        torch_file.write(path, {"a": 2})
    assert str(path) in str(caught.value)
    assert torch_file.read(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_writing_where_no_folder_can_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.pt"
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        torch_file.write(path, {})


def test_missing_folder_is_made(tmp_path):
    path = tmp_path / "none" / "a.pt"
    torch_file.write(path, {"a": 1})
    assert torch_file.read(path) == {"a": 1}


def test_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    torch_file.write(tmp_path / "a.pt", {})
    mode = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "a.pt").stat().st_mode == mode
