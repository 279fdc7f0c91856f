"""Tests of files that were made to hurt whoever reads them.

What must not run is in `torch_file_test`; these cost time or memory, or look
different to different readers.
"""

import functools
import os
import struct
import time
import zipfile

import numpy as np
import pytest

from nvae_tf.authors import torch_file, torch_file_format
from nvae_tf.core.errors import CheckpointError
from tests.support.refusals import refused
from tests.support.torch_pickles import (
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

_MANY = 100_000


def _refused(path, *parts):
    # What follows "; " is the way out.
    with refused(CheckpointError, "; ", *parts, path=path):
        torch_file.read(path)


def _colliding_pairs(count):
    """Pairs of integers whose tuples have one hash, by undoing its mixing."""
    mask = 2**64 - 1
    seed, second = 2870177450012600261, 14029467366897019727
    found, first, wanted = [], 0, None
    while len(found) < count:
        first += 1
        state = (seed + first * second) & mask
        state = ((state << 31) | (state >> 33)) & mask
        state = state * 0x9E3779B185EBCA87 & mask
        if wanted is None:
            wanted = (state + second) & mask  # Of (1, 1).
        lane = (wanted - state) * pow(second, -1, 2**64) & mask
        if lane < 2**61 - 1:
            found.append((first, lane))
    assert len({hash(pair) for pair in found}) == 1
    return found


def _listed(code):
    """Puts all that the code pushes into one list."""
    return b"](" + code + b"e"


@functools.cache
def _attacks():
    """Name -> a pickle of some megabytes at most."""
    numbers = _listed(b"K\1" * _MANY) + b"q\0"
    wide = b"(" + b"K\1" * _MANY + b"tq\0"
    state = b"".join(text(f"k{i}") + b"N" for i in range(20_000))
    return {
        **{
            f"{name[1:-1]} of one list again and again": _listed(
                numbers + name + b"q\1h\0\x85q\2" + b"h\1h\2R" * _MANY
            )
            for name in (
                b"ctorch\nSize\n",
                b"cbuiltins\nset\n",
                b"cbuiltins\nfrozenset\n",
            )
        },
        "a state set again and again": _listed(
            b"}("
            + state
            + b"uq\0"
            + NAMESPACE
            + b"q\1"
            + b"h\1)\x81h\0b" * 50_000
        ),
        "a long tuple as a key again and again": _listed(
            wide + b"}q\1" + b"h\0Ns" * 50_000
        ),
        "a long tuple for a storage": _listed(wide + b"h\0Q" * _MANY),
        "thousands of dimensions": tensor(
            storage(), size=(2**62,) * 30_000, stride=(0,) * 30_000
        ),
        "thousands of dimensions again and again": _listed(
            storage()
            + b"q\0"
            + integers(*[1] * 30_000)
            + b"q\1"
            + TENSOR
            + b"q\2(h\0K\0h\1h\1\x89Ntq\3"
            + b"h\2h\3R" * 50_000
        ),
        "integers of one hash as keys": b"}("
        + b"".join(integer(i * (2**61 - 1)) + b"N" for i in range(60_000))
        + b"u",
        "integers of one hash as members": b"\x8f("
        + b"".join(integer((i << 61) - i) for i in range(1, 60_000))
        + b"\x90",
        "tuples of one hash as keys": b"}("
        + b"".join(
            b"(" + integer(a) + integer(b) + b"tN"
            for a, b in _colliding_pairs(30_000)
        )
        + b"u",
        "one wide list at every depth": _listed(
            numbers + b"]q\1" + b"](h\1h\0eq\1" * 95
        ),
        "shared lists": _listed(b"]q\0" + b"](h\0h\0eq\0" * 60),
        "a long text in many places": _listed(
            text("x" * 10**6) + b"q\0" + b"h\0" * _MANY
        ),
        "a long integer in decimals": b"L" + b"9" * 60_000 + b"L\n",
        "a long integer": b"\x8b" + struct.pack("<i", 10**6) + b"\7" * 10**6,
        "metadata of metadata": (HOOKS + b"}" + text("_metadata")) * 5_000
        + b"N"
        + b"sb" * 5_000,
    }


@pytest.mark.parametrize("name", _attacks())
def test_small_file_costs_little_time_and_memory(tmp_path, name):
    path = write_zip(tmp_path / "x.pt", _attacks()[name])
    assert path.stat().st_size < 2_000_000
    # Of the processor: the machine may be busy.
    start = time.process_time()
    _refused(path)
    assert time.process_time() - start < 30


@pytest.mark.parametrize("write", [write_zip, write_stream])
@pytest.mark.parametrize(
    "code",
    [
        _listed(b"N" * 10_000),
        _listed(b"\x8f" * 10_000),
        _listed(b"ccollections\nOrderedDict\nq\0" + b"h\0)R" * 4_000),
        b"(" * 10_000,
        b"N" + b"\x94" * 10_000,
        b"\x80\2" * 10_000 + b"N",
    ],
)
def test_every_opcode_counts(tmp_path, monkeypatch, write, code):
    monkeypatch.setattr(torch_file_format, "MAX_WORK", 10_000)
    _refused(write(tmp_path / "x.pt", code), "10,000 steps")


def test_checkpoint_of_twenty_thousand_tensors_is_within_the_limit(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        torch_file_format, "MAX_WORK", torch_file_format.MAX_WORK // 100
    )
    state = {
        f"dec_tower.{i}._ops.{i % 4}.conv.0.weight": np.zeros((1, 2, 1, 1), "f")
        for i in range(200)
    }
    optimizer = {i: {"step": i, "m": a, "u": a} for i, a in enumerate(state)}
    value = {"state_dict": state, "optimizer": {"state": optimizer}}
    torch_file.write(tmp_path / "x.pt", value)
    assert len(torch_file.read(tmp_path / "x.pt")["state_dict"]) == 200


@pytest.mark.parametrize("rank", [64, 65])
def test_rank_is_that_of_torch(tmp_path, rank):
    code = tensor(storage(), size=(1,) * rank, stride=(1,) * rank)
    path = write_zip(tmp_path / "x.pt", code)
    if rank > 64:
        _refused(path, "65 dimensions")
    else:
        assert torch_file.read(path).ndim == 64


def test_numbers_in_messages_are_short(tmp_path):
    huge = (2**62,) * 64
    code = tensor(storage(), size=huge, stride=(0,) * 64)
    _refused(write_zip(tmp_path / "x.pt", code), "bits elements")
    code = tensor(storage(count=2**2000), size=(), stride=())
    _refused(write_zip(tmp_path / "x.pt", code), "reference")


# Files that look different to different readers: scanners of pickles have
# missed what torch then loaded.


def _spying(path):
    return b"cos\nmkdir\n(" + text(str(path)) + b"tR"


def _record(path, changed):
    """A zip whose central directory and records `changed` may alter."""
    content = bytearray(path.read_bytes())
    changed(content)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["DATA.PKL", "Data.pkl", "data.PKL"])
def test_pickle_by_another_case_is_refused(tmp_path, name):
    path = tmp_path / "x.pt"
    code = b"\x80\x02" + _spying(tmp_path / "spied") + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"sample/{name}", code)
    _refused(path, "data.pkl")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("sample/data.pkl", b"\x80\x02N.")
    _refused(path, "same name")
    assert not (tmp_path / "spied").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["sample/data.pkl", "sample/data/0"])
def test_two_records_of_one_name_are_refused(tmp_path, name):
    path = write_zip(tmp_path / "x.pt", b"N")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"\x80\x02" + _spying(tmp_path / "y") + b".")
    _refused(path, "same name")
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("bit", [0, 1, 5, 6, 13])
@pytest.mark.parametrize("where", ["local", "central", "both"])
def test_flag_bits_hide_nothing(tmp_path, bit, where):
    def change(content):
        for mark, offset, place in (
            (b"PK\3\4", 6, "local"),
            (b"PK\1\2", 8, "central"),
        ):
            at = content.find(mark)
            while at >= 0 and where in (place, "both"):
                content[at + offset + bit // 8] |= 1 << bit % 8
                at = content.find(mark, at + 1)

    path = write_zip(tmp_path / "x.pt", _spying(tmp_path / "spied"))
    _refused(_record(path, change))
    assert not (tmp_path / "spied").exists()


def test_record_with_a_wrong_checksum_is_refused(tmp_path):
    def change(content):
        at = content.find(b"PK\1\2")
        while at >= 0:
            content[at + 16] ^= 0xFF
            at = content.find(b"PK\1\2", at + 1)

    path = write_zip(tmp_path / "x.pt", _spying(tmp_path / "spied"))
    _refused(_record(path, change))
    path = write_zip(
        tmp_path / "y.pt", tensor(storage(), size=(4,), stride=(1,))
    )
    _refused(_record(path, change), "CRC")
    assert not (tmp_path / "spied").exists()


def test_record_by_two_names_is_refused(tmp_path):
    def change(content):
        at = content.find(b"sample/data.pkl")
        content[at : at + 15] = b"sample/data.pkX"

    _refused(_record(write_zip(tmp_path / "x.pt", b"N"), change))


def test_archive_before_the_archive_does_not_count(tmp_path):
    spied = tmp_path / "spied"
    first = write_zip(tmp_path / "evil.pt", _spying(spied)).read_bytes()
    second = write_zip(tmp_path / "good.pt", b"K\7").read_bytes()
    path = tmp_path / "both.pt"
    path.write_bytes(first + second)
    assert torch_file.read(path) == 7
    path.write_bytes(second + first)
    _refused(path, "mkdir")
    assert not spied.exists()


def test_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    start = time.perf_counter()
    _refused(tmp_path / "pipe.pt", "pipe")
    assert time.perf_counter() - start < 5
