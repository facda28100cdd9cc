"""The kinds of arguments that are options of cells and of layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fuzzing.kinds import ARRAY_DAMAGES, SIZE, Kind, damages_of, integer, is_real, optional, real
from xrnn.layers.layer import Layer
from xrnn.layers.part import Part

#: how many steps came before
STEP = integer(0, 2**71)


def _is_checkpoint(value: Any) -> bool:
    if value is None or isinstance(value, str):
        return value in (None, "sqrt")
    return integer(1, 2**80).takes(value)


#: how many steps lie between the states that are kept
CHECKPOINT = Kind(
    _is_checkpoint,
    damages_of(any="'sqrt' | 1 | 10**9", error="0 | -1 | True | 2.0 | 'root' | '2' | [2] | nan"),
)


def _is_rate(value: Any) -> bool:
    return is_real(value) and 0 <= value < 1


RATE, LIMIT = Kind(_is_rate), optional(real(0, float("inf"), ends="(]"))


def rates(states: int) -> Kind:
    """A probability for each state; one number alone where there is one state, or 0 for all."""

    def takes(value: Any) -> bool:
        if isinstance(value, tuple | list):
            return len(value) == states and all(map(_is_rate, value))
        return _is_rate(value) and (states == 1 or value == 0)

    return Kind(
        takes,
        damages_of(
            error="'0.1' | (0.1, 0.2, 0.3) | [1.0] * 2 | {0: 0.1} | [nan] | -0.1 | ('a', 'b')"
            "| [True, False] | [[0.1, 0.1]] | np.array([0.1, 0.1]) | [1j] | [None, None]",
        ),
    )


LAYER_NORM = Kind(
    lambda value: (
        isinstance(value, bool | np.bool_)
        or (isinstance(value, str) and value in ("products", "gates"))
    )
)


def activations(count: int) -> Kind:
    """So many activation functions."""
    return Kind(
        lambda value: value is None,
        damages_of(
            same="list({}) | tuple({}) | [(one,) for one in {}]",
            error="{}[:-1] | [*{}, 'tanh'] | 'relu' | [('elu', 'a'), *{}[1:]] | {}[0]"
            "| [('tanh', 1), *{}[1:]] | [('elu', 1, 2), *{}[1:]] | ['Elu', *{}[1:]]"
            "| [None, *{}[1:]] | [(), *{}[1:]] | [('elu', nan), *{}[1:]] | set({}) | iter({})"
            "| [('affine', 1, 2, 3), *{}[1:]] | [(1, 'elu'), *{}[1:]] | np.array({})",
            any=f"['softsign'] * {count} | [('affine', 0.5, 0.1)] * {count} | None"
            f"| [['hard_sigmoid', 1 / 6]] * {count} | [('scaled_tanh', -1)] * {count}",
        ),
    )


#: one size, or one for each layer
HIDDEN = Kind(
    lambda value: SIZE.takes(value) or (isinstance(value, tuple | list) and bool(value)),
    damages_of(
        error="({}, 0) | ({}, 'a') | [{}, None] | ({}, 1.5) | () | {({}): 1}"
        "| range(1, {}) | np.array([{}, 4])",
        any="({},) | ({},) * 3 | ({}, 4) | [{}, 4] | (np.int64({}), 4)",
    ),
)

#: a part of a model
PART = Kind(
    lambda value: isinstance(value, Part) and not isinstance(value, type),
    damages_of(error="[{}] | type({}) | {}.forward | {}.weights | lambda x: x"),
)
#: the states of the recurrent parts of a model
STATES = Kind(
    lambda value: value is None or (isinstance(value, dict) and not value),
    damages_of(
        same="dict({}) | MappingProxyType({})",
        error="{**{}, 'nonsense': None} | {**{}, 0: None} | [{}] | list({}) | 5",
        any="None",
    )
    + ARRAY_DAMAGES,
)

#: a model that can be trained
MODEL = Kind(
    PART.takes,
    damages_of(error="[{}] | type({}) | {}.forward | {}.weights | None | xrnn.Last() | 3"),
)
#: sequences of three inputs
SEQUENCES = Kind(
    lambda value: False,
    damages_of(
        same="tuple({})",
        error="None | 3 | 'abc' | [] | [1.0, 2.0] | [['a'], ['b']] | iter({}) | [None, None]"
        "| [floats(4, 3), floats(2, 2)] | [floats(2, 3, 3)] * 2 | floats(3)",
        any="floats(2, 5, 3) | [floats(4, 3).astype('float16'), floats(0, 3)]",
    ),
)
#: such sequences and a class for each
DATA = Kind(
    lambda value: False,
    damages_of(
        same="tuple({})",
        error="None | 3 | 'abc' | ([], []) | {}[0] | ({}[0], [0]) | ({}[0], None) | ({}[0], [0.5])"
        "| ({}[0], ['a', 'b']) | ({}[0], [0, 2]) | ({}[0], [0, -1]) | iter([]) | [({}[0],)]"
        "| ({}[0], [[0, 1], [1, 1]])",
        any="({}[0], np.asarray([0, 1], 'uint8')) | (floats(2, 5, 3), [1, 1])",
    ),
)
#: a loss
LOSS = Kind(
    callable,
    damages_of(
        error="None | 'mse' | lambda y, t, m=None: 1.0 | lambda y: (1.0, y)"
        "| lambda y, t, m=None: (1.0, None) | lambda y, t, m=None: (y.sum(), y[:1])",
    ),
)
#: an embedding, for a tied map
EMBEDDING = Kind(
    lambda value: type(value).__name__ == "Embedding",
    damages_of(error="[{}] | type({}) | {}.weights | xrnn.Linear(7, 3)"),
)
#: a recurrent layer, and what reads from its outputs
LAYER = Kind(
    lambda value: isinstance(value, Layer),
    damages_of(error="[{}] | type({}) | {}.weights | xrnn.Linear(3, 4) | {}.cell | None"),
)
ATTENTION = Kind(
    lambda value: value is None or type(value).__name__ == "Attention",
    damages_of(error="[{}] | type({}) | {}.weights | xrnn.Last() | xrnn.Attention(3)"),
)
