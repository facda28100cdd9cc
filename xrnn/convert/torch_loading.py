"""`load_torch`: every part in a file, or a mapping, of PyTorch's weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from xrnn.backends import host
from xrnn.cells.base import check_flags
from xrnn.convert.loaded import Loaded, within
from xrnn.convert.paths import accept_path
from xrnn.convert.torch_files import Contents, Tensor, opened
from xrnn.convert.torch_modules import Module, modules, part_of
from xrnn.convert.torch_names import few, is_under, joined
from xrnn.convert.torch_tree import StateDict, state_dicts
from xrnn.engine.checks import check_choice
from xrnn.typing import GivenDType


def load_torch(
    path_or_mapping: str | os.PathLike[str] | Mapping[str, Any],
    prefix: str | None = None,
    *,
    batch_first: bool = False,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    dtype: GivenDType | None = None,
    device: str = "cpu",
) -> Loaded:
    """The layers whose weights PyTorch has saved, made and filled in one call, without PyTorch.

    Every LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell, Linear and Embedding is found by the names of
    its tensors, however deep it lies; sizes, layers, directions and biases are taken from them.
    No code of a file runs.

    Parameters
    ----------
    path_or_mapping : path, or mapping of str to tensor or array
        A file of ``torch.save`` (.pt, .pth, .ckpt; PyTorch 1.6 or newer) with a state dict, a
        checkpoint with one or several of them, or a TorchScript program; a safetensors file; an npz
        file; or ``module.state_dict()``.
    prefix : str, optional
        The name of a module: only it and those inside it are loaded.  Default: all.
    batch_first : bool
        As for the layers; the weights do not tell it.  It holds for all layers, but those of a
        scripted TorchScript program, which tells it.
    nonlinearity : {"tanh", "relu"}
        That of the RNNs; the weights do not tell it.  It holds for all of them, but those of a
        scripted TorchScript program, which tells it.
    dtype : str, optional
        The dtype of all parts.  Default: that of the weights of each.
    device : str
        As for `xrnn.Layer`.

    Returns
    -------
    Loaded
        A dict from the name of each module, such as "encoder.lstm" ("" if the file holds one module
        alone), to its part.  Its `notes` say how each was read; `unused` holds the other tensors,
        and `skipped` says why some of them are in no part.

    Raises
    ------
    FileNotFoundError, OSError
        If the file is not there, or cannot be read.
    TypeError
        If an argument is of a wrong type, or weights are not of floating-point numbers.
    ValueError
        If the file is damaged, of another format, or holds pickled modules; if it holds no such
        module, or a recurrent one that is quantised, parametrised or incomplete, in which case
        `prefix` loads others alone.
    ImportError
        If weights are bfloat16 and ml_dtypes is not installed; for files ``dtype="float32"`` does
        without.

    Examples
    --------
    >>> import numpy as np, xrnn
    >>> state_dict = xrnn.convert.to_torch({"encoder": xrnn.GRU(3, 5), "out": xrnn.Linear(5, 2)})
    >>> parts = xrnn.convert.load_torch(state_dict)
    >>> list(parts)
    ['encoder', 'out']
    >>> ys, state = parts["encoder"](np.ones((7, 1, 3), "float32"))
    >>> parts["out"](ys).shape
    (7, 1, 2)
    """
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix is {prefix!r:.80}; it must be a str, such as 'encoder.lstm'")
    check_flags("load_torch", batch_first=batch_first)
    check_choice("load_torch", "nonlinearity", nonlinearity, ("tanh", "relu"))
    options: dict[str, Any] = {"batch_first": batch_first, "nonlinearity": nonlinearity}
    options |= {"dtype": dtype, "device": device}
    if isinstance(path_or_mapping, Mapping):
        with within("state dict"):
            return _loaded(Contents(path_or_mapping), prefix, options)
    if not isinstance(path_or_mapping, str | bytes | os.PathLike):
        raise TypeError(
            f"path_or_mapping is a {type(path_or_mapping).__name__}; it must be a path, or a "
            "mapping of names to tensors, such as module.state_dict()"
        )
    name = accept_path(path_or_mapping, "model.pt")
    with within(name), opened(name) as contents:
        return _loaded(contents, prefix, options)


def _loaded(contents: Contents, prefix: str | None, options: Mapping[str, Any]) -> Loaded:
    """The parts of the modules under the prefix."""
    dicts, skipped = state_dicts(contents)
    tensors, found = _named(dicts)
    chosen = {name: module for name, module in found.items() if is_under(name, prefix)}
    loaded, used = Loaded(), set[str]()
    for name, module in chosen.items():
        with within(name or "the module"):
            if module.kind == "refused":
                raise ValueError(module.note)
            if module.kind == "skipped":
                skipped[name] = module.note
                continue
            part, notes = part_of(module, **options)
        loaded.add(name, part, *notes)
        used |= {joined(name, leaf) for leaf in module.tensors}
    for name, note in _shared(chosen):
        if name in loaded:
            loaded.notes[name].append(f"{note}; here each has a copy: after training they differ")
        elif name in skipped:
            skipped[name] += f"; {note}"
    if found and not chosen:
        names = few([name for name in found if name]) or "there is one alone, without a name"
        raise ValueError(f"prefix is {prefix!r:.80}; it must be the name of a module: {names}")
    if not loaded:
        raise ValueError(_nothing(skipped, tensors, contents.program))
    for name, tensor in tensors.items():
        if name not in used and is_under(name, prefix):
            with within(name):
                try:
                    loaded.unused[name] = host.xp.array(tensor.read())
                except TypeError as error:
                    skipped[name] = str(error)
    loaded.skipped |= {name: why for name, why in skipped.items() if is_under(name, prefix)}
    return loaded


def _named(dicts: list[StateDict]) -> tuple[dict[str, Tensor], dict[str, Module]]:
    """The tensors and the modules of all state dicts, by their names in the file.

    The containers around what holds all recurrent modules are no part of the names.
    """
    found = [(one, modules(one)) for one in dicts]
    recurrent = [
        one.path
        for one, inside in found
        if any(module.kind in ("recurrent", "refused") for module in inside.values())
    ]
    base = _common(recurrent or [one.path for one, inside in found if inside])
    tensors: dict[str, Tensor] = {}
    named: dict[str, Module] = {}
    for one, inside in found:
        path = one.path[len(base) :] if one.path[: len(base)] == base else one.path
        tensors |= {joined(*path, name): tensor for name, tensor in one.tensors.items()}
        named |= {joined(*path, name): module for name, module in inside.items()}
    return tensors, named


def _shared(found: Mapping[str, Module]) -> Iterator[tuple[str, str]]:
    """(name of a module, what of it another one has too) of modules with the same tensors."""
    places: dict[Any, list[tuple[str, str]]] = {}
    for name, module in found.items():
        for leaf, tensor in module.tensors.items():
            if tensor.place is not None and 0 not in tensor.shape:
                places.setdefault((tensor.place, tensor.shape), []).append((name, leaf))
    shared: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for users in places.values():
        for name, leaf in users:
            if others := dict.fromkeys(repr(one) for one, _ in users if one != name):
                shared.setdefault((name, tuple(others)), []).append(leaf)
    for (name, all_others), leaves in shared.items():
        yield name, f"it shares {few(leaves)} with {few(list(all_others))} in PyTorch"


def _common(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """What all paths begin with."""
    common = paths[0] if paths else ()
    while any(path[: len(common)] != common for path in paths):
        common = common[:-1]
    return common


def _nothing(skipped: Mapping[str, str], tensors: Mapping[str, Any], program: bool) -> str:
    """Why there is no part."""
    if skipped:
        return few([f"{name}: {why}" if name else why for name, why in skipped.items()], "; ")
    if program and not tensors:
        return (
            "it is a TorchScript program without parameters: if it is frozen, its weights are "
            "constants of its code; save it before torch.jit.freeze, or save module.state_dict()"
        )
    names = few(list(tensors)) or "none"
    return (
        "it holds no LSTM, GRU, RNN, Linear or Embedding of PyTorch: no names end in weight_hh_l0 "
        f"or the like; the names of tensors are {names}.  For arrays under names of their own see "
        "xrnn.convert.from_arrays"
    )
