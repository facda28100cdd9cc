"""Cells with options for the tests of kernels: each function in each place, and each limit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from xrnn import cells
from xrnn.cells.activations import ACTIVATIONS

#: alpha and beta of the kinds that have them
PARAMETERS = {
    "hard_sigmoid": (0.2, 0.5),
    "affine": (0.5, 0.1),
    "leaky_relu": (0.1,),
    "thresholded_relu": (0.3,),
    "scaled_tanh": (0.8, 0.6),
    "elu": (0.7,),
}

MAKERS: dict[str, Any] = {
    "rnn": cells.rnn_with,
    "gru": cells.gru_with,
    "gru-before": partial(cells.gru_with, reset="before"),
    "lstm": cells.lstm_with,
    "coupled": partial(cells.lstm_with, coupled=True),
    "peephole": partial(cells.lstm_with, peephole=True),
    "coupled peephole": partial(cells.lstm_with, coupled=True, peephole=True),
}

#: those that need a product besides
PROJECTED: dict[str, Any] = {
    "projected": partial(cells.lstm_with, proj_size=7),
    "projected coupled": partial(cells.lstm_with, proj_size=40, coupled=True),
    "projected peephole": partial(cells.lstm_with, proj_size=16, peephole=True),
    "projected both": partial(cells.lstm_with, proj_size=1, coupled=True, peephole=True),
}

USUAL = dict.fromkeys({**MAKERS, **PROJECTED}, ("sigmoid", "tanh", "tanh")) | {
    "rnn": ("tanh",),
    "gru": ("sigmoid", "tanh"),
    "gru-before": ("sigmoid", "tanh"),
}

#: a limit that is never reached, so that the loop with options runs what a plain one runs
FAR = 1e30


def spec(name: str) -> Any:
    return name, *PARAMETERS.get(name, ())


def every_cell(makers: dict[str, Any] = MAKERS) -> Iterator[Any]:
    """Each kind for each function of each maker, and each limit."""
    for maker, make in makers.items():
        usual = USUAL[maker]
        for name in ACTIVATIONS if " " not in maker else ("hard_sigmoid", "elu", "tanh"):
            for k in range(len(usual)):
                cell = make(activations=(*usual[:k], spec(name), *usual[k + 1 :]))
                if cell.made is not None:
                    yield cell
        yield make(clip=0.7)
        if len(usual) == 3:
            yield make(clip=0.9, cell_clip=0.6)


def forms(makers: dict[str, Any]) -> list[Any]:
    """A form of each loop, with limits that bite and functions of several kinds."""
    return [
        makers["rnn"](activations=[spec("leaky_relu")], clip=1.0),
        makers["gru"](activations=[spec("hard_sigmoid"), "softsign"], clip=1.0),
        makers["gru-before"](activations=[spec("hard_sigmoid"), "tanh"], clip=1.0),
        *(
            make(activations=[spec("hard_sigmoid"), "tanh", spec("elu")], clip=1.0, cell_clip=0.8)
            for name, make in makers.items()
            if len(USUAL[name]) == 3
        ),
    ]


FORMS = forms(MAKERS)

#: the same without kinks: however results are rounded, a right kernel is near to the equations
SMOOTH = [
    MAKERS["rnn"](activations=["softsign"]),
    MAKERS["gru"](activations=["sigmoid", "softsign"]),
    MAKERS["gru-before"](activations=["sigmoid", spec("scaled_tanh")]),
    MAKERS["lstm"](activations=["sigmoid", spec("affine"), "softsign"]),
    MAKERS["peephole"](activations=["sigmoid", "softsign", "tanh"]),
    MAKERS["coupled peephole"](activations=["sigmoid", "tanh", "softsign"]),
]
