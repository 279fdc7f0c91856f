"""Tests of how values from files are named in messages."""

import time

import numpy as np
import pytest

from nvae_tf.core.errors import DataError
from nvae_tf.core.reading import read_bytes, shown


def _nested(levels):
    value = []
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value",
    # A list of one, as pytest would make a name of a number.
    [
        [value]
        for value in (
            "x" * 10**7,
            "\x1b[2J\n\r\t\u202e\ud800" * 100,
            b"\0" * 10**7,
            10**5000,
            -(10**5000),
            1e300,
            float("nan"),
            None,
            [10**5000] * 100,
            {f"k{i}" * 100: "v" * 1000 for i in range(1000)},
            set(range(10**5)),
            _nested(60),
            np.zeros((1,) * 64),
            (np.zeros(10**6), "a\nb"),
        )
    ],
)
def test_whatever_is_shown_is_one_short_printable_line(value):
    start = time.perf_counter()
    text = shown(*value)
    assert time.perf_counter() - start < 1
    assert text.isprintable()
    assert len(text) <= 83


def test_short_values_are_shown_whole():
    assert shown("h\u00e9 llo") == "h\u00e9 llo"
    assert shown([1, "a"]) == "[1, 'a']"
    assert shown(-(2**63)) == str(-(2**63))
    assert shown(0.1) == "0.1"


def test_file_of_allowed_size_is_read_whole(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert read_bytes(path, 3) == b"abc"
    with pytest.raises(DataError, match="more than 2 bytes"):
        read_bytes(path, 2)
