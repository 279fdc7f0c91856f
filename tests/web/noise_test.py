"""The page's noise is that of the exports, bit for bit."""

import numpy as np
import pytest

from nvae_tf.export.beside import noise_streams
from tests.support.node import call, needs_node

pytestmark = needs_node

# Around the ends of 32 bits, and the largest that JavaScript counts exactly.
SEEDS = [0, 1, 7, -1, 2**31 - 1, 2**32, 2**40 + 5, -(2**53) + 1, 2**53 - 1]
STREAMS = [0, 3, 40, 2**32 - 1, 2**32 + 1]


def test_words_are_those_of_philox():
    rows = [(s, t) for s in SEEDS for t in STREAMS]
    drawn = call("noise.js", "words", *[(*row, 50) for row in rows])
    for (seed, stream), words in zip(rows, drawn, strict=True):
        expected = noise_streams._philox([seed], stream, 50)[0]
        np.testing.assert_array_equal(words, expected)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_numbers_are_those_of_numpy_to_the_last_bit(kind):
    # An odd count, too: Normal numbers come in pairs.
    specs = [
        {"kind": kind, "stream": stream, "shape": shape}
        for stream, shape in [(0, [64, 64, 20]), (5, [3, 3, 3]), (2**33, [1])]
    ]
    calls = [(seed, spec) for seed in SEEDS for spec in specs]
    drawn = call("noise.js", "noise", *calls)
    for (seed, spec), numbers in zip(calls, drawn, strict=True):
        expected = noise_streams.noise_rows(
            [seed], kind, spec["stream"], spec["shape"]
        )
        np.testing.assert_array_equal(
            numbers.view(np.uint32), expected.ravel().view(np.uint32)
        )
