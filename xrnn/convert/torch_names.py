"""PyTorch's names of tensors, and what is wrong with those that are given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: the name of a tensor of a recurrent module, without layer and direction → the array of
#: `xrnn.convert.conventions.Stored`
FIELDS: Mapping[str, str] = {
    "weight_ih": "W",
    "weight_hh": "U",
    "bias_ih": "b",
    "bias_hh": "recurrent_bias",
    "weight_hr": "projection",
}

#: the name of a tensor of a recurrent module; those of cells have no "_l" and number
RECURRENT = re.compile(rf"({'|'.join(FIELDS)})(?:_l(\d{{1,4}}))?(_reverse)?")

#: what some names show → the option that a part with such names has, and that of one without
OPTIONS: Mapping[str, tuple[str, str]] = {
    r"^bias": ("bias=True", "bias=False"),
    r"_reverse$": ("bidirectional=True", "bidirectional=False"),
    r"^weight_hr": ("proj_size=…", "proj_size=None"),
}


def joined(*names: str) -> str:
    """The name of a module or a tensor inside of modules."""
    return ".".join(name for name in names if name)


def is_under(name: str, prefix: str | None) -> bool:
    """Whether it is the name of that module, or of something in it; with or without a dot."""
    path = (prefix or "").removesuffix(".")
    return not path or name == path or name.startswith(f"{path}.")


def under(prefix: str | None, state_dict: Mapping[str, Any]) -> dict[Any, Any]:
    """What lies in a module, by the names in it."""
    if not prefix:
        return dict(state_dict)
    start = f"{prefix.removesuffix('.')}."
    found = {
        name.removeprefix(start): value
        for name, value in state_dict.items()
        if isinstance(name, str) and name.startswith(start)
    }
    if not found:
        names = few([str(name) for name in state_dict]) or "none"
        raise ValueError(
            f"no names begin with {start!r:.80}; the names are {names}: give prefix= the part of "
            "them that stands before the module, or leave it out"
        )
    return found


def check_names(
    given: Mapping[Any, Any], parts: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> None:
    """Raise ValueError unless the names are those of the parts: path → name → shape."""
    shapes = {joined(p, name): shape for p, own in parts.items() for name, shape in own.items()}
    missing = [name for name in shapes if name not in given]
    unknown = [str(name) for name in given if name not in shapes]
    if not missing and not unknown:
        return
    help_ = _deeper(given, next(iter(shapes))) if missing else ""
    for path, own in () if help_ else parts.items():
        names = [str(name) for name in given if joined(path, str(name).rpartition(".")[2]) == name]
        help_ += _options(path, [name.rpartition(".")[2] for name in names], list(own))
    if unknown:
        raise ValueError(
            f"unknown PyTorch names {few(unknown)}; the layer has {', '.join(shapes)}{help_}"
        )
    raise ValueError(
        f"PyTorch name {missing[0]} is missing; it must have shape {shapes[missing[0]]}{help_}"
    )


def _deeper(given: Mapping[Any, Any], first: str) -> str:
    """What to do if the names are those of parts of a larger module."""
    ends = [str(name) for name in given if str(name).endswith(f".{first}")]
    starts = [name.removesuffix(first) for name in ends]
    if not starts:
        return ""
    return (
        f"; these start with {few([repr(start) for start in starts], ' or ')}; say "
        f"prefix={starts[0].removesuffix('.')!r}"
    )


def _options(path: str, given: list[str], expected: list[str]) -> str:
    """The options with which a part would have the names that are given."""
    said = []
    for pattern, (there, absent) in OPTIONS.items():
        found, wanted = (any(re.search(pattern, n) for n in names) for names in (given, expected))
        if found != wanted:
            said.append(there if found else absent)
    layers, wanted_layers = (
        max((int(n) for name in names for n in re.findall(r"_l(\d+)", name)), default=-1)
        for names in (given, expected)
    )
    if -1 < layers != wanted_layers:
        said.append(f"num_layers={layers + 1}")
    if not said or not given:
        return ""
    if said == ["bias=False"]:
        of = f" of {path}" if path else ""
        return f"; there are no biases{of}; make the layer with bias=False"
    return f"; make {path or 'the layer'} with {', '.join(said)}"


def few(names: list[str], between: str = ", ") -> str:
    """The first names of a list, for a message."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return between.join(names[:6]) + more
