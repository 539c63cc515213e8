"""Pickles read as data: values and names of objects, none of which is imported or called.

Only the opcodes that build values are supported. A class or function named in the file becomes :class:`Named`, and an
object that it would construct :class:`Made`, so that no content of a file can run code. Time and memory grow with the
number of operations, which is limited.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

#: Checkpoints of the papers need 26,000; with optimiser state about 100,000.
MAX_OPERATIONS = 500_000
_MAX_TEXT_CHARS = 1 << 20


class NotReadable(Exception):
    """The bytes are not a pickle of plain values."""


@dataclass(frozen=True)
class Named:
    """A class or function that the file names."""

    path: str  # "module.name"


@dataclass(eq=False)
class Made:
    """An object that unpickling would have constructed.

    Attributes
    ----------
    of : str
        The class or function, as ``module.name``.
    args : tuple
        Arguments of the call.
    state : object
        State that its attributes would have been set from.
    items : dict
        Entries of a dict subclass.
    """

    of: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stored:
    """A storage outside the pickle, by its identifier."""

    identifier: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class _Key:
    """A dict key without its own hash, whose cost the file could choose."""

    value: Any


@dataclass
class Contents:
    """Value, storages and names of a pickle: ``called`` would have been called, ``named`` are all."""

    value: Any
    named: set[str]
    called: set[str]
    storages: list[Stored]


class LimitedReader:
    """A file for :mod:`pickletools` that limits reads, whose size the file itself declares."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int = -1) -> bytes:
        """Read up to ``count`` bytes, at most the rest of the file."""
        left = max(self._size - self._file.tell(), 0)
        return self._file.read(left if count < 0 else min(count, left))

    def readline(self) -> bytes:
        """Read a line, of limited length."""
        return self._file.readline(_MAX_TEXT_CHARS)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()


def read_pickle(file: LimitedReader, allowance: int = MAX_OPERATIONS) -> Contents:
    """Read one pickle from the current position of the file.

    Raises
    ------
    NotReadable
        If it is damaged, uses opcodes that no checkpoint needs, or has more than ``allowance`` operations.
    """
    machine = _Machine(allowance)
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
            machine.spend(1)
            machine.step(opcode.name, argument)
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        AssertionError,
    ) as error:
        raise NotReadable(f"{type(error).__name__}: {error}"[:200]) from error
    if len(machine.stack) != 1 or machine.marks:
        raise NotReadable("it ends with an incomplete value")
    return Contents(machine.stack[0], machine.named, machine.called, machine.storages)


_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINSTRING", "BINSTRING",
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_DICTS = ("collections.OrderedDict", "collections.Counter", "collections.defaultdict", "builtins.dict")
#: Module names of Python 2.
_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class _Machine:
    """The stack machine of one pickle."""

    def __init__(self, allowance: int) -> None:
        self.allowance = self._left = allowance
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.named: set[str] = set()
        self.called: set[str] = set()
        self.storages: list[Stored] = []

    def spend(self, operations: int) -> None:
        """Count operations against the allowance."""
        self._left -= operations
        if self._left < 0:
            raise NotReadable(f"it has more than {self.allowance} operations")

    def step(self, name: str, argument: Any) -> None:
        """Execute one operation."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        else:
            operation: Callable[[Any], None] | None = getattr(self, f"_{name.lower()}", None)
            if operation is None:
                raise NotReadable(f"it uses the opcode {name}, which no checkpoint needs")
            operation(argument)

    def _mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _until_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _tuple(self, _: Any) -> None:
        items = tuple(self._until_mark())
        self.stack.append(items)

    def _tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _tuple1(self, _: Any) -> None:
        self._tuple_of(1)

    def _tuple2(self, _: Any) -> None:
        self._tuple_of(2)

    def _tuple3(self, _: Any) -> None:
        self._tuple_of(3)

    def _frozenset(self, _: Any) -> None:
        items = self._until_mark()
        self.stack.append(items)

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self, _: Any) -> None:
        items = self._until_mark()
        self._extend(items)

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Made):
            raise TypeError(f"items cannot be added to a {type(target).__name__}")

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update(iter((key, value)))

    def _setitems(self, _: Any) -> None:
        items = self._until_mark()
        self._update(iter(items))

    def _update(self, items: Iterator[Any]) -> None:
        target = self.stack[-1]
        entries = target.items if isinstance(target, Made) else target
        if not isinstance(entries, dict):
            raise TypeError(f"entries cannot be set in a {type(target).__name__}")
        for key in items:
            entries[_key(key)] = next(items, None)

    def _global(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._name(module, name)

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or not module or not name:
            raise TypeError("a name is not text")
        path = f"{_MODULES.get(module, module)}.{name}"
        self.named.add(path)
        self.stack.append(Named(path))

    def _reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.called.add(self._require(function, args))
        self.stack.append(self._call(function.path, args))

    def _call(self, path: str, args: tuple[Any, ...]) -> Any:
        """Return a dict for a call of a dict class; else the name and the arguments."""
        if path not in _DICTS:
            return Made(path, args)
        pairs = args[-1] if args and isinstance(args[-1], list) else []  # Python 2
        self.spend(len(pairs))  # a file can refer to the same list many times
        return {
            _key(pair[0]): pair[1] for pair in pairs if isinstance(pair, (list, tuple)) and len(pair) == 2
        }

    def _newobj(self, _: Any) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        self._require(kind, args)
        self.stack.append({} if kind.path in _DICTS else Made(kind.path, args))

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._newobj(None)

    @staticmethod
    def _require(function: Any, args: Any) -> str:
        if not isinstance(function, Named) or not isinstance(args, tuple):
            raise TypeError("the called object is not a class or function")
        return function.path

    def _build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (Made, dict)):
            raise TypeError(f"a {type(target).__name__} has no state")
        if isinstance(target, Made):
            target.state = state

    def _binpersid(self, _: Any) -> None:
        identifier = self.stack.pop()
        if not isinstance(identifier, tuple):
            raise TypeError("a storage has no identifier")
        if identifier[:1] == ("module",):  # old files store the source of a class beside its name
            self.stack.append(identifier[1])
            return
        self.storages.append(Stored(identifier))
        self.stack.append(self.storages[-1])


def _key(key: Any) -> Any:
    """Return ``key`` if its hash is fast and safe from chosen collisions, else wrap it."""
    plain = isinstance(key, (str, bytes)) or (isinstance(key, int) and abs(key) < 1 << 31)
    return key if plain else _Key(key)
