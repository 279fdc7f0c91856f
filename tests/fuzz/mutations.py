"""How inputs are changed: bytes at random, values by what is not expected."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

__all__ = ["huge", "junk", "mutated", "plain", "with_junk"]

_NUMBERS = [
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    1000,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
]


@st.composite
def mutated(
    draw: Any, samples: Sequence[bytes], words: Sequence[bytes] = ()
) -> bytes:
    """Real inputs after some accidents.

    Args:
      draw: of Hypothesis.
      samples: whole inputs.
      words: that mean something in the format.
    """
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        span = draw(st.integers(1, 64) | st.integers(1, len(data) + 1))
        kind = draw(st.integers(0, 8 if words else 7))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == 2:
            width = draw(st.sampled_from([1, 2, 4, 8]))
            order = draw(st.sampled_from(["little", "big"]))
            number = draw(st.sampled_from(_NUMBERS)) % 256**width
            data[at : at + width] = number.to_bytes(width, order)
        elif kind == 3:
            del data[at : at + span]
        elif kind == 4:
            data[at:at] = data[at : at + span]
        elif kind == 5:
            data[at:at] = draw(st.binary(max_size=16))
        elif kind == 6:
            del data[at:]
        elif kind == 7:
            other = draw(st.sampled_from(samples))
            data[at:] = other[draw(st.integers(0, len(other))) :]
        elif kind == 8:
            data[at : at + draw(st.sampled_from([0, 4]))] = draw(
                st.sampled_from(words)
            )
    return bytes(data)


# Leaves of what a file can say.
plain = (
    st.none()
    | st.booleans()
    | st.sampled_from([*_NUMBERS, -1, -(2**63), 10**30, 10**400, 10**4000])
    | st.integers(-5, 300)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "\0", "\x1b[2J\n", "../../x", "x" * 10_000])
)
# Python cannot write it in decimals: files of JSON cannot hold it, others can.
huge = st.builds(pow, st.just(10), st.just(5000))
# What stands where something else is expected.
junk = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=6,
)


@st.composite
def with_junk(draw: Any, sample: Any, values: Any = junk) -> Any:
    """A sample of nested dictionaries and lists with other values in it.

    Args:
      draw: of Hypothesis.
      sample: what is expected.
      values: strategy of what takes the place of something.
    """
    value = copy.deepcopy(sample)
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while True:
            keys: list = []
            if isinstance(place, dict):
                keys = list(place)
            elif isinstance(place, list):
                keys = list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            kind = draw(st.integers(0, 5))
            inner = place[key]
            if kind and isinstance(inner, dict | list) and inner:
                place = inner
                continue
            if kind == 5 and isinstance(place, dict):
                del place[key]
            elif kind == 4 and isinstance(place, dict):
                place[draw(st.text(max_size=6))] = copy.deepcopy(draw(values))
            else:
                # What is drawn may be changed in its turn.
                place[key] = copy.deepcopy(draw(values))
            break
    return value
