"""What files of `torch.save` consist of: storages, tensors, plain values.

The reader, its unpickler and the writer share these;
`nvae_tf.authors.torch_file` is the module to import.
"""

import argparse
import collections
import math

import numpy as np

__all__ = [
    "MAX_DEPTH",
    "STORAGES",
    "RefusedError",
    "check_plain",
    "damaged",
    "decode",
    "is_key",
    "item_size",
    "result_dtype",
    "shown",
    "view_tensor",
]

MAX_DEPTH = 100  # Of containers in containers; real checkpoints need about 6.

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
        f"is truncated or damaged ({what}); copy it again from where it was "
        "made, or save it again with torch.save"
    )


def shown(text: str) -> str:
    """Makes text from a file fit to be printed in a terminal."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 200 else f"{text[:200]}..."


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
    if len(size) != len(stride) or not all(
        type(number) is int and 0 <= number < 2**63
        for number in (offset, *size, *stride)
    ):
        raise damaged("a tensor whose offset, size or strides are impossible")
    count = math.prod(size)
    if count > max(len(values), _MAX_REPEATED):
        raise damaged(f"a tensor of {count} elements in {len(values)}")
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

    Plain values and tuples of them may. Deeper tuples may not: hashing one that
    shares its parts can take forever.
    """
    if type(value) is tuple:
        return all(type(item) in _SCALARS for item in value)
    return type(value) in _SCALARS


def check_plain(value: object) -> None:
    """Checks that arrays, plain values and their containers are all there is.

    Raises:
        RefusedError: something else is, or a container contains itself or
            nests too deep for those who walk through it.
    """
    # The same container may stand in many places, so each is visited again
    # only where it lies deeper.
    deepest: dict[int, int] = {}
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if type(item) is np.ndarray or type(item) in _SCALARS:
            continue
        if depth > MAX_DEPTH:
            raise damaged(
                f"a container nests more than {MAX_DEPTH} deep or contains "
                "itself"
            )
        if deepest.get(id(item), -1) >= depth:
            continue
        deepest[id(item)] = depth
        if type(item) in (list, tuple):
            children = list(item)
        elif type(item) in (dict, collections.OrderedDict):
            children = [*item.values(), *getattr(item, "__dict__", {}).values()]
        elif type(item) is argparse.Namespace:
            children = list(vars(item).values())
        elif type(item) in (set, frozenset):
            children = []  # What can be a member has passed `is_key`.
        else:
            raise damaged("a class or storage stands where a value belongs")
        pending.extend((child, depth + 1) for child in children)
