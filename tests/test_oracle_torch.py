"""Values and gradients equal PyTorch's: its own modules, and every cell written out there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from oracles.flat import Arrays, assert_agree, case_shapes, draw, over, spoiled, under
from oracles.subject import results_of
from rows import ROWS

import xrnn

torch = pytest.importorskip("torch", reason="the oracle is PyTorch")

from oracles import torch_cells  # noqa: E402

T, B, I, H = 6, 4, 3, 4

#: both sides are float64 and sum a few dozen terms
BOUND = 1e-12

#: name → the module, the layer, and the option that both take by the same name
PAIRS: dict[str, tuple[Any, Any, dict[str, str]]] = {
    "rnn": (torch.nn.RNN, xrnn.RNN, {"nonlinearity": "tanh"}),
    "rnn-relu": (torch.nn.RNN, xrnn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, xrnn.LSTM, {}),
    "gru": (torch.nn.GRU, xrnn.GRU, {}),
}

#: torch.nn packs no sequence of length zero; zeros are left to `torch_cells` below
PACKED = {"whole": None, "unsorted": (2, 6, 1, 4), "all-short": (3, 1, 5, 2)}

EMPTY = {"whole": None, "some-empty": (3, 0, 6, 1), "all-empty": (0, 0, 0, 0)}


def pair(cell: str, **options: Any) -> tuple[Any, xrnn.Layer]:
    """A module with weights of its own, and the layer that took them over."""
    Module, Layer, own = PAIRS[cell]
    module = Module(I, H, **options, **own).double()
    shapes = {f"weights.{name}": tuple(p.shape) for name, p in module.named_parameters()}
    drawn = under(draw(cell, shapes, scale=0.5), "weights")
    module.load_state_dict({name: torch.from_numpy(a) for name, a in drawn.items()})
    layer = Layer(I, H, **options, **own, dtype="float64")
    xrnn.convert.from_torch(layer, module.state_dict())
    return module, layer


def case_for(layer: xrnn.Layer, *, state: bool = True, lengths: Any = None) -> Arrays:
    """A case without weights, in the layer's own order of axes, with NaN in the padding."""
    sizes, D = (T, B, I, H), layer.directions
    given = draw("torch.nn", case_shapes({}, layer.cell.states, sizes, layer.num_layers, D))
    if not state:
        given = {k: a for k, a in given.items() if not k.startswith("state.")}
    given = given if lengths is None else spoiled(given | {"lengths": np.array(lengths)})
    if layer.batch_first:
        given |= {k: given[k].transpose(1, 0, 2) for k in ("xs", "dys")}
    return given


def by_module(module: Any, given: Arrays) -> tuple[Arrays, dict[str, Any]]:
    """What the module makes of a case, and name → gradient of its parameters."""
    leaves = torch_cells.leaves_of(given)
    parameters = dict(module.named_parameters())
    xs, state = leaves["xs"], tuple(under(leaves, "state").values())
    if "lengths" in given:
        xs = torch.nn.utils.rnn.pack_padded_sequence(
            xs, torch.tensor(given["lengths"]), module.batch_first, enforce_sorted=False
        )
    ys, last = module(xs, (state if len(state) > 1 else state[0]) if state else None)
    if "lengths" in given:
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, module.batch_first, total_length=T)
    last = last if isinstance(last, tuple) else (last,)
    outputs = {"ys": ys, **over("last", dict(zip("hc", last, strict=False)))}
    found = torch_cells.gradients(outputs, leaves | over("weights", parameters), given)
    values = {name: a.detach().numpy() for name, a in outputs.items()}
    own = {name: a for name, a in found.items() if not name.startswith("dweights.")}
    return values | own, under(found, "dweights")


def subsets(given: Arrays) -> dict[str, Arrays]:
    """The case with each gradient of an output alone, and with all."""
    gradients = [k for k in given if k == "dys" or k.startswith("dstate.")]
    rest = {k: a for k, a in given.items() if k not in gradients}
    return {k: {**rest, k: given[k]} for k in gradients} | {"all": given}


@pytest.mark.parametrize("lengths", PACKED)
@pytest.mark.parametrize("state", [True, False], ids=["state", "stateless"])
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch-first", "time-first"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "biasless"])
@pytest.mark.parametrize("bidirectional", [True, False], ids=["both-ways", "one-way"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("cell", PAIRS)
def test_layer_is_the_module(
    cell: str,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    batch_first: bool,
    state: bool,
    lengths: str,
) -> None:
    module, layer = pair(
        cell,
        num_layers=num_layers,
        bidirectional=bidirectional,
        bias=bias,
        batch_first=batch_first,
    )
    whole = case_for(layer, state=state, lengths=PACKED[lengths])
    for given in subsets(whole).values():
        got = results_of(layer, given)
        want, parameters = by_module(module, given)
        dweights = under(got, "dweights")
        if not state:  # then torch.nn makes the zeros itself and tells no gradient of them
            got = {k: a for k, a in got.items() if not k.startswith("dfirst.")}
        assert_agree({k: a for k, a in got.items() if not k.startswith("dweights.")}, want, BOUND)
        assert_agree(xrnn.convert.to_torch(layer, dweights), parameters, BOUND)
        taken = xrnn.convert.from_torch(layer, parameters, gradients=True)
        assert_agree(taken, dweights, BOUND)


def gradients_of(cell: str) -> list[str]:
    return ["dys", *(f"dstate.{s}" for s in torch_cells.CELLS[cell].states), "all"]


@pytest.mark.parametrize("lengths", EMPTY)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "biasless"])
@pytest.mark.parametrize(
    ("num_layers", "bidirectional"), [(1, False), (2, True)], ids=["plain", "deep"]
)
@pytest.mark.parametrize(
    ("cell", "gradient"), [(cell, g) for cell in torch_cells.CELLS for g in gradients_of(cell)]
)
def test_cell_is_its_equations(
    cell: str, gradient: str, num_layers: int, bidirectional: bool, bias: bool, lengths: str
) -> None:
    options: dict[str, Any] = {"num_layers": num_layers, "bidirectional": bidirectional}
    check_cell(cell, gradient, (T, B), options, bias, state=True, lengths=EMPTY[lengths])


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 3), (5, 1)])
@pytest.mark.parametrize("cell", torch_cells.CELLS)
def test_cell_without_a_state_given(cell: str, steps: int, batch: int) -> None:
    options: dict[str, Any] = {"num_layers": 3, "bidirectional": True}
    check_cell(cell, "all", (steps, batch), options, bias=True, state=False, lengths=None)


def check_cell(
    cell: str,
    gradient: str,
    size: tuple[int, int],
    options: dict[str, Any],
    bias: bool,
    state: bool,
    lengths: tuple[int, ...] | None,
) -> None:
    layer = xrnn.Layer(xrnn.cells.BY_NAME[cell], I, H, bias=bias, dtype="float64", **options)
    weights = torch_cells.shapes(cell, I, H, bias=bias, **options)
    states, L, D = torch_cells.CELLS[cell].states, layer.num_layers, layer.directions
    given = subsets(draw(cell, case_shapes(weights, states, (*size, I, H), L, D)))[gradient]
    if not state:
        given = {k: a for k, a in given.items() if not k.startswith("state.")}
    if lengths is not None:
        given["lengths"] = np.array(lengths)
    want = torch_cells.verdict(cell, given, **options)
    assert_agree(results_of(layer, spoiled(given)), want, BOUND)


def test_every_cell_that_names_its_equations_has_them() -> None:
    named = {row.cell.name for row in ROWS if "equations" in row.oracles}
    assert torch_cells.CELLS.keys() == named


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "biasless"])
@pytest.mark.parametrize("cell", PAIRS)
def test_there_and_back(cell: str, bias: bool) -> None:
    """to_torch fills another module, which then computes the same."""
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "bias": bias}
    module, layer = pair(cell, **options)
    other = PAIRS[cell][0](I, H, **options, **PAIRS[cell][2]).double()
    tree = xrnn.convert.to_torch(layer)
    other.load_state_dict({name: torch.from_numpy(a) for name, a in tree.items()})
    given = case_for(layer)
    want, _ = by_module(module, given)
    assert_agree(by_module(other, given)[0], want, BOUND)
    again = xrnn.convert.from_torch(layer, other.state_dict())
    assert_agree(results_of(layer, given | over("weights", again)), results_of(layer, given), BOUND)


@pytest.mark.parametrize("cell", PAIRS)
def test_nothing_is_shared(cell: str) -> None:
    """The weights of module and layer are copies: training one leaves the other alone."""
    module, layer = pair(cell)
    theirs = {name: p.detach().clone() for name, p in module.named_parameters()}
    mine = {name: w.copy() for name, w in layer.weights.items()}
    for a in xrnn.convert.to_torch(layer).values():
        a += 1
    assert_agree(layer.weights, mine, 0)
    for w in layer.weights.values():
        w += 1
    assert_agree({k: p.detach() for k, p in module.named_parameters()}, theirs, 0)


def test_single_precision_is_kept() -> None:
    module = torch.nn.GRU(I, H)
    layer = xrnn.GRU(I, H)
    taken = xrnn.convert.from_torch(layer, module.state_dict())
    assert {str(w.dtype) for w in taken.values()} == {"float32"}
    given = {"xs": draw("single", {"xs": (T, B, I)})["xs"].astype("float32")}
    ys, _ = layer(given["xs"])
    want = module(torch.from_numpy(given["xs"]))[0].detach().numpy()
    assert_agree({"ys": ys}, {"ys": want}, 1e-5)


def broken(how: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict of a GRU that must be refused."""
    names: dict[str, Any] = dict(tree)
    if how == "unknown":  # what torch.nn.LSTM(proj_size=…) has besides
        names["weight_hr_l0"] = torch.zeros(2, H)
    elif how == "missing":
        del names["bias_hh_l0"]
    elif how == "shape":
        names["weight_ih_l0"] = names["weight_ih_l0"].T
    return names


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("unknown", r"weight_hr_l0"),
        ("missing", r"bias_hh_l0 is missing; it must have shape \(12,\)"),
        ("shape", r"weight_ih_l0 has shape \(3, 12\); it must be \(12, 3\)"),
    ],
)
@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "weights"])
def test_wrong_state_dict_is_refused(how: str, message: str, gradients: bool) -> None:
    module, layer = pair("gru")
    before, held = {k: w.copy() for k, w in layer.weights.items()}, dict(layer.weights)
    other = {name: 2 * p.detach() for name, p in module.named_parameters()}
    with pytest.raises(ValueError, match=message):
        xrnn.convert.from_torch(layer, broken(how, other), gradients=gradients)
    assert all(layer.weights[name] is w for name, w in held.items())
    assert_agree(layer.weights, before, 0)


def test_tree_of_another_layer_is_refused() -> None:
    _, layer = pair("gru")
    with pytest.raises(ValueError, match="W_l1"):
        xrnn.convert.to_torch(layer, layer.weights | {"W_l1": layer.weights["W_l0"]})
    with pytest.raises(ValueError, match="v_l0"):
        xrnn.convert.to_torch(layer, {k: w for k, w in layer.weights.items() if k != "v_l0"})


FOREIGN: dict[str, Any] = {
    "gru-before": (xrnn.GRU(I, H, reset="before"), torch.nn.GRU(I, H)),
    "input-gated": (xrnn.InputGatedLSTM(I, H), torch.nn.LSTM(I, H)),
    "peephole": (xrnn.Layer(xrnn.cells.PeepholeLSTM, I, H), torch.nn.LSTM(I, H)),
    "mingru": (xrnn.Layer(xrnn.cells.MinGRU, I, H), torch.nn.GRU(I, H)),
}


@pytest.mark.parametrize("cell", FOREIGN)
def test_cell_that_torch_lacks_is_refused(cell: str) -> None:
    """Even where every shape would fit: there it would be another function."""
    layer, module = FOREIGN[cell]
    held = dict(layer.weights)
    with pytest.raises(ValueError, match=rf"{cell}: PyTorch has no such cell"):
        xrnn.convert.from_torch(layer, module.state_dict())
    with pytest.raises(ValueError, match=rf"{cell}: PyTorch has no such cell"):
        xrnn.convert.to_torch(layer)
    assert layer.weights.keys() == held.keys()
    assert all(layer.weights[name] is w for name, w in held.items())


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "biasless"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_linear_is_the_module(activation: Any, bias: bool) -> None:
    module = torch.nn.Linear(H, 2, bias=bias).double()
    layer = xrnn.Linear(H, 2, activation=activation, bias=bias, dtype="float64")
    xrnn.convert.from_torch(layer, module.state_dict())
    drawn = draw("linear", {"hs": (T, B, H), "dys": (T, B, 2)})
    hs = torch.tensor(drawn["hs"], requires_grad=True)
    want = torch.relu(module(hs)) if activation else module(hs)
    want.backward(torch.from_numpy(drawn["dys"]))
    ys, tape = layer.forward(drawn["hs"])
    dhs, dweights = layer.backward(tape, drawn["dys"])
    assert_agree({"ys": ys, "dhs": dhs}, {"ys": want.detach(), "dhs": hs.grad}, BOUND)
    parameters = {name: p.grad for name, p in module.named_parameters()}
    assert_agree(xrnn.convert.to_torch(layer, dweights), parameters, BOUND)


def test_embedding_is_the_module() -> None:
    module = torch.nn.Embedding(5, I).double()
    layer = xrnn.Embedding(5, I, dtype="float64")
    xrnn.convert.from_torch(layer, module.state_dict())
    tokens = np.array([[1, 4, 1], [0, 1, 2]])
    dxs = draw("embedding", {"dxs": (2, 3, I)})["dxs"]
    want = module(torch.from_numpy(tokens))
    want.backward(torch.from_numpy(dxs))
    xs, tape = layer.forward(tokens)
    assert_agree({"xs": xs}, {"xs": want.detach()}, 0)
    gradients = xrnn.convert.to_torch(layer, layer.backward(tape, dxs)[1])
    assert_agree(gradients, {"weight": module.weight.grad}, BOUND)


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # of torch, where it is slow
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_weights_of_an_lstm_with_a_projection(num_layers: int, bidirectional: bool) -> None:
    options: dict[str, Any] = {"num_layers": num_layers, "bidirectional": bidirectional}
    module = torch.nn.LSTM(3, 5, proj_size=2, **options)
    layer = xrnn.LSTM(3, 5, proj_size=2, **options)
    xrnn.convert.from_torch(layer, module.state_dict())
    xs = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
    expected, (h, c) = module(torch.from_numpy(xs))
    ys, state = layer(xs)
    for found, there in ((ys, expected), (state.h, h), (state.c, c)):
        np.testing.assert_allclose(found, there.detach().numpy(), rtol=1e-5, atol=1e-6)
    back = xrnn.convert.to_torch(layer)
    assert back.keys() == module.state_dict().keys()
    for name, w in back.items():
        if name.startswith("weight"):
            np.testing.assert_array_equal(w, module.state_dict()[name].numpy())
