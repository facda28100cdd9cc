"""Cells as JSON values, for files: a name of `BY_NAME`, or a function and its arguments.

The arguments go through the checks of that function again, and no code is taken from a file.
"""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from math import inf
from typing import Any

from xrnn.cells.activations import ACTIVATIONS, Spec
from xrnn.cells.base import Cell
from xrnn.cells.elman_options import RNNOptions, rnn_with
from xrnn.cells.gru_options import GRUOptions, gru_with
from xrnn.cells.leaky import LeakyOptions, leaky_with
from xrnn.cells.lstm_options import LSTMOptions, lstm_with
from xrnn.cells.zoneout import Zoneout, with_zoneout

#: the options of a cell → the function of `xrnn.cells` that takes them, by their names
MAKERS: dict[type, Any] = {
    LSTMOptions: lstm_with,
    GRUOptions: gru_with,
    RNNOptions: rnn_with,
    LeakyOptions: leaky_with,
}
BY_MAKER = {function.__name__: function for function in MAKERS.values()}


def described(cell: Cell[Any]) -> str | dict[str, Any] | None:
    """A JSON value from which `cell_of` makes the cell again; None for a cell of one's own.

    Examples
    --------
    >>> from xrnn import cells
    >>> described(cells.LSTM)
    'lstm'
    >>> described(cells.with_zoneout(cells.leaky_with(0.5, noise=0.1), 0.25))["rates"]
    [0.25]
    """
    from xrnn.cells import BY_NAME

    options = cell.made
    if BY_NAME.get(cell.name) is cell:
        return cell.name
    if isinstance(options, Zoneout):
        inner = described(options.cell)
        found = {"maker": with_zoneout.__name__, "cell": inner, "rates": list(options.rates)}
        return None if inner is None else found
    if type(options) not in MAKERS:
        return None
    given = {f.name: _plain(f.name, getattr(options, f.name)) for f in fields(options)}
    return {"maker": MAKERS[type(options)].__name__, **given}


def cell_of(description: Any) -> Cell[Any]:
    """The cell of a value that `described` has given.

    Raises
    ------
    TypeError, ValueError
        If it is no such value.

    Examples
    --------
    >>> cell_of({"maker": "lstm_with", "cell_clip": 10.0})
    <cell lstm(cell_clip=10.0)>
    """
    if isinstance(description, dict) and description.get("maker") == with_zoneout.__name__:
        _check_names(description, ("cell", "rates"), ("cell", "rates"))
        rates = description["rates"]
        if not isinstance(rates, list):
            raise ValueError(f"rates is {rates!r:.80}; it must be a list of numbers")
        return with_zoneout(_plain_cell(description["cell"]), *rates)
    return _plain_cell(description)


def _plain_cell(description: Any) -> Cell[Any]:
    """A cell without zoneout, which no cell has twice."""
    from xrnn.cells import BY_NAME

    if isinstance(description, str) and description in BY_NAME:
        return BY_NAME[description]
    maker = description.get("maker") if isinstance(description, dict) else None
    if not isinstance(maker, str) or maker not in BY_MAKER:
        raise ValueError(
            f"cell is {description!r:.80}; it must be a name of xrnn.cells.BY_NAME, or a function "
            f"that makes cells ({', '.join(BY_MAKER)}) with its arguments"
        )
    parameters = signature(BY_MAKER[maker]).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    _check_names(description, [p.name for p in parameters], needed)
    found: Cell[Any] = BY_MAKER[maker](**{k: v for k, v in description.items() if k != "maker"})
    return found


def _check_names(description: dict[str, Any], known: Any, needed: Any) -> None:
    """ValueError if an argument is unknown or missing."""
    maker = description["maker"]
    if unknown := sorted(description.keys() - {*known, "maker"}):
        raise ValueError(f"{maker} has no argument {unknown[0]!r:.80}; it has {', '.join(known)}")
    if missing := [name for name in needed if name not in description]:
        raise ValueError(f"{maker} needs the argument {missing[0]}")


def _plain(name: str, value: Any) -> Any:
    """The option of that name as the function takes it."""
    if name == "activations":
        return [_numbered(spec) for spec in value]
    if value == inf:
        return None
    return False if value == "" else value


def _numbered(spec: Spec) -> list[Any]:
    """An activation function with the parameters that it has."""
    name, *numbers = spec
    usual = (ACTIVATIONS[name].alpha, ACTIVATIONS[name].beta)
    return [name, *(x for x, known in zip(numbers, usual, strict=True) if known is not None)]
