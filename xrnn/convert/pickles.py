"""The values of a pickle, read without importing or calling anything that it names.

A pickle is a program that may call any function.  `read` runs its instructions on plain containers
alone.  For what a pickle calls, the caller gives functions of its own, by name; whatever else it
calls becomes an `Unknown`, which holds what the pickle says of it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

#: what may be a key of a dict: to hash a tuple of tuples can take for ever
KEYS = (str, bytes, int, float, bool, type(None))


class Name:
    """A class or a function that a pickle names, such as "torch.FloatStorage"."""

    def __init__(self, name: str) -> None:
        self.name = name


class Unknown:
    """What a pickle would make by a call: the name of what is called, and the attributes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.attributes: Any = None


def read(
    data: bytes, functions: Mapping[str, Callable[..., Any]], stored: Callable[[Any], Any]
) -> Any:
    """The value of a pickle.

    Parameters
    ----------
    data : bytes
        The pickle, of any protocol.
    functions : mapping of str to callable
        Name → what is called instead.
    stored : callable
        What a persistent id stands for: ``stored(id) -> value``.

    Raises
    ------
    ValueError
        If it is no pickle, or is damaged.

    Examples
    --------
    >>> import pickle, os
    >>> read(pickle.dumps([1, {"a": (2, 3)}]), {}, stored=lambda key: key)
    [1, {'a': (2, 3)}]
    >>> read(pickle.dumps(os.getcwd), {}, stored=lambda key: key).name
    'posix.getcwd'
    """
    try:
        machine = _Machine(functions, stored)
        for code, argument, _ in pickletools.genops(data):
            if code.name == "STOP":
                return machine.stack.pop()
            machine.run(code.name, argument)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, Warning) as error:
        raise ValueError(f"its pickle cannot be read ({type(error).__name__}: {error})") from None
    raise ValueError("its pickle ends too early")


class _Machine:
    """The stack and the memo, and what each instruction does to them."""

    #: instructions that push a constant, or do nothing
    CONSTANTS: ClassVar[dict[str, Any]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
    NOTHING = ("PROTO", "FRAME")

    #: instruction → how many values on top of the stack it makes a tuple of
    TUPLES: ClassVar[dict[str, int]] = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

    #: instructions that push their argument
    LITERALS = frozenset(
        {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
        | {"STRING", "BINSTRING", "SHORT_BINSTRING", "BYTEARRAY8"}
        | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
        | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
    )

    def __init__(
        self, functions: Mapping[str, Callable[..., Any]], stored: Callable[[Any], Any]
    ) -> None:
        self.functions, self.stored = functions, stored
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        if name in self.LITERALS:
            self.stack.append(argument)
        elif name in self.CONSTANTS:
            self.stack.append(self.CONSTANTS[name])
        elif name in self.TUPLES:
            n = len(self.stack) - self.TUPLES[name]
            if n < 0:
                raise ValueError("the stack is empty")
            self.stack[n:] = [tuple(self.stack[n:])]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in self.NOTHING:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise ValueError(f"the instruction {name} is not for files of weights")
            method(argument)

    def _marked(self) -> list[Any]:
        """The values above the last mark, which are removed."""
        values, self.stack = self.stack, self.below.pop()
        return values

    # ---- The stack

    def _mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._marked()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    # ---- Containers

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _tuple(self, _: Any) -> None:
        values = self._marked()
        self.stack.append(tuple(values))

    def _list(self, _: Any) -> None:
        values = self._marked()
        self.stack.append(values)

    def _dict(self, _: Any) -> None:
        values = self._marked()
        self.stack.append({})
        self._set(values)

    # No values of weights are in sets, so lists serve for them.
    _empty_set, _frozenset = _empty_list, _list

    def _append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._marked())

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def _set(self, values: list[Any]) -> None:
        """Set items, given as key, value, key, value … of the dict on top."""
        if isinstance(self.stack[-1], dict):
            keys = [k if isinstance(k, KEYS) else Unknown("a key") for k in values[::2]]
            self.stack[-1].update(zip(keys, values[1::2], strict=True))

    # ---- Names, calls and attributes

    def _global(self, argument: str) -> None:
        self.stack.append(Name(argument.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name is not a str")
        self.stack.append(Name(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            self.stack.append(Unknown("a call"))
        elif called.name in self.functions:
            self.stack.append(self.functions[called.name](*arguments))
        else:
            self.stack.append(Unknown(called.name))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._reduce(_)

    def _inst(self, argument: str) -> None:
        self._marked()
        self.stack.append(Unknown(argument.replace(" ", ".")))

    def _obj(self, _: Any) -> None:
        called = self._marked()[0]
        self.stack.append(Unknown(called.name))

    def _build(self, _: Any) -> None:
        attributes = self.stack.pop()
        if isinstance(self.stack[-1], Unknown):
            self.stack[-1].attributes = attributes

    def _persid(self, argument: str) -> None:
        self.stack.append(self.stored(argument))

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self.stored(self.stack.pop()))
