"""Reads the pickles of `torch.save` as data, not as programs.

`nvae_tf.authors.torch_file` is the module to import.

A pickle is a program that can import and call anything, so none is handed to
Python's unpickler. `_scan` first refuses every pickle that names anything but
tensors, OrderedDict, argparse.Namespace and plain containers, and `_Machine`
then carries out the few opcodes that are left with functions of its own:
nothing that a file names is ever imported or called.
"""

import argparse
import collections
import dataclasses
import pickletools
from collections.abc import Callable
from typing import Protocol

import numpy as np

from nvae_tf.authors.torch_file_format import (
    STORAGES,
    Budget,
    RefusedError,
    damaged,
    view_tensor,
)
from nvae_tf.core.reading import shown

__all__ = ["LoadStorage", "load"]

# The full names of the types of storages, and the short ones.
_STORAGES = {
    f"torch.{name}": name for name in (*STORAGES.values(), "BFloat16Storage")
}
_GLOBALS = {
    "__builtin__.frozenset",
    "__builtin__.set",
    "argparse.Namespace",
    "builtins.frozenset",
    "builtins.set",
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    *_STORAGES,
}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_TEXTS = {"BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"}
_FOREIGN_TEXTS = {"BINSTRING", "SHORT_BINSTRING", "STRING", "UNICODE"}
# LONG4 is for integers of more than 255 bytes.
_LITERALS = {"BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1"}
_GETS = {"BINGET", "LONG_BINGET"}
_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_OPCODES = {
    *_CONSTANTS, *_EMPTY, *_TUPLES, *_TEXTS, *_LITERALS, *_GETS, *_PUTS,
    "ADDITEMS", "APPEND", "APPENDS", "BINPERSID", "BUILD", "FRAME",
    "FROZENSET", "GLOBAL", "MARK", "NEWOBJ", "PROTO", "REDUCE", "SETITEM",
    "SETITEMS", "STACK_GLOBAL", "STOP", "TUPLE",
}  # fmt: skip

_MARK = object()
# Steps that a call or an object of some size counts as.
_OBJECT_WORK = 4

# Takes the kind of a storage ("FloatStorage" say), its key in the file and the
# number of its elements; returns these, one axis.
LoadStorage = Callable[[str, str, int], np.ndarray]


class _Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, position: int, /) -> int: ...


def _check_global(name: str) -> None:
    if name not in _GLOBALS:
        raise RefusedError(
            f"names the Python object {shown(name)}, which a checkpoint of "
            "weights does not need, so it was not loaded; save it again with "
            "nothing but tensors, plain numbers (NumPy's by .item()), strings, "
            "lists, dictionaries and argparse.Namespace in it"
        )


@dataclasses.dataclass(frozen=True)
class _Global:
    """What a pickle names. Nothing is imported for it."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
    kind: str
    values: np.ndarray  # [number of elements]


def load(stream: _Readable, load_storage: LoadStorage) -> object:
    """Reads one pickle, from where the stream stands to the pickle's end.

    Args:
        stream: holds the pickle. It should not try to read more than it has.
        load_storage: is called once for each storage that the pickle refers to.

    Returns:
        What was pickled, with tensors as read-only views of their storages.
        Damaged pickles can make it contain itself or stray parts of tensors;
        `check_plain` finds them.

    Raises:
        RefusedError: the pickle names a foreign object, or is damaged.
        Exception: of nearly any type, if it is damaged otherwise.
    """
    start = stream.tell()
    _scan(stream)
    stream.seek(start)
    return _Machine(load_storage).run(stream)


def _scan(stream: _Readable) -> None:
    """Refuses a pickle that names a foreign global or uses foreign opcodes.

    Raises:
        RefusedError: by the name of the first such global, if there is one;
            otherwise by the name of the opcode.
    """
    foreign = None
    budget = Budget()
    # What is surely on top of the stack, to know the names STACK_GLOBAL takes:
    # None stands for anything but a string.
    top: list[str | None] = [None, None]
    memo: dict[int, str | None] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        budget.spend()
        if opcode.name in ("GLOBAL", "INST"):
            _check_global(argument.replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            if None in top:
                raise RefusedError(
                    "computes the name of a Python object, which torch.save "
                    "never does, so it was not loaded; save it again with "
                    "torch.save"
                )
            _check_global(".".join(top))
        if opcode.name in _PUTS:
            memo[len(memo) if argument is None else argument] = top[1]
        elif opcode.name in _GETS:
            top = [top[1], memo.get(argument)]
        elif opcode.name in _TEXTS or opcode.name in _FOREIGN_TEXTS:
            top = [top[1], argument]
        elif opcode.name not in ("FRAME", "PROTO"):
            top = [None, None]
        if opcode.name not in _OPCODES:
            foreign = foreign or opcode.name
    if foreign:
        raise RefusedError(
            f"uses the pickle opcode {foreign}, which a checkpoint of weights "
            "does not need, so it was not loaded; save it again with "
            "torch.save's default protocol and no bytes or other objects in it"
        )


class _Machine:
    """Carries out a pickle that passed `_scan`, without recursion.

    Every opcode checks what it is given, so that one that the scan took for
    something else still makes nothing but plain values.
    """

    def __init__(self, load_storage: LoadStorage):
        self._load_storage = load_storage
        self._budget = Budget()
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._storages: dict[str, _Storage] = {}

    def run(self, stream: _Readable) -> object:
        """Returns the value that the pickle makes."""
        for opcode, argument, _ in pickletools.genops(stream):
            self._step(opcode.name, argument)
        # The last opcode was STOP: genops sees to it.
        (value,) = self._stack
        return value

    def _step(self, name: str, argument: object) -> None:
        self._budget.spend()
        stack, memo = self._stack, self._memo
        if name in _TEXTS or name in _LITERALS:
            stack.append(argument)
        elif name in _PUTS:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            start = len(stack) - _TUPLES[name]
            if start < 0:
                raise damaged("a tuple of more items than there are")
            stack[start:] = [tuple(stack[start:])]
        elif name in _EMPTY:
            self._budget.spend(_OBJECT_WORK)
            stack.append(_EMPTY[name]())
        else:
            self._step_rest(name, argument)

    def _step_rest(self, name: str, argument: object) -> None:
        stack = self._stack
        match name:
            case "FRAME" | "PROTO" | "STOP":
                pass
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(self._pop_marked()))
            case "FROZENSET":
                members = self._budget.check_keys(self._pop_marked())
                stack.append(frozenset(members))
            case "APPEND":
                item = stack.pop()
                self._fill(stack[-1], [item])
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                self._fill(stack[-1], [key, item])
            case "ADDITEMS" | "APPENDS" | "SETITEMS":
                items = self._pop_marked()
                self._fill(stack[-1], items)
            case "GLOBAL":
                stack.append(_named(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_named(f"{module}.{attribute}"))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(name, function, arguments))
            case "BUILD":
                state = stack.pop()
                self._set_state(stack[-1], state)
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _:
                raise damaged(f"the opcode {name}")

    def _pop_marked(self) -> list[object]:
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _storage(self, identifier: object) -> _Storage:
        if type(identifier) is not tuple or len(identifier) > 6:
            raise damaged("a reference to a storage that is none")
        match identifier:
            # The stream format has None at the end; before torch 0.4, views.
            case ("storage", _Global(kind), str(key), _, int(count), *rest) if (
                rest in ([], [None])
                and kind in _STORAGES
                and 0 <= count < 2**63
            ):
                kind = _STORAGES[kind]
            case _:
                raise damaged("a reference to a storage that is none")
        if key not in self._storages:
            values = self._load_storage(kind, key, count)
            self._storages[key] = _Storage(kind, values)
        storage = self._storages[key]
        if storage.kind != kind or len(storage.values) != count:
            raise damaged(f"storage {shown(key)} is described in two ways")
        return storage

    def _fill(self, container: object, items: list[object]) -> None:
        """Adds items, or keys and values in turn, to what takes them."""
        if type(container) is list:
            container.extend(items)
        elif type(container) is set:
            container.update(self._budget.check_keys(items))
        elif type(container) in (dict, collections.OrderedDict):
            keys = self._budget.check_keys(items[::2])
            container.update(zip(keys, items[1::2], strict=True))
        else:
            raise damaged("items for something that is no container")

    def _set_state(self, target: object, state: object) -> None:
        if type(state) is not dict:
            raise damaged("an object whose state is no dictionary of names")
        self._budget.spend(len(state))
        if not all(type(key) is str for key in state):
            raise damaged("an object whose state is no dictionary of names")
        if type(target) is argparse.Namespace:
            vars(target).update(state)
        elif type(target) is collections.OrderedDict:
            # Any other attribute could hide a method of OrderedDict's.
            if "_metadata" in state:
                target._metadata = state["_metadata"]
        else:
            raise damaged("a state for something that has none")

    def _call(self, opcode: str, function: object, arguments: object) -> object:
        """Makes what a call in the pickle stands for, without calling it."""
        is_named = isinstance(function, _Global)
        name = function.name if is_named else "something else"
        if type(arguments) is not tuple:
            raise damaged(f"{name} is called without arguments")
        # The arguments may be those of many calls, and are copied by each.
        copied = [len(a) for a in arguments[:6] if type(a) in (list, tuple)]
        self._budget.spend(_OBJECT_WORK + sum(copied))
        match opcode, name.rpartition(".")[2], arguments:
            case "NEWOBJ", "Namespace", ():
                return argparse.Namespace()
            case "REDUCE", "OrderedDict", ():
                return collections.OrderedDict()
            case "REDUCE", "set", (list(items),):
                return set(self._budget.check_keys(items))
            case "REDUCE", "frozenset", (list(items),):
                return frozenset(self._budget.check_keys(items))
            case "REDUCE", "Size", (list(sizes) | tuple(sizes),):
                return tuple(sizes)
            case "REDUCE", "_rebuild_parameter", (np.ndarray() as data, _, _):
                return data
            case "REDUCE", "_rebuild_tensor", (_, _, _, _):
                return _rebuild_tensor(*arguments)
            # What follows is whether it wants a gradient, and its hooks.
            case "REDUCE", "_rebuild_tensor_v2", (_, _, _, _, _, _):
                return _rebuild_tensor(*arguments[:4])
        raise damaged(f"{name} is called in a way that is not known")


def _named(name: str) -> _Global:
    _check_global(name)
    return _Global(name)


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object
) -> np.ndarray:
    if (
        not isinstance(storage, _Storage)
        or type(size) is not tuple
        or type(stride) is not tuple
    ):
        raise damaged("a tensor without storage, size or strides")
    return view_tensor(storage.values, offset, size, stride)
