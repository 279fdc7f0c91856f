"""Packing, and dividing what is packed."""

import numpy as np
import pytest
import tensorflow as tf

from nvae_tf.model import flat


def _shapes(*sizes):
    return [tf.TensorShape(size) for size in sizes]


def test_unpacking_gives_what_was_packed():
    tensors = [tf.reshape(tf.range(6.0), [2, 3]), tf.constant(7.0)]
    vector = flat.pack(tensors)
    assert vector.shape == (7,)
    again = flat.unpack(vector, [t.shape for t in tensors])
    for before, after in zip(tensors, again, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("shapes", "count"),
    [
        (_shapes([3]), 1),
        (_shapes([3, 2], [], [5]), 1),
        # Small vectors are not divided.
        (_shapes([2**20], [2**20], [2**20]), 1),
        # Six of 4 MiB are 24 MiB.
        (_shapes(*[[2**20]] * 16), 3),
        # A tensor is never divided.
        (_shapes([2**24], [3], [2**24]), 3),
        (_shapes(*[[2**22]] * 64), 64),
    ],
)
def test_parts_are_whole_tensors_and_make_up_the_vector(shapes, count):
    parts = flat.parts(shapes)
    assert len(parts) == count
    end, tensors = 0, []
    for part in parts:
        assert part.elements.start == end
        end = part.elements.stop
        own = shapes[part.tensors]
        assert sum(s.num_elements() for s in own) == end - part.elements.start
        tensors += own
    assert tensors == shapes
    assert end == sum(s.num_elements() for s in shapes)


def test_packed_variable_is_one_vector(monkeypatch):
    monkeypatch.setattr(flat, "_PART_SIZE", 2)
    parts = flat.parts(_shapes([2], [3], []))
    assert len(parts) > 1
    vector = flat.PackedVariable(
        [tf.range(6.0)[part.elements] for part in parts], parts
    )
    assert vector.shape == (6,)
    np.testing.assert_array_equal(vector, np.arange(6.0))
    vector.assign(np.arange(6.0, 12.0, dtype=np.float32))
    np.testing.assert_array_equal(vector.numpy(), np.arange(6.0, 12.0))
    assert [p.shape[0] for p in vector.pieces] == [
        part.elements.stop - part.elements.start for part in parts
    ]
    with pytest.raises(ValueError, match=r"shape \(5,\) cannot be assigned"):
        vector.assign(np.zeros(5, np.float32))
