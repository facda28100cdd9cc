"""The state dicts in what a file of PyTorch or a mapping holds, however deep they are nested."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import array_api_compat

from xrnn.backends import backend_of
from xrnn.convert.pickles import Unknown
from xrnn.convert.torch_files import Contents, Tensor, unreadable
from xrnn.convert.torch_names import RECURRENT
from xrnn.typing import Array, dtype_name

#: how many mappings are looked into, and how deep containers may be nested
MAPPINGS, DEEP = 100_000, 60

#: what wrappers put in front of the names of a module, or between them
DATA_PARALLEL, COMPILED = "module", "_orig_mod"


class StateDict(NamedTuple):
    """Tensors by the names of PyTorch.

    - path: the names of the containers that it lies in
    - tensors: name → tensor
    - quantised: the names of packed weights, which are no tensors
    - classes: name of a module → its class, where the file says it
    - options: name of a module → its batch_first and nonlinearity, where the file says them
    """

    path: tuple[str, ...]
    tensors: dict[str, Tensor]
    quantised: list[str]
    classes: dict[str, str]
    options: dict[str, dict[str, Any]]


def state_dicts(contents: Contents) -> tuple[list[StateDict], dict[str, str]]:
    """Every state dict in the containers of a file; and name → why it is passed over.

    A TorchScript program is one: its objects have names and tensors, as modules have.

    Raises
    ------
    ValueError
        If the containers are nested too deeply, or contain themselves.
    """
    passed: dict[str, str] = {}
    if contents.program:
        return [_cleaned(_of_program(contents))], passed
    found = []
    for path, value in _containers(contents.tree):
        name = ".".join(path)
        if _is_module(value):
            passed[name] = (
                "a pickled module, which holds code, not weights; with PyTorch, save "
                "module.state_dict()"
            )
        elif _is_optimizer(value):
            passed[name] = "the state of an optimizer"
        elif isinstance(value, Mapping):
            one = _of_mapping(path, value)
            if one.tensors or one.quantised:
                found.append(_cleaned(one))
    return found, passed


def _of_mapping(path: tuple[str, ...], mapping: Mapping[Any, Any]) -> StateDict:
    """The tensors that a mapping itself holds."""
    items = {str(key): _tensor(str(key), value) for key, value in mapping.items()}
    tensors = {name: tensor for name, tensor in items.items() if tensor is not None}
    packed = [name for name in items if name not in tensors and _is_packed(name)]
    if any(name.count(".") > DEEP for name in (*tensors, *packed)):
        raise ValueError("its names are nested too deeply")
    return StateDict(path, tensors, packed, {}, {})


def _containers(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of mappings and unknown objects, from the outside to the inside."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    mappings, lists = 0, set[int]()
    for path, value in waiting:
        if mappings > MAPPINGS or len(path) > DEEP:
            raise ValueError("its containers are nested too deeply, or contain themselves")
        items: Any = ()
        if isinstance(value, Mapping):
            mappings += 1
            yield path, value
            items = () if _is_optimizer(value) else value.items()
        elif isinstance(value, Unknown):
            yield path, value
        elif isinstance(value, list | tuple) and id(value) not in lists:
            lists.add(id(value))
            items = enumerate(value)
        for key, one in items:
            if isinstance(one, Mapping | Unknown | list | tuple) and not isinstance(one, Tensor):
                waiting.append(((*path, str(key)), one))


def _is_module(value: Any) -> bool:
    """Whether it stands for an object of a class of modules."""
    inside = value.attributes if isinstance(value, Unknown) else None
    return isinstance(inside, dict) and "_parameters" in inside and "_modules" in inside


def _is_optimizer(value: Any) -> bool:
    """Whether it is the state dict of an optimizer."""
    return isinstance(value, Mapping) and "param_groups" in value and "state" in value


def _is_packed(name: str) -> bool:
    """Whether quantised modules keep their weights under such a name."""
    return "_packed_params" in name or "_all_weight_values" in name


def _tensor(name: str, value: Any) -> Tensor | None:
    """The tensor, or array of a library, as a `Tensor`; None if it is neither."""
    if isinstance(value, Tensor):
        return value
    if not array_api_compat.is_array_api_obj(value):
        leaf = name.rpartition(".")[2]
        is_meant = leaf in ("weight", "bias") or RECURRENT.fullmatch(leaf)
        return unreadable("a list") if is_meant and isinstance(value, list) else None

    def read() -> Array:
        try:
            return backend_of(value).to_host(value)
        except (TypeError, ValueError, RuntimeError) as error:
            why = str(error).partition("\n")[0]
            raise TypeError(f"its numbers cannot be read ({why})") from error

    return Tensor(dtype_name(value.dtype), tuple(value.shape), read, _place(value))


def _place(value: Any) -> Hashable:
    """Where the numbers of an array lie; the tensors of a state dict of PyTorch are new objects
    each time, whose memory tells which ones are shared."""
    try:
        return value.data_ptr() or id(value), value.stride()
    except (AttributeError, RuntimeError):  # other libraries; a tensor without memory
        return id(value)


def _of_program(contents: Contents) -> StateDict:
    """The tensors that the objects of a TorchScript program hold."""
    found = StateDict((), {}, [], {}, {})
    waiting = [("", contents.tree)]
    for n, (name, value) in enumerate(waiting):
        if n > MAPPINGS or name.count(".") > DEEP:
            raise ValueError("its objects are nested too deeply, or contain themselves")
        if not isinstance(value, Unknown):
            continue
        # "__torch__.torch.nn.modules.rnn.___torch_mangle_9.LSTMCell"
        found.classes[name] = value.name.rpartition(".")[2]
        inside = value.attributes if isinstance(value.attributes, dict) else {}
        found.options[name] = _options({**contents.constants.get(value.name, {}), **inside})
        for key, one in inside.items():
            inner = f"{name}.{key}" if name else str(key)
            if isinstance(one, Tensor):
                found.tensors[inner] = one
            elif isinstance(one, Unknown):
                waiting.append((inner, one))
                if _is_packed(inner):
                    found.quantised.append(inner)
    return found


def _options(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """What the attributes of a recurrent module say of the options that weights do not tell."""
    found: dict[str, Any] = {}
    if isinstance(batch_first := attributes.get("batch_first"), bool):
        found["batch_first"] = batch_first
    said = (attributes.get("nonlinearity"), attributes.get("mode"))
    for nonlinearity in ("tanh", "relu"):
        if nonlinearity in said or f"RNN_{nonlinearity.upper()}" in said:
            found["nonlinearity"] = nonlinearity
    return found


def _cleaned(found: StateDict) -> StateDict:
    """The same without what DataParallel and torch.compile put into the names.

    Single numbers beside the module, such as the "n_averaged" of AveragedModel, do not count.
    """

    def without(name: str) -> str:
        return ".".join(part for part in name.split(".") if part != COMPILED)

    start = f"{DATA_PARALLEL}."
    arrays = [name for name, tensor in found.tensors.items() if tensor.shape]
    wrapped = all(without(name).startswith(start) for name in arrays)

    def clean(name: str) -> str:
        return without(name).removeprefix(start) if wrapped else without(name)

    tensors = {clean(name): tensor for name, tensor in found.tensors.items()}
    if len(tensors) < len(found.tensors):
        return found  # two names would become one
    return StateDict(
        found.path,
        tensors,
        [clean(name) for name in found.quantised],
        {clean(name): kind for name, kind in found.classes.items()},
        {clean(name): options for name, options in found.options.items()},
    )
