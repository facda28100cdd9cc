"""The modules of PyTorch, told by the names and shapes of their tensors, and parts made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from xrnn.backends import host
from xrnn.convert.conventions import CONVENTIONS, Stored
from xrnn.convert.loaded import Kind, LoadedPart, assign, make_layer, within
from xrnn.convert.torch_files import UNREADABLE, Tensor
from xrnn.convert.torch_names import FIELDS, RECURRENT, few
from xrnn.convert.torch_tree import StateDict
from xrnn.engine.checks import DTYPES
from xrnn.layers.embedding import Embedding
from xrnn.layers.linear import Linear
from xrnn.typing import Array, GivenDType

#: rows of weight_hh for each hidden unit → the layer here, and the module there
GATES: Mapping[int, tuple[Kind, str]] = {1: ("rnn", "RNN"), 3: ("gru", "GRU"), 4: ("lstm", "LSTM")}

#: names of tensors that recurrent weights are computed from, and how to save these weights instead
_WEIGHT = rf"({'|'.join(FIELDS)})(_l\d+)?(_reverse)?"
COMPUTED: Mapping[str, str] = {
    rf"parametrizations\.{_WEIGHT}\.": (
        "parametrised; torch.nn.utils.parametrize.remove_parametrizations(module, name) before "
        "you save it"
    ),
    rf"{_WEIGHT}_[gv]$": (
        "weight-normalised; torch.nn.utils.remove_weight_norm(module, name) before you save it"
    ),
    rf"{_WEIGHT}_(orig|mask|u)$": (
        "pruned or spectrally normalised; torch.nn.utils.prune.remove(module, name), or "
        "torch.nn.utils.remove_spectral_norm(module, name), before you save it"
    ),
    rf"{_WEIGHT}_raw$": (
        "under weight dropout; give a mapping in which the weight has its own name, without _raw"
    ),
    r"_all_weight_values(\.|$)": "quantised; save it before it is quantised",
}

#: the last part of the name, in lower case and with "_" between words, of an Embedding and of a
#: Linear: without a bias they are stored alike
EMBEDDING = re.compile(
    r"([a-z0-9]+_)*(emb|embed|embeds|embedding|embeddings)(_?\d+|_(tokens?|table|layer))?|wte|wpe"
)
LINEAR = re.compile(r"([a-z0-9]+_)*(linear|fc|dense|proj|projection|head)(_?\d+)?")


#: what weights must be
FLOATING = f"of floating-point numbers that xrnn computes with: {', '.join(DTYPES)}"

ARTICLES = {"embedding": "an Embedding", "linear": "a Linear"}


class Module(NamedTuple):
    """What a state dict holds under one name.

    - kind: "recurrent", "linear" or "embedding"; "refused", of a recurrent module that must not be
      passed over silently; "skipped"
    - tensors: by their names in the module
    - note: how it was told from others, or why it is not loaded
    - options: batch_first and nonlinearity, where the file says them
    """

    kind: str
    tensors: dict[str, Tensor]
    note: str = ""
    options: Mapping[str, Any] = {}


def modules(found: StateDict) -> dict[str, Module]:
    """The modules in a state dict that xrnn has, and those that look so, by name."""
    groups: dict[str, dict[str, Tensor]] = {}
    inner: dict[str, list[str]] = {}
    for name, tensor in found.tensors.items():
        path, _, leaf = name.rpartition(".")
        groups.setdefault(path, {})[leaf] = tensor
        while path:
            path = path.rpartition(".")[0]
            inner.setdefault(path, []).append(name)
    known = _computed([*found.tensors, *found.quantised])
    for path, tensors in groups.items():
        kind, others = found.classes.get(path, ""), inner.get(path, [])
        module = _recurrent(tensors, kind, others) or _of_one_matrix(path, tensors, kind, others)
        if module is not None:
            options = found.options.get(path, {})
            known.setdefault(path, module._replace(options=options))
    return known


def _computed(names: Iterable[str]) -> dict[str, Module]:
    """The modules whose weights are computed from others when they run, or are packed."""
    found: dict[str, Module] = {}
    for name in names:
        for pattern, words in COMPUTED.items():
            if match := re.search(rf"(^|\.)({pattern})", name):
                note = f"{name} shows that the module is {words}"
                found.setdefault(name[: match.start()], Module("refused", {}, note))
        if "_packed_params" in name:
            path = name.partition("_packed_params")[0].rstrip(".")
            note = "it is quantised; save it before it is quantised"
            found.setdefault(path, Module("skipped", {}, note))
    return found


def _recurrent(tensors: dict[str, Tensor], kind: str, inner: list[str]) -> Module | None:
    """The module if it is recurrent; one that is not of torch.nn is refused."""
    own = [leaf for leaf in tensors if RECURRENT.fullmatch(leaf)]
    if not any(leaf.startswith(("weight_ih", "weight_hh")) for leaf in own):
        return None
    if odd := [*(leaf for leaf in tensors if leaf not in own), *inner]:
        return Module(
            "refused",
            tensors,
            f"it holds {few(odd)} too, which no recurrent module of torch.nn does; it may compute "
            "something else.  If you know that it does not, give a mapping without these names",
        )
    plain = re.sub("Cell$", "", kind) in ("LSTM", "GRU", "RNN", "")
    return Module("recurrent", tensors, "" if plain else f"its class is {kind}")


def _of_one_matrix(
    path: str, tensors: dict[str, Tensor], kind: str, inner: list[str]
) -> Module | None:
    """The module if it is a Linear or an Embedding, or looks like one."""
    shapes = {leaf: tensor.shape for leaf, tensor in tensors.items()}
    matrix = shapes.get("weight", ())
    if "weight" not in shapes or inner or not shapes.keys() <= {"weight", "bias"}:
        return None
    if (dtype := tensors["weight"].dtype) in UNREADABLE:
        return Module("skipped", tensors, f"its weight is {dtype}; {UNREADABLE[dtype]}")
    if len(matrix) != 2:
        return None
    if dtype not in DTYPES:
        return Module("skipped", tensors, f"its weight is {dtype}; it must be {FLOATING}")
    if "bias" in shapes:
        return Module("linear", tensors) if shapes["bias"] == matrix[:1] else None
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", path.rpartition(".")[2]).lower()
    for name, pattern in (("embedding", EMBEDDING), ("linear", LINEAR)):
        if name in kind.lower():
            return Module(name, tensors)
        if not kind and pattern.fullmatch(word):
            return Module(name, tensors, f"taken for {ARTICLES[name]} because of its name")
    O, I = matrix
    return Module(
        "skipped",
        tensors,
        f"a matrix {matrix} without a bias is a Linear or an Embedding, which the name does not "
        "tell; give it to one of them: from_torch("
        f"xrnn.Linear({I}, {O}, bias=False), loaded.unused, {path!r}), or from_torch("
        f"xrnn.Embedding({O}, {I}), loaded.unused, {path!r})",
    )


# ---- Parts


def part_of(
    module: Module,
    *,
    batch_first: bool,
    nonlinearity: str,
    dtype: GivenDType | None,
    device: str,
) -> tuple[LoadedPart, list[str]]:
    """The part with the weights of a module, and the notes on it."""
    for leaf, tensor in module.tensors.items():
        if tensor.dtype not in DTYPES:
            help_ = UNREADABLE.get(tensor.dtype, f"it must be {FLOATING}")
            raise TypeError(f"{leaf} is {tensor.dtype}; {help_}")
    arrays = {}
    for leaf, tensor in module.tensors.items():
        with within(leaf):
            arrays[leaf] = tensor.read()
    given = _dtype_of(module.tensors.values()) if dtype is None else dtype
    notes = [module.note] if module.note else []
    if module.kind == "recurrent":
        said = {"batch_first": batch_first, "nonlinearity": nonlinearity}
        layer, told = _layer(arrays, said, module.options, {"dtype": given, "device": device})
        return layer, [told, *notes]
    rows, columns = arrays["weight"].shape
    if module.kind == "embedding":
        embedding = Embedding(rows, columns, dtype=given, device=device)
        assign(embedding, {"E": arrays["weight"]})
        return embedding, ["PyTorch Embedding", *notes]
    linear = Linear(columns, rows, bias="bias" in arrays, dtype=given, device=device)
    assign(linear, {{"weight": "W", "bias": "b"}[leaf]: a for leaf, a in arrays.items()})
    return linear, ["PyTorch Linear", *notes]


def _layer(
    arrays: Mapping[str, Array],
    given: Mapping[str, Any],
    told: Mapping[str, Any],
    place: Mapping[str, Any],
) -> tuple[LoadedPart, str]:
    """The layer with the weights of a recurrent module, and how it was read.

    Its options are those that the file has told, and else those given by the caller.
    """
    suffixes, fields = _places(arrays)
    G, H, P = _sizes(arrays, suffixes[0])
    D = 2 if any(suffix.endswith("_reverse") for suffix in suffixes) else 1
    _check_shapes(arrays, suffixes, fields, H, D)
    kind, name = GATES[G]
    convention = CONVENTIONS["PyTorch", name]
    names = ("batch_first", "nonlinearity")[: 1 + (kind == "rnn")]
    chosen = {name: told.get(name, given[name]) for name in names}
    own = {name: value for name, value in chosen.items() if name == "nonlinearity"}
    if P is not None:
        own["proj_size"] = P
    layer = make_layer(
        kind,
        convention,
        [Stored(**{FIELDS[f]: arrays[f"{f}{suffix}"] for f in fields}) for suffix in suffixes],
        num_layers=len(suffixes) // D,
        bidirectional=D == 2,
        batch_first=chosen["batch_first"],
        options=own,
        **place,
    )
    module = name if suffixes[0] else f"{name}Cell"
    said = f"PyTorch {module}, gates {' '.join(convention.gates)}"
    for is_told, why in ((True, "as the file tells"), (False, "which the weights do not tell")):
        taken = [f"{name}={chosen[name]!r}" for name in names if (name in told) == is_told]
        said += f"; taken with {' and '.join(taken)}, {why}" if taken else ""
    return layer, said


def _sizes(arrays: Mapping[str, Array], suffix: str) -> tuple[int, int, int | None]:
    """The numbers of gates and hidden units, and the size of the projection if there is one."""
    matrix, projection = arrays[f"weight_hh{suffix}"], arrays.get(f"weight_hr{suffix}")
    for name, array in (("weight_hh", matrix), ("weight_hr", projection)):
        if array is not None and (array.ndim != 2 or 0 in array.shape):
            raise ValueError(f"{name}{suffix} has shape {array.shape}; it must have two axes")
    H = matrix.shape[1] if projection is None else projection.shape[1]
    G, rest = divmod(len(matrix), H)
    if rest or G not in (GATES if projection is None else (4,)):
        raise ValueError(
            f"weight_hh{suffix} has shape {matrix.shape}; its rows must be 4 times (LSTM), 3 times "
            f"(GRU) or once (RNN) the {H} hidden units"
        )
    return G, H, None if projection is None else len(projection)


def _places(arrays: Mapping[str, Array]) -> tuple[list[str], list[str]]:
    """The endings of the names, one for each layer and direction; the names before them.

    ValueError unless there is exactly one array for each of both.
    """
    found = [RECURRENT.fullmatch(leaf) for leaf in arrays]
    parts = [match.groups() for match in found if match]
    present = {what for what, _, _ in parts} | {"weight_ih", "weight_hh"}
    if "bias_ih" in present or "bias_hh" in present:
        present |= {"bias_ih", "bias_hh"}
    fields = [what for what in FIELDS if what in present]
    directions = ("", "_reverse") if any(reverse for _, _, reverse in parts) else ("",)
    numbers = [int(number) for _, number, _ in parts if number is not None]
    layers = [f"_l{n}" for n in range(1 + max(numbers))] if numbers else [""]
    suffixes = [f"{layer}{direction}" for layer in layers for direction in directions]
    expected = {f"{what}{suffix}" for what in fields for suffix in suffixes}
    if missing := [name for name in sorted(expected) if name not in arrays]:
        raise ValueError(
            f"{few(missing)} missing; there must be one for each layer and direction, beside "
            f"{few(list(arrays))}"
        )
    if unknown := [name for name in arrays if name not in expected]:
        raise ValueError(f"{few(unknown)} unknown beside {few(sorted(expected))}; give one of both")
    return suffixes, fields


def _check_shapes(
    arrays: Mapping[str, Array], suffixes: list[str], fields: list[str], H: int, D: int
) -> None:
    """ValueError unless all shapes are those of one module."""
    rows, h = arrays[f"weight_hh{suffixes[0]}"].shape
    I = arrays[f"weight_ih{suffixes[0]}"].shape[-1:]
    for n, suffix in enumerate(suffixes):
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, *(I if n < D else (D * h,))),
            "weight_hh": (rows, h),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
            "weight_hr": (h, H),
        }
        for field in fields:
            shape = arrays[f"{field}{suffix}"].shape
            if shape != shapes[field]:
                raise ValueError(f"{field}{suffix} has shape {shape}; it must be {shapes[field]}")


def _dtype_of(tensors: Iterable[Tensor]) -> Any:
    """The dtype that holds all numbers of the tensors."""
    names = {tensor.dtype for tensor in tensors}
    if len(names) == 1:
        return names.pop()
    wide = ["float32" if name == "bfloat16" else name for name in names]
    return str(host.xp.result_type(*wide))
