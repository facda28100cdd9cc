"""The certificate: the results of every law, for every cell and option, on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

from xrnn.backends import locate
from xrnn.cells import BY_NAME, Cell
from xrnn.cells.base import check_cell
from xrnn.certify import laws
from xrnn.certify.derivative import runs_in_complex
from xrnn.certify.trial import COMPACT, OPTIONS, Option, Trial
from xrnn.engine.checks import check_choice, check_precision
from xrnn.typing import Precision

#: dtype → the largest relative error that is accepted as rounding
BOUNDS = {"float64": 1e-11, "float32": 1e-4, "float16": 5e-2, "bfloat16": 2e-1}

#: the dtype whose bound holds for float32, by the precision of its products
PRECISIONS = {"ieee": "float32", "tf32": "float16", "bf16": "bfloat16"}

#: the same for a numeric derivative by differences, for a cell that does not run in complex numbers
DIFFERENCE_BOUND = 1e-7

#: the same for `twin` with weights of 8 or 16 bits: a last bit may decide how h is rounded
COMPACT_BOUND = 5e-2

#: the names of all laws
EVERY = (*laws.LAWS, "oracle")

#: the width of the first column of a table
CELL_WIDTH = 12


@dataclass(frozen=True)
class Verdict:
    """The result of one law for one cell with one option.

    Attributes
    ----------
    cell, option, law : str
        Their names.
    error, bound : float
        The largest relative error found, and the largest one that is accepted.
    note : str
        The exception, if the law could not be evaluated (`error` is then infinite).
    """

    cell: str
    option: str
    law: str
    error: float
    bound: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is at most the bound (False for NaN)."""
        return self.error <= self.bound


@dataclass(frozen=True, repr=False)
class Certificate:
    """The results of all laws.  Printed, it is a table; iterated over, it gives verdicts.

    Attributes
    ----------
    verdicts : tuple of Verdict
        One for each cell, option and law that applies.
    """

    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether there is at least one verdict, and all verdicts passed."""
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)

    def __len__(self) -> int:
        return len(self.verdicts)

    def __repr__(self) -> str:
        failed = sum(not verdict.passed for verdict in self.verdicts)
        return f"<Certificate: {len(self.verdicts)} verdicts, {failed} failed>"

    def __str__(self) -> str:
        lines: list[str] = []
        as_table(self.verdicts, lines.append)
        return "\n".join(lines)


def certify(
    device: str = "cpu",
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = "float32",
    cells: Iterable[Cell[Any]] = tuple(BY_NAME.values()),
    *,
    laws: Iterable[str] = EVERY,
    precision: Precision = "ieee",
) -> Certificate:
    """Run the eight laws on this machine and return the results.

    They are, by the names of the columns: `derivative` (backward against a numeric derivative of
    forward), `batch` (order of the sequences), `cut` (a sequence in two parts), `oracle`
    (frozen results of other implementations), `contract` (no argument changed, dtypes kept,
    padding 0), `twin` (kernels against the cell's own code in float64), `look` (gradients of
    gates against those of weights), `checkpoint` (a pass that keeps few states against one that
    keeps all).  The docstring of ``xrnn/certify/laws.py`` describes them.  In float32 on the CPU
    some are about inference with weights of 8 bits too, the options "int8 …"; what that rounding
    does on inputs of your own `xrnn.analysis.difference` says.

    Parameters
    ----------
    device : str
        "cpu", "cuda" or the name of an array library.
    dtype : {"float32", "float64", "float16", "bfloat16"}
        The dtype under test; numeric derivatives are always taken in float64.
    cells : iterable of Cell
        The cells to test (values of `xrnn.cells`, those that `xrnn.cells.lstm_with` and the others
        make of options, or your own; not layers).  A cell without frozen vectors has no verdict on
        the law `oracle`.
    laws : iterable of str
        The names of the laws to run.  While you write a cell, ``["derivative"]`` is soon done.
    precision : {"ieee", "tf32", "bf16"}
        That of the products, as for `xrnn.unroll`.  The last two are for float32; numeric
        derivatives, and the cell's own code of the law `twin`, round nothing.

    Returns
    -------
    Certificate
        A verdict for each cell, option and law; `Certificate.passed` says whether all hold.
        An exception while a law is evaluated, such as that of a missing library, is not
        raised: it is the `note` of a verdict that did not pass.

    Raises
    ------
    TypeError
        If one of the cells is none, or `laws` is no list of names.
    ValueError
        If the dtype is not one of the four, there is no such device or law, or the precision does
        not fit the dtype.
    ImportError
        If the library of the device is not installed, or finds no device.

    Examples
    --------
    >>> import xrnn
    >>> xrnn.certify("cpu", "float64", [xrnn.cells.LSTM]).passed
    True
    """
    check_choice("certify", "dtype", dtype, BOUNDS)
    check_precision("certify", precision, dtype)
    locate(device)
    try:
        cells = tuple(cells)
    except TypeError as error:
        raise TypeError(f"certify: cells is {cells!r:.80}; it must be a list of cells") from error
    for cell in cells:
        check_cell(cell)
    if isinstance(laws, str) or not isinstance(laws, Iterable):
        raise TypeError(f"certify: laws is {laws!r:.80}; it must be a list of names of laws")
    laws = tuple(laws)
    for law in laws:
        check_choice("certify", "a name in laws", law, EVERY)
    return Certificate(tuple(verdicts(device, dtype, cells, laws, precision)))


def verdicts(
    device: str,
    dtype: str,
    cells: Iterable[Cell[Any]],
    chosen: Iterable[str] = EVERY,
    precision: Precision = "ieee",
) -> Iterator[Verdict]:
    """The verdicts of `certify`, one by one as they are computed."""
    chosen = tuple(chosen)
    for cell in cells:
        for option in (*OPTIONS, *COMPACT):
            trial = Trial(cell, option, device, dtype, precision)
            for name, law in laws.LAWS.items():
                if name not in chosen:
                    continue
                error, note = _try(law, trial)
                if error is not None:
                    limit = bound(cell, name, dtype, precision, option)
                    yield Verdict(cell.name, option.name, name, error, limit, note)
        for case in laws.cases(cell) if "oracle" in chosen else ():
            error, note = _try(laws.oracle, cell, case, device, dtype, precision)
            if error is not None:
                option_name = f"vectors: {case}"
                limit = bound(cell, "oracle", dtype, precision)
                yield Verdict(cell.name, option_name, "oracle", error, limit, note)


def _try(law: Callable[..., float | None], *given: Any) -> tuple[float | None, str]:
    """The error of the law and an empty note; if it raises, infinity and the message."""
    try:
        return law(*given), ""
    except Exception as problem:  # a law that cannot be evaluated counts as failed
        return float("inf"), f"{type(problem).__name__}: {problem}"


def bound(
    cell: Cell[Any],
    law: str,
    dtype: str,
    precision: Precision = "ieee",
    option: Option | None = None,
) -> float:
    """The largest error of this law that is accepted as rounding."""
    if law == "twin" and option is not None and option.weights:
        return COMPACT_BOUND
    limit = BOUNDS[PRECISIONS[precision] if dtype == "float32" else dtype]
    if law == "derivative" and not runs_in_complex(cell):
        return max(limit, DIFFERENCE_BOUND)
    return limit


def as_table(verdicts: Iterable[Verdict], show: Callable[[str], object] = print) -> bool:
    """Show a row for each cell and option, a column for each law; whether all passed.

    An entry is the largest relative error: "–" if the law does not apply or was not run, with
    "FAIL" behind it if it exceeds its bound; messages of exceptions are shown below the row.  The
    name of a cell with options, which is long, has a line of its own.
    """
    columns = list(EVERY)
    show(_row("cell", "option", columns))
    count = failed = 0
    shown = ""
    for (cell, option), group in groupby(verdicts, lambda v: (v.cell, v.option)):
        found = {verdict.law: verdict for verdict in group}
        long = len(cell) >= CELL_WIDTH
        if long and cell != shown:
            show(cell)
        shown = cell
        show(_row("" if long else cell, option, [_text(found.get(name)) for name in columns]))
        for verdict in found.values():
            if verdict.note:
                show(f"    {verdict.law}: {verdict.note}")
        count += len(found)
        failed += sum(not verdict.passed for verdict in found.values())
    show(f"{count} verdicts, {failed} failed")
    return failed == 0


def _row(cell: str, option: str, entries: list[str]) -> str:
    return f"{cell:<{CELL_WIDTH}}{option:<20}" + "".join(f"{entry:>13}" for entry in entries)


def _text(verdict: Verdict | None) -> str:
    if verdict is None:
        return "–"
    return f"{verdict.error:.1e}" + ("" if verdict.passed else " FAIL")


def as_json(verdicts: Iterable[Verdict]) -> str:
    """The verdicts as a JSON list; an infinite error is written as null."""
    rows = [asdict(verdict) | {"passed": verdict.passed} for verdict in verdicts]
    for row in rows:
        row["error"] = row["error"] if row["error"] < float("inf") else None
    return json.dumps(rows, indent=1)
