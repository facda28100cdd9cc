"""What the files of a run must hold, checked before anything is built from them.

The keys, the types and the ranges of the values are checked, and the names, shapes, dtypes and
values of the tensors, so that training never goes on from something that a file does not hold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from xrnn.backends import host
from xrnn.charlm.config import LIMIT, Config, RefusedError
from xrnn.charlm.run import Row
from xrnn.typing import Array, dtype_name

DTYPE = "float32"

#: how the names of tensors begin that are means of squares
SQUARES = "optimizer.v."

#: what a value must be, in words, and whether it is
Kind = tuple[str, Callable[[Any], bool]]

COUNT: Kind = ("an integer ≥ 0 that fits in 64 bits", lambda v: type(v) is int and 0 <= v < LIMIT)
NUMBER: Kind = (
    "a finite number",
    lambda v: type(v) in (int, float) and abs(v) <= sys.float_info.max,
)
STRING: Kind = ("a string", lambda v: isinstance(v, str))

ABOUT: dict[str, Kind] = {
    "vocabulary": (
        "a string of different characters in order",
        lambda v: isinstance(v, str) and v != "" and sorted(set(v)) == list(v),
    ),
    "charlm": ("an object", lambda v: isinstance(v, dict)),
}
IN_CHECKPOINT = ABOUT | {
    "step": COUNT,
    "seconds": NUMBER,
    "text": (
        "the path of a file or null",
        lambda v: v is None or (isinstance(v, str) and v != "" and "\0" not in v),
    ),
    "sha256": STRING,
    "history": ("a list", lambda v: isinstance(v, list)),
}
IN_CONFIG = {
    name: {str: STRING, int: COUNT, float: NUMBER}[type(value)]
    for name, value in asdict(Config()).items()
}
IN_ROW = {f.name: COUNT if f.type == "int" else NUMBER for f in fields(Row)}


def check_values(path: Path, where: str, found: Any, kinds: Mapping[str, Kind]) -> None:
    """Raise RefusedError unless `found` is an object of exactly these keys and kinds of values."""
    if not isinstance(found, dict):
        raise _refusal(path, f"{where.rstrip('.')} is {found!r:.80}; it must be an object")
    if missing := [name for name in kinds if name not in found]:
        raise _refusal(path, f"{where}{missing[0]} is missing")
    if unknown := [name for name in found if name not in kinds]:
        raise _refusal(
            path,
            f"{where}{unknown[0]} is unknown to this version; it may be that of a newer xrnn",
        )
    for name, (words, fits) in kinds.items():
        if not fits(found[name]):
            raise _refusal(path, f"{where}{name} is {found[name]!r:.80}; it must be {words}")


def read_config(path: Path, found: Any) -> Config:
    """The options in a file."""
    check_values(path, "charlm.", found, IN_CONFIG)
    config = Config(**found)
    try:
        config.check()
    except RefusedError as error:
        raise _refusal(path, str(error)) from None
    return config


def check_history(path: Path, history: list[Any], step: int) -> None:
    """Raise RefusedError unless these are the lines of a history up to a step."""
    before = 0
    for n, row in enumerate(history):
        check_values(path, f"history[{n}].", row, IN_ROW)
        if not before < row["step"] <= step:
            raise _refusal(
                path,
                f"history[{n}].step is {row['step']}; it must be above {before}, the line "
                f"before, and at most step = {step}",
            )
        before = row["step"]


def check_tensors(
    path: Path, tensors: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise RefusedError unless the tensors are exactly these, float32 and finite.

    The second moments of an optimizer are means of squares; they must not be negative.
    """
    if odd := sorted(set(tensors) ^ set(shapes)):
        state = "missing" if odd[0] in shapes else "unknown"
        raise _refusal(path, f"the tensor {odd[0]} is {state}")
    for name, shape in shapes.items():
        found = tensors[name]
        if tuple(found.shape) != shape or dtype_name(found.dtype) != DTYPE:
            raise _refusal(
                path,
                f"{name} is {dtype_name(found.dtype)} of shape {tuple(found.shape)}; it must be "
                f"{DTYPE} of shape {shape}",
            )
    check_finite(path, tensors)
    for name, array in tensors.items():
        if name.startswith(SQUARES) and (array < 0).any():
            raise _refusal(path, f"{name} holds negative numbers; it must be a mean of squares")


def check_finite(path: Path, tensors: Mapping[str, Array]) -> None:
    """Raise RefusedError if a tensor holds NaN or infinity."""
    for name, array in tensors.items():
        if not host.xp.isfinite(array).all():
            raise _refusal(path, f"{name} holds NaN or infinity")


def _refusal(path: Path, problem: str) -> RefusedError:
    return RefusedError(f"{path} is not as xrnn wrote it: {problem}; use another folder")
