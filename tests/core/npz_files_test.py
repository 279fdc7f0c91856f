"""Tests of NumPy's files that others have written."""

import contextlib
import io
import os
import resource
import struct
import zipfile

import numpy as np
import pytest

from nvae_tf.core.errors import DataError
from nvae_tf.core.npz_files import NpzFile, map_npy, read_npz, write_npz
from tests.support.refusals import refused

_DTYPES = ["u1", "<u2", ">u2", "<f4", "?", "i8", "U3", "S2", "V3", "f2,u1"]


def _npy(header: bytes, data: bytes = b"", version=(1, 0), size=None) -> bytes:
    width = 2 if version[0] == 1 else 4
    length = (len(header) if size is None else size).to_bytes(width, "little")
    return b"\x93NUMPY" + bytes(version) + length + header + data


def _header(shape="(2, 3)", descr="'|u1'", order="False"):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"
    return text.encode("latin-1") + b"\n"


def _zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def _refused(read, path, *parts):
    with refused(DataError, *parts, path=path, cpu_seconds=5):
        read(path)


def _read(path):
    return read_npz(path, 2**20)


@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (2, 0, 4)])
def test_what_numpy_wrote_is_read_as_numpy_reads_it(tmp_path, dtype, shape):
    array = np.zeros(shape, dtype)
    for order in ("C", "F"):
        value = np.asarray(array, order=order)
        np.save(tmp_path / "x.npy", value)
        np.savez(tmp_path / "x.npz", a=value, b=np.arange(3))
        np.savez_compressed(tmp_path / "y.npz", a=value)
        found = [_read(tmp_path / f"{name}.npz")["a"] for name in "xy"]
        if array.size:
            found.append(map_npy(tmp_path / "x.npy"))
        for result in found:
            np.testing.assert_array_equal(result, value)
            assert result.dtype == value.dtype
            assert result.flags.f_contiguous == value.flags.f_contiguous


def test_values_are_those_that_were_written(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (50, 9, 7), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", a=values, b=values[:2].T)
    with NpzFile(tmp_path / "x.npz") as file:
        assert {k: h.shape for k, h in file.headers.items()} == {
            "a": (50, 9, 7),
            "b": (7, 9, 2),
        }
        np.testing.assert_array_equal(file.read("b", 10**6), values[:2].T)
        np.testing.assert_array_equal(file.read("a", 10**6), values)


_BAD = {
    "nothing": b"",
    "magic": b"\x93NUMPY",
    "other magic": b"\x93NUMPX\1\0" + bytes(100),
    "pickle": b"\x80\4N.",
    "version": _npy(_header(), bytes(6), (9, 0)),
    "length": _npy(_header(), bytes(6), (2, 0), 2**32 - 1),
    "length of zeros": _npy(b" " * 20_000, bytes(6)),
    "cut off": _npy(_header(), bytes(5)),
    "no dictionary": _npy(b"[1, 2]\n", bytes(6)),
    "syntax": _npy(b"{'descr': \n", bytes(6)),
    "tokens": _npy(b"{'descr': '''\n", bytes(6)),
    "indentation": _npy(b"  1\n 2\n", bytes(6)),
    "bytes": _npy(b"\xff\xfe\0\n", bytes(6)),
    "nested": _npy(b"(" * 9000 + b"\n", bytes(6)),
    "minus": _npy(b"-" * 9000 + b"1\n", bytes(6)),
    "names": _npy(_header(descr="[('a'*9)]"), bytes(6)),
    "objects": _npy(_header(descr="'|O'"), bytes(48)),
    "objects within": _npy(_header(descr="[('a', '|O')]"), bytes(48)),
    "dtype": _npy(_header(descr="'hello'"), bytes(6)),
    "dtype of itself": _npy(_header(descr="('u1', 7**9)"), bytes(6)),
    "huge dtype": _npy(_header(descr="'|V9999999999999'"), bytes(6)),
    "shape": _npy(_header("3"), bytes(6)),
    "negative": _npy(_header("(-1, -6)"), bytes(6)),
    "truths": _npy(_header("(True, 6)"), bytes(6)),
    "floats": _npy(_header("(2.0, 3)"), bytes(6)),
    "huge": _npy(_header(f"({2**62}, {2**62})"), bytes(6)),
    "huge number": _npy(_header(f"({'9' * 4000},)"), bytes(6)),
    "huge and empty": _npy(_header(f"({2**70}, 0)")),
    "rank": _npy(_header(str((1,) * 99)), bytes(1)),
    "order": _npy(_header(order="'x'"), bytes(6)),
    "keys": _npy(b"{'descr': '|u1', 'shape': (6,)}\n", bytes(6)),
    "more keys": _npy(_header()[:-2] + b", 'a': 1}\n", bytes(6)),
}


@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz`")
@pytest.mark.parametrize("name", _BAD)
def test_damaged_headers_are_refused(tmp_path, name):
    (tmp_path / "x.npy").write_bytes(_BAD[name])
    _refused(map_npy, tmp_path / "x.npy")
    path = _zip(tmp_path / "x.npz", [("a.npy", _BAD[name])])
    _refused(_read, path)


def test_archives_that_look_different_to_others_are_refused(tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros(6, np.uint8))
    content = array.getvalue()
    with pytest.warns(UserWarning, match="Duplicate name"):
        _zip(tmp_path / "twice.npz", [("a.npy", content)] * 2)
    _refused(_read, tmp_path / "twice.npz", "one name")
    _zip(tmp_path / "alike.npz", [("a.npy", content), ("a", content)])
    _refused(_read, tmp_path / "alike.npz", "one name")
    _zip(tmp_path / "many.npz", [(f"{i}", b"") for i in range(5000)])
    _refused(_read, tmp_path / "many.npz", "very many")
    _zip(tmp_path / "lzma.npz", [("a.npy", content)], zipfile.ZIP_LZMA)
    assert _read(tmp_path / "lzma.npz")["a"].shape == (6,)
    damaged = bytearray((tmp_path / "lzma.npz").read_bytes())
    damaged[50] ^= 0xFF
    (tmp_path / "lzma.npz").write_bytes(damaged)
    _refused(_read, tmp_path / "lzma.npz")


def test_wrong_checksum_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(5000, np.uint8))
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    _refused(_read, path, "CRC")


def _bomb(path, size):
    """Claims, and unpacks to, so many bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        with z.open("a.npy", "w", force_zip64=True) as member:
            member.write(_npy(_header(f"({size},)")))
            for _ in range(size // 2**20):
                member.write(bytes(2**20))
    return path


def test_bomb_is_not_unpacked(tmp_path):
    path = _bomb(tmp_path / "x.npz", 2**28)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _refused(_read, path, "unpacks to 268,435,456 bytes")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 2**16  # KiB


def test_header_of_a_bomb_is_not_unpacked(tmp_path):
    content = _npy(bytes(2**27), b"", (2, 0))
    path = _zip(tmp_path / "x.npz", [("a.npy", content)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _refused(_read, path, "header is too long")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 2**16


def test_sizes_count_together(tmp_path):
    np.savez(tmp_path / "x.npz", **{f"a{i}": np.zeros(1000) for i in range(9)})
    with pytest.raises(DataError, match="allowed"):
        read_npz(tmp_path / "x.npz", 71_999)
    assert len(read_npz(tmp_path / "x.npz", 72_000)) == 9


def test_pipes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    _refused(map_npy, tmp_path / "pipe", "a pipe")
    _refused(_read, tmp_path / "pipe", "a pipe")


def test_number_of_members_that_lies_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(3))
    content = path.read_bytes()
    end = content.index(b"PK\5\6")
    counts = struct.pack("<HH", 65535, 65535)
    path.write_bytes(content[: end + 8] + counts + content[end + 12 :])
    with contextlib.suppress(DataError):
        assert list(_read(path)) == ["a"]


def test_file_is_written_whole_under_its_own_name(tmp_path):
    path = tmp_path / "arrays.bin"
    write_npz(path, path=np.arange(3), b=np.array("text"))
    with np.load(path) as stored:
        assert stored["path"].tolist() == [0, 1, 2]
        assert stored["b"] == "text"
    before = path.read_bytes()
    with pytest.raises(TypeError), _numpy_fails():
        write_npz(path, a=np.arange(9))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@contextlib.contextmanager
def _numpy_fails():
    """In the middle of a file."""

    def savez(file, **_):
        file.write(b"half")
        raise TypeError("no array")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "savez", savez)
        yield
