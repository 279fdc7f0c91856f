"""Many tensors as one vector, and back."""

import itertools
import typing

import numpy as np
import tensorflow as tf

__all__ = [
    "PackedVariable",
    "Part",
    "in_turn",
    "pack",
    "pack_parts",
    "parts",
    "unpack",
]

# Elements of a part: 25 MiB in float32, of which links between replicas and
# kernels on GPUs make good use.
_PART_SIZE = 25 * 2**18


class Part(typing.NamedTuple):
    """A stretch of a packed vector that holds whole tensors.

    Attributes:
      tensors: which of the tensors.
      elements: where they are in the vector.
    """

    tensors: slice
    elements: slice


def pack(tensors):
    """A list of tensors of one dtype -> a vector `[N]`."""
    if not tensors:  # Of which there is no dtype to take.
        return tf.zeros([0])
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], axis=0)


def unpack(vector, shapes):
    """A vector `[N]` -> tensors of these static shapes, in `pack`'s order."""
    if not shapes:
        return []
    sizes = [shape.num_elements() for shape in shapes]
    pieces = tf.split(vector, sizes)
    return [
        tf.reshape(piece, shape)
        for piece, shape in zip(pieces, shapes, strict=True)
    ]


def parts(shapes) -> list[Part]:
    """Divides a vector for work whose intermediate values should stay small.

    Args:
      shapes: static shapes of the tensors in it.

    Returns:
      The parts, in order, each of 25 MiB at most or one larger tensor.
    """
    sizes = [shape.num_elements() for shape in shapes]
    ends = list(itertools.accumulate(sizes, initial=0))
    cuts = [0]
    for i in range(1, len(sizes)):
        if ends[i + 1] - ends[cuts[-1]] > _PART_SIZE:
            cuts.append(i)
    return [
        Part(slice(a, b), slice(ends[a], ends[b]))
        for a, b in itertools.pairwise([*cuts, len(sizes)])
    ]


def pack_parts(tensors, division: list[Part]) -> list:
    """A list of tensors -> a vector for each part of what `pack` makes."""
    return [pack(tensors[part.tensors]) for part in division]


def in_turn(function, *sequences) -> None:
    """Calls a function for each part, one after the other in graphs, too.

    So the intermediate values of one part are all there is at a time; side by
    side they would be several vectors.

    Args:
      function: of an item of each sequence; returns what its work ends with,
        operations or tensors.
      *sequences: of one length.
    """
    before = tf.no_op()
    for items in zip(*sequences, strict=True):
        with tf.control_dependencies([before]):
            before = tf.group(function(*items))


class PackedVariable:
    """A float32 vector `[N]` of state, one `tf.Variable` for each part of it.

    An update of a part copies that part alone; to read a stretch of one long
    variable and assign it copies the variable.  All else, checkpoints among
    it, sees one vector.

    Args:
      values: the first, a vector for each part.
      parts: see `parts`.

    Attributes:
      parts: as given.
      pieces: a variable for each part.
      shape: of the vector.
      dtype: of the vector.
    """

    trainable = False

    def __init__(self, values, parts: list[Part]):
        self.parts = parts
        self.pieces = [tf.Variable(value, trainable=False) for value in values]
        self.shape = tf.TensorShape([parts[-1].elements.stop])
        self.dtype = self.pieces[0].dtype

    def numpy(self) -> np.ndarray:
        """The values as one array."""
        return np.concatenate([piece.numpy() for piece in self.pieces])

    def __array__(self, dtype=None, copy=None):
        """The values for NumPy; always a copy."""
        if copy is False:
            raise ValueError("A packed variable has no array of its own.")
        return self.numpy().astype(dtype or np.float32, copy=False)

    def assign(self, values) -> None:
        """Sets all parts.

        Args:
          values: `[N]`.

        Raises:
          ValueError: if the shape differs.
        """
        if tuple(values.shape) != tuple(self.shape):
            raise ValueError(
                f"shape {tuple(values.shape)} cannot be assigned to "
                f"{tuple(self.shape)}."
            )
        for piece, part in zip(self.pieces, self.parts, strict=True):
            piece.assign(values[part.elements])
