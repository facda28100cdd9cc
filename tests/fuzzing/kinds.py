"""The kinds of arguments: what each takes, and the damages that are done to it.

A damage is a text with ``{}`` for the right argument, and what must come of it: "same" (the result
of the right argument, or a clear error), "error", or "any" (a clear error or a sound result).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from xrnn.cells import Cell

#: objects of every kind, given for any argument
ODD = """
None | '' | 'lstm' | 'h' | '0' | '\\0' | '\\ud800' | 'x' * 5000 | b'x' | [] | () | {} | set() | 0
| 1 | -1 | 2 | 2**31 | 2**70 | True | False | 0.5 | 1.0 | -0.5 | 1e300 | nan | inf | -inf | 1j
| object() | int | len | lambda: 0 | Ellipsis | slice(None) | range(3) | iter([1]) | (None, None)
| [1, 'a'] | {'W': None} | {1: 2} | {'a': {}} | np.int64(3) | np.float32(0.5) | np.bool_(True)
| np.str_('h') | np.array(2) | np.array(1.5) | np.ones(3) | np.ones((2, 2), int) | np.zeros(0)
| np.array(None) | np.array('lstm') | np.dtype('f4') | np.float32 | Decimal('1') | Fraction(1, 2)
| Unhashable() | [Unhashable()] | Exception('x') | xrnn | xrnn.LSTM | cells.LSTM | learner()
| xrnn.LSTM(3, 5, rng=0) | cells.Elman | np.random.default_rng(0) | cell_tape() | strict.ones(3)
| xrnn.optim.SGD(0.1) | Path('/nowhere/x') | '/nowhere/x' | '/'
"""

#: expressions of objects; none holds a bar of its own
ODDITIES = tuple(part.strip() for part in ODD.split("|"))


@dataclass(frozen=True)
class Damage:
    """A change of the text of an argument, and what must come of it."""

    template: str
    expected: str


@dataclass(frozen=True)
class Kind:
    """What an argument takes.

    `takes` says of any object whether it is right: False means that it must be refused.
    """

    takes: Callable[[Any], bool]
    damages: tuple[Damage, ...] = ()


@dataclass(frozen=True)
class Argument:
    """One argument of a call: its kind, and a text that is right."""

    kind: Kind
    right: str


def damages_of(**texts: str) -> tuple[Damage, ...]:
    """Damages by what must come of them; several are separated by bars."""
    return tuple(
        Damage(text.strip(), expected)
        for expected, together in texts.items()
        for text in together.split("|")
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    if _is_array(value):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_array(value: Any) -> bool:
    if isinstance(value, type):
        return False
    return hasattr(value, "__array_namespace__") or isinstance(value, np.generic | np.ndarray)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str | None) and value in values


def choice(*values: Any) -> Kind:
    """One of these strings, or None."""
    return Kind(_one_of(*values))


def integer(low: int, high: int = 1000) -> Kind:
    """An integer within bounds."""
    return Kind(lambda value: _is_integer(value) and low <= value <= high)


def optional(kind: Kind) -> Kind:
    """None, or what another kind takes."""
    return Kind(lambda value: value is None or kind.takes(value), kind.damages)


def real(low: float, high: float, *, ends: str = "[]") -> Kind:
    """A number within bounds; ``ends="()"`` excludes them."""

    def takes(value: Any) -> bool:
        if not is_real(value):
            return False
        above = value > low if ends[0] == "(" else value >= low
        return bool(above and (value < high if ends[1] == ")" else value <= high))

    return Kind(takes)


def _is_empty(value: Any) -> bool:
    """Whether it is iterable and has nothing to give."""
    try:
        return len(value) == 0
    except TypeError:
        return False


def _is_dtype(value: Any) -> bool:
    try:
        return np.dtype(value).kind in "fc" if value is not None else False
    except (TypeError, ValueError):
        return isinstance(value, str) and value == "bfloat16"


def _is_part(value: Any) -> bool:
    return hasattr(value, "config") and hasattr(value, "weights") and not isinstance(value, type)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _is_generator(value: Any) -> bool:
    try:
        np.random.default_rng(value)
    except (TypeError, ValueError):
        return False
    return True


ARRAY_DAMAGES = damages_of(
    same="at({}, strided) | at({}, sliced) | at({}, misaligned) | at({}, fortran) | at({}, swapped)"
    "| at({}, readonly) | at({}, memmap) | at({}, subclass) | at({}, strided, last=True)",
    error="at({}, cast, 'bool') | at({}, objects) | at({}, text) | at({}, structured)"
    "| at({}, elsewhere) | at({}, in_torch) | at({}, listed) | at({}, masked)"
    "| at({}, elsewhere, last=True) | at({}, objects, last=True)",
    any="at({}, cast, 'int64') | at({}, cast, 'complex128') | at({}, other_float)"
    "| at({}, shorter) | at({}, deeper) | at({}, flat) | at({}, first) | at({}, scalar)"
    "| at({}, empty) | at({}, filled, nan) | at({}, filled, inf) | at({}, filled, -inf)"
    "| at({}, filled, 1e-310) | at({}, filled, 1e-41) | at({}, filled, 1e30) | at({}, filled, -0.0)"
    "| at({}, shorter, last=True) | at({}, deeper, last=True) | at({}, cast, 'int64', last=True)"
    "| at({}, other_float, last=True) | at({}, empty, last=True) | at({}, scalar, last=True)",
)

#: of an array that need not agree with any other
ALONE_DAMAGES = tuple(
    Damage(damage.template, "any") if "elsewhere" in damage.template else damage
    for damage in ARRAY_DAMAGES
    if "in_torch" not in damage.template
)

MAPPING_DAMAGES = damages_of(
    same="MappingProxyType({}) | OrderedDict({}) | dict(list({}.items())[::-1])",
    any="without({}) | without({}, -1) | list({}.items()) | {**{}, 'more': np.ones(3)}"
    "| {**{}, 'W': None} | {**{}, None: np.ones(2)} | renamed({}, 'w') | renamed({}, 5)"
    "| renamed({}, ('a', 'b')) | renamed({}, 'a.b') | renamed({}, '') | set({}) | list({})"
    "| list({}.values()) | {**{}, 'a': 1.0}",
)

TUPLE_DAMAGES = damages_of(
    same="list({}) | tuple({})",
    error="{}[0] | iter({}) | dict(enumerate({})) | ({}, {}) | {}[:-1]",
    any="({}[0],) | ({}[0], None) | (*{}, None) | {}[::-1] | (None,) * len({})",
)

SIZE, COUNT = integer(1), integer(1, 2**71)
FLAG = Kind(lambda value: isinstance(value, bool | np.bool_))
ARRAY = Kind(_is_array, ARRAY_DAMAGES)
ALONE = Kind(_is_array, ALONE_DAMAGES)
#: an array, or one for each gate; it may be of any dtype, and of another library
GATES = Kind(_is_array, tuple(Damage(damage.template, "any") for damage in ALONE_DAMAGES))
#: targets may be whole, and of any width
TARGETS = Kind(
    _is_array,
    tuple(
        Damage(damage.template, "any") if "'bool'" in damage.template else damage
        for damage in ARRAY_DAMAGES
    ),
)
MASK = Kind(
    lambda value: value is None or _is_array(value),
    tuple(
        Damage(damage.template, "same") if "'bool'" in damage.template else damage
        for damage in ARRAY_DAMAGES
        if "filled" not in damage.template
    ),
)
#: booleans of any library, or lists of them
STEPS = Kind(
    lambda value: value is None or _is_array(value) or isinstance(value, list | tuple),
    damages_of(
        same="at({}, strided) | at({}, fortran) | at({}, readonly) | at({}, elsewhere)"
        "| at({}, in_torch) | {}.tolist()",
        error="at({}, objects) | at({}, text) | at({}, structured) | at({}, cast, 'int64')"
        "| at({}, cast, 'float64') | at({}, shorter) | at({}, deeper) | at({}, flat) | {}.T",
    ),
)
INTEGERS = Kind(
    _is_array,
    damages_of(
        same="at({}, strided) | at({}, sliced) | at({}, fortran) | at({}, swapped)"
        "| at({}, readonly) | at({}, memmap) | at({}, subclass) | at({}, cast, 'int8')"
        "| at({}, cast, 'uint8') | at({}, cast, 'int16') | at({}, cast, 'int32')",
        error="at({}, cast, 'bool') | at({}, cast, 'complex128') | at({}, objects) | at({}, text)"
        "| at({}, structured) | at({}, elsewhere) | at({}, in_torch) | at({}, listed)"
        "| at({}, masked) | at({}, filled, -1) | at({}, filled, 10**9)",
        any="at({}, cast, 'float64') | at({}, shorter) | at({}, deeper) | at({}, flat)"
        "| at({}, first) | at({}, scalar) | at({}, empty) | at({}, cast, 'uint64')",
    ),
)
STATE = Kind(
    lambda value: value is None or isinstance(value, tuple | list), TUPLE_DAMAGES + ARRAY_DAMAGES
)
WEIGHTS = Kind(
    lambda value: isinstance(value, dict) or hasattr(value, "keys"),
    MAPPING_DAMAGES + ARRAY_DAMAGES,
)
#: arrays, and lists, of any library
OF_TORCH = Kind(
    WEIGHTS.takes,
    tuple(
        Damage(damage.template, "any")
        if any(word in damage.template for word in ("elsewhere", "in_torch", "listed"))
        else damage
        for damage in WEIGHTS.damages
    ),
)
TREE = Kind(lambda value: isinstance(value, dict), MAPPING_DAMAGES + ARRAY_DAMAGES)
#: pairs are accepted too, as by every `update`
CHANGES = Kind(
    lambda value: isinstance(value, dict) or _is_empty(value),
    MAPPING_DAMAGES + ARRAY_DAMAGES,
)
TAPE = Kind(
    lambda value: False,
    damages_of(
        same="copy.copy({})",
        any="copy.deepcopy({})",
        error="tape_of(xrnn.GRU(3, 5, rng=0)) | cell_tape(cells.GRU) | ({},) | type({})"
        "| tape_of(xrnn.Linear(3, 5, rng=0)) | tape_of(xrnn.Embedding(3, 5, rng=0))",
    ),
)
#: any tape of a cell or a layer
ANY_TAPE = Kind(
    lambda value: type(value).__name__ == "Tape",
    damages_of(
        error="tape_of(xrnn.Linear(3, 5, rng=0)) | tape_of(xrnn.Embedding(3, 5, rng=0))"
        "| ({},) | type({})",
        any="tape_of(xrnn.GRU(3, 5, 2, rng=0)) | cell_tape(cells.Elman, reverse=True)"
        "| tape_of(xrnn.LSTM(3, 5, batch_first=True, rng=0)) | cell_tape(lengths=[4, 0])"
        "| copy.copy({})",
    ),
)
LENGTHS = Kind(
    lambda value: value is None or isinstance(value, range) or _is_array(value),
    damages_of(
        same="tuple({}) | np.array({}, 'u1') | np.array({}, '>i4') | np.array({})"
        "| strict.asarray({}) | np.array({}[::-1])[::-1]",
        error="[4, 5] | [-1, 2] | [4.0, 2.0] | [4, 2, 1] | [[4, 2]] | [4] | [True, False]"
        "| ['4', '2'] | [nan, 2] | np.array({}, object) | [2**70, 1] | {4: 2, 2: 1} | '42'"
        "| [None, 2] | np.array({}, bool) | np.array({}, float) | 4 | [[4], [2, 1]]"
        "| np.ma.array({}, mask=[0, 1]) | [1j, 2] | {4, 2}",
        any="[0, 0] | [0, 4] | [1, 0] | range(1, 3)",
    ),
)
#: the numbers of streams
ROWS = Kind(
    lambda value: value is None or (_is_integer(value) and 0 <= value < 2) or _is_empty(value),
    damages_of(
        same="np.array({}) | tuple({}) | 0 | np.array([True, False]) | [True, False] | np.int8(0)",
        error="[2] | [-1] | [0.0] | ['0'] | [[0]] | [True] | 1.5 | [2**70] | {0: 1} | [None]"
        "| np.array({}, object) | [nan]",
        any="[0, 0] | [] | np.zeros(2, bool) | range(2)",
    ),
)
SEED = optional(Kind(_is_integer))
RNG = Kind(_is_generator, damages_of(any="np.random.PCG64(0) | [1, 2] | np.random.RandomState(0)"))
DTYPE = Kind(
    _is_dtype,
    damages_of(
        any="'float64' | 'float16' | 'bfloat16' | np.float64 | 'f4' | np.dtype('>f8')",
        error="'int32' | 'float' + '128' * 3 | np.int64 | 'object' | 'bool' | 'U5' | ['float32']",
    ),
)
DEVICE = Kind(
    _one_of("cpu", "torch", "numpy", "array_api_strict"),
    damages_of(
        same="'numpy'",
        error="'tpu' | 'os.path' | 'numpy.nope' | '.x' | 'a b' | 'cpu:x' | 'math' | 'class'"
        "| ['cpu'] | 'numpy.' | 'xrnn'",
        any="'cuda' | 'jax' | 'torch' | 'array_api_strict' | 'cuda:0' | 'cpu:0' | 'jax:0'",
    ),
)
CELL = Kind(lambda value: isinstance(value, Cell))
CELLS = Kind(
    lambda value: isinstance(value, list | tuple | set | dict) and all(map(CELL.takes, value)),
    damages_of(error="[*{}, xrnn.LSTM] | {}[0] | [None]"),
)
LAWS = Kind(_is_empty, damages_of(same="tuple({})", error="{}[0] | [*{}, 'none'] | [*{}, None]"))
PRECISION, NAME = choice("ieee", "tf32", "bf16"), Kind(lambda value: isinstance(value, str))
STATE_NAME = choice("h", "c", None)
SHAPE = Kind(
    lambda value: isinstance(value, tuple | list) and len(value) in (2, 3),
    damages_of(
        same="list({})",
        error="{}[:1] | (*{}, 1) | (1.5, 2, 3) | (None, 3) | (True, 2, 3) | (-1, 2, 3)"
        "| ('4', 2, 3) | np.zeros({}) | iter({})",
        any="{}[:2] | (0, 0, 0) | (2**70, 2, 3)",
    ),
)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | bytes) or hasattr(value, "__fspath__")


PATH = Kind(
    _is_path,
    damages_of(
        same="Path({}) | ({}).encode()",
        error="folder() | folder() + '/none/x' | '' | '\\0' | 'x' * 5000 | Path('')",
    ),
)
READ = Kind(
    _is_path,
    PATH.damages
    + damages_of(
        error="holding_bytes(b'') | holding_bytes(b'x' * 99) | holding_bytes(b'\\xff' * 8)"
        "| holding_bytes(b'\\x02' + bytes(7) + b'\\x7b\\x7d')"
        "| holding_bytes(Path({}).read_bytes()[:-1]) | holding_bytes(Path({}).read_bytes() + b'x')",
    ),
)
MODEL = Kind(
    _is_path,
    PATH.damages
    + damages_of(
        error="holding_bytes(b'') | holding_bytes(b'x' * 99) | holding_bytes(b'\\xff' * 8)"
        "| holding_bytes(Path({}).read_bytes()[:60])",
    ),
)
METADATA = Kind(
    _is_json,
    damages_of(
        any="{'a': [1, {'b': None}]} | 'text' | {1: 2} | (1, 2)",
        error="{'a': object()} | [nan] | {'a': {1, 2}} | {(1, 2): 3} | b'x' | np.ones(2)",
    ),
)
#: an option of the command line: a word that is not what the option takes
WORD = Kind(
    lambda value: True,
    damages_of(
        any="'-1' | '1e9' | '' | '100000000000' | 'ü' | '\\udcff' | '--' | 'nan' | '/' | '0.1'"
    ),
)
#: the same where a large number would be right, and take for ever
FEW = Kind(WORD.takes, tuple(damage for damage in WORD.damages if "10000" not in damage.template))
PARTS = Kind(
    lambda value: _is_empty(value) if isinstance(value, dict) else _is_part(value),
    damages_of(
        any="{'a': {}} | {'a': {'b': {}}} | {'': {}} | {'a.b': {}} | {'a': {}, 'b': {}}",
        error="{5: {}} | [{}] | type({}) | {}.weights | {'a': None} | {None: {}}",
    ),
)
ANYTHING = Kind(lambda value: True)
#: what is never changed
FIXED = Kind(lambda value: True)
