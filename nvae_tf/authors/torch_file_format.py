"""What files of `torch.save` consist of: storages, tensors, plain values.

The reader, its unpickler and the writer share these;
`nvae_tf.authors.torch_file` is the module to import.
"""

import argparse
import collections
import math

import numpy as np

from nvae_tf.core.reading import shown

__all__ = [
    "MAX_DEPTH",
    "STORAGES",
    "Budget",
    "RefusedError",
    "check_plain",
    "damaged",
    "decode",
    "is_key",
    "item_size",
    "result_dtype",
    "view_tensor",
]

MAX_DEPTH = 100  # Of containers in containers; real checkpoints need about 6.
MAX_RANK = 64  # torch's own limit, and NumPy's.
# Opcodes of a pickle and what they copy; the authors' largest checkpoint, of
# some 20,000 tensors, takes about an eighth.
MAX_WORK = 1 << 22
# Values that a walk meets which enters a container as often as it stands
# somewhere. Otherwise a few hundred bytes could describe more than any walk
# comes through.
MAX_UNFOLDED = 1 << 22
MAX_KEY_ITEMS = 16  # Of a tuple that is a key.
MAX_TUPLE_KEYS = 1 << 10  # Whose hashes can be made to collide.

# torch's name for a buffer of each type of number. bfloat16 is missing because
# NumPy has no such type: it is read as float32, and never written.
STORAGES = {
    np.dtype(np.bool_): "BoolStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.complex64): "ComplexFloatStorage",
    np.dtype(np.complex128): "ComplexDoubleStorage",
}

_BFLOAT16 = "BFloat16Storage"
_FILE_DTYPES = {name: dtype for dtype, name in STORAGES.items()}
_FILE_DTYPES[_BFLOAT16] = np.dtype(np.uint16)

# A tensor whose strides are 0 may have more elements than its storage. Up to
# here: who copies it shall not run out of memory.
_MAX_REPEATED = 1 << 20

_SCALARS = (type(None), bool, int, float, str)


class RefusedError(Exception):
    """What is wrong with a file and the way out, to follow its name."""


def damaged(what: str) -> RefusedError:
    """Makes the error for a file that is not as torch wrote it."""
    return RefusedError(
        f"is truncated or damaged ({shown(what, 200)}); copy it again from "
        "where it was made, or save it again with torch.save"
    )


class Budget:
    """What reading a pickle may cost, whatever the pickle asks for."""

    def __init__(self):
        self._work = MAX_WORK
        self._tuple_keys = MAX_TUPLE_KEYS

    def spend(self, work: int = 1) -> None:
        """Counts opcodes, or values that are copied.

        Raises:
            RefusedError: there have been too many.
        """
        self._work -= work
        if self._work < 0:
            raise RefusedError(
                f"takes more than {MAX_WORK:,} steps to read, far more than "
                "any checkpoint of weights, so it was not loaded; save it "
                "again with nothing but the weights in it"
            )

    def check_keys(self, keys: list[object]) -> list[object]:
        """Returns what are to be keys of a dictionary or members of a set.

        Raises:
            RefusedError: one cannot be, or they would take long to tell apart.
        """
        self.spend(len(keys))
        if not all(map(is_key, keys)):
            raise damaged("a dictionary key or set member that is no key")
        self._tuple_keys -= sum(type(key) is tuple for key in keys)
        if self._tuple_keys < 0:
            raise damaged(f"more than {MAX_TUPLE_KEYS:,} tuples as keys")
        return keys


def item_size(storage: str) -> int:
    """Bytes that an element takes in the file."""
    return _FILE_DTYPES[storage].itemsize


def result_dtype(storage: str) -> np.dtype:
    """The type that a storage's elements have once they are read."""
    if storage == _BFLOAT16:
        return np.dtype(np.float32)
    return _FILE_DTYPES[storage]


def decode(raw: bytes, storage: str, count: int, order: str) -> np.ndarray:
    """Turns a storage's bytes into numbers that NumPy and this machine know.

    Args:
        raw: the bytes, at least as many as the elements take.
        storage: the name of the storage's type, "FloatStorage" say.
        count: how many elements it has.
        order: "<" if the bytes are little-endian, ">" if big.
    """
    dtype = _FILE_DTYPES[storage]
    values = np.frombuffer(raw, dtype.newbyteorder(order), count)
    if storage == _BFLOAT16:  # The upper half of a float32.
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype == np.bool_:  # A byte that is neither 0 nor 1 is no NumPy bool.
        return values.view(np.uint8) != 0
    return values.astype(dtype, copy=False)


def view_tensor(
    values: np.ndarray, offset: int, size: tuple, stride: tuple
) -> np.ndarray:
    """Views a storage as a tensor; everything is counted in elements.

    Raises:
        RefusedError: the tensor does not lie within the storage.
    """
    if len(size) > MAX_RANK:
        raise damaged(f"a tensor of {len(size)} dimensions")
    if len(size) != len(stride) or not all(
        type(number) is int and 0 <= number < 2**63
        for number in (offset, *size, *stride)
    ):
        raise damaged("a tensor whose offset, size or strides are impossible")
    count = math.prod(size)
    if count > max(len(values), _MAX_REPEATED):
        raise damaged(f"a tensor of {shown(count)} elements in {len(values)}")
    if count == 0:
        view = np.empty(size, values.dtype)
    else:
        # An axis of length 1 never uses its stride, which can be anything.
        used = [s if n > 1 else 0 for n, s in zip(size, stride, strict=True)]
        needed = offset + 1
        needed += sum((n - 1) * s for n, s in zip(size, used, strict=True))
        if needed > len(values):
            raise damaged(
                f"a tensor that needs {needed} elements of a storage of "
                f"{len(values)}"
            )
        width = values.dtype.itemsize
        strides = [step * width for step in used]
        view = np.ndarray(size, values.dtype, values, offset * width, strides)
    view.flags.writeable = False
    return view


def is_key(value: object) -> bool:
    """Tells whether a value may be a dictionary's key in a checkpoint.

    Plain values and short tuples of them may. Deeper tuples may not: hashing
    one that shares its parts can take forever. Nor may integers beyond 64 bits:
    any number of them can have the same hash.
    """
    if type(value) is tuple:
        return len(value) <= MAX_KEY_ITEMS and all(map(_is_plain_key, value))
    return _is_plain_key(value)


def _is_plain_key(value: object) -> bool:
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) in _SCALARS


def check_plain(value: object) -> None:
    """Checks that arrays, plain values and their containers are all there is.

    Raises:
        RefusedError: something else is, or a container contains itself, or
            they nest too deep, or share their parts too often, for those who
            walk through them.
    """
    # Of containers that have been left: how deep they nest, and how many values
    # they hold when whatever stands in two places counts twice.
    known: dict[int, tuple[int, int]] = {}
    entered: set[int] = set()
    pending = [value]
    while pending:
        item = pending[-1]
        if id(item) in known or _is_leaf(item):
            pending.pop()
            continue
        children = _children(item)
        if id(item) in entered:
            pending.pop()
            entered.remove(id(item))
            known[id(item)] = _measured(children, known)
            continue
        entered.add(id(item))
        inner = [child for child in children if not _is_leaf(child)]
        if any(id(child) in entered for child in inner):
            raise damaged("a container contains itself")
        pending.extend(inner)


def _measured(children: list, known: dict) -> tuple[int, int]:
    """Depth and number of values of a container, from its children's."""
    depth, count = 0, 1
    for child in children:
        below, values = known.get(id(child), (0, 1))
        if type(child) is str:
            values += len(child) // 16
        depth, count = max(depth, below), count + values
    if depth > MAX_DEPTH:
        raise damaged(f"a container nests more than {MAX_DEPTH} deep")
    if count > MAX_UNFOLDED:
        raise damaged(
            "its containers share their parts so often that they stand for "
            f"more than {MAX_UNFOLDED:,} values"
        )
    return depth + 1, count


def _is_leaf(value: object) -> bool:
    return type(value) is np.ndarray or type(value) in _SCALARS


def _children(container: object) -> list:
    if type(container) in (list, tuple):
        return list(container)
    if type(container) in (dict, collections.OrderedDict):
        extra = getattr(container, "__dict__", {})
        return [*container.values(), *extra.values()]
    if type(container) is argparse.Namespace:
        return list(vars(container).values())
    if type(container) in (set, frozenset):
        return []  # What can be a member has passed `is_key`.
    raise damaged("a class or storage stands where a value belongs")
