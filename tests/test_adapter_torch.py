"""The modules of `xrnn.adapters.torch` against those of PyTorch: values and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the adapter is for PyTorch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence  # noqa: E402

from xrnn.adapters.torch import GRU, LSTM, RNN, form, function, tensors  # noqa: E402

T, B, I, H = 7, 4, 3, 5

#: name → our class, PyTorch's, and options that only this one has
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "lstm": (LSTM, torch.nn.LSTM, {}),
    "lstm with projection": (LSTM, torch.nn.LSTM, {"proj_size": 2}),
    "gru": (GRU, torch.nn.GRU, {}),
    "rnn": (RNN, torch.nn.RNN, {}),
    "rnn with relu": (RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "both directions": {"bidirectional": True},
    "deep": {"num_layers": 3, "bidirectional": True, "batch_first": True, "bias": False},
    "dropout": {"num_layers": 3, "dropout": 0.4},
}
FORMS = ("whole", "alone", "sorted", "unsorted")

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """One thread, because PyTorch's slow each other down when the tests run beside others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        yield
    torch.set_num_threads(before)


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """Our module and PyTorch's, with the same weights, in float64."""
    ours, theirs, own = KINDS[kind]
    options = {"dtype": torch.float64, **own, **options}
    mine, other = ours(I, H, **options), theirs(I, H, **options)
    mine.load_state_dict(other.state_dict())
    return mine, other


def inputs(module: Any, how: str) -> Any:
    """Sequences in one of the forms that modules take, which need gradients."""
    dtype = module.weight_hh_l0.dtype
    if how == "alone":
        return torch.randn(T, I, dtype=dtype, requires_grad=True)
    shape = (B, T, I) if module.batch_first else (T, B, I)
    xs = torch.randn(shape, dtype=dtype, requires_grad=True)
    if how == "whole":
        return xs
    lengths = [7, 4, 4, 1] if how == "sorted" else [4, 7, 1, 4]
    return pack_padded_sequence(xs, lengths, module.batch_first, enforce_sorted=how == "sorted")


def state(module: Any, how: str) -> Any:
    """A state of that form which needs gradients."""
    rows = module.num_layers * (1 + module.bidirectional)
    widths = [module.proj_size or H, H] if module.mode == "LSTM" else [H]
    shapes = [(rows, n) if how == "alone" else (rows, B, n) for n in widths]
    dtype = module.weight_hh_l0.dtype
    parts = tuple(torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return parts if module.mode == "LSTM" else parts[0]


def as_tuple(hx: Any) -> tuple[Any, ...]:
    return hx if isinstance(hx, tuple) else (hx,)


def results(module: Any, xs: Any, hx: Any) -> dict[str, Any]:
    """Output, last state and, where they need any, gradients: of a loss with random factors."""
    torch.manual_seed(5)
    output, last = module(xs, hx)
    found = {"output": output.data if isinstance(output, PackedSequence) else output}
    found |= {f"last {k}": part for k, part in enumerate(as_tuple(last))}
    loss = sum((value * torch.randn_like(value)).sum() for value in found.values())
    wanted: dict[str, Any] = {"xs": xs.data if isinstance(xs, PackedSequence) else xs}
    wanted |= {} if hx is None else {f"hx {k}": part for k, part in enumerate(as_tuple(hx))}
    wanted |= dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, list(wanted.values()))
    return found | dict(zip([f"d {name}" for name in wanted], gradients, strict=True))


def assert_same(mine: dict[str, Any], other: dict[str, Any], bound: float = 1e-12) -> None:
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert value.dtype == other[name].dtype, name
        assert value.shape == other[name].shape, name
        torch.testing.assert_close(value, other[name], rtol=bound, atol=bound, msg=name)


@each_kind
@pytest.mark.parametrize(
    ("options", "how"), list(product(OPTIONS, FORMS)), ids=lambda part: str(part)
)
def test_values_and_gradients(kind: str, options: str, how: str) -> None:
    mine, other = pair(kind, **OPTIONS[options])
    xs, hx = inputs(mine, how), state(mine, how)
    assert_same(results(mine, xs, hx), results(other, xs, hx))
    assert_same(results(mine, xs, None), results(other, xs, None))


@each_kind
def test_a_packed_sequence_keeps_its_order(kind: str) -> None:
    mine, other = pair(kind)
    xs = pack_sequence([torch.randn(n, I).double() for n in (2, 5, 3)], enforce_sorted=False)
    for packed, expected in zip(mine(xs)[0], other(xs)[0], strict=True):
        torch.testing.assert_close(packed, expected)


@each_kind
def test_inference(kind: str) -> None:
    mine, other = pair(kind, num_layers=2, dropout=0.5)
    xs = inputs(mine, "whole")
    for module in (mine, other):
        module.eval()
    expected = other(xs)[0]
    with torch.no_grad():
        torch.testing.assert_close(mine(xs)[0], expected, check_stride=False)
    with torch.inference_mode():
        output, _ = mine(xs)
        assert output.is_inference()
    torch.testing.assert_close(mine(xs)[0], expected)


@each_kind
def test_finite_differences(kind: str) -> None:
    mine, _ = pair(kind, num_layers=2, bidirectional=True)
    names = [name for name, _ in mine.named_parameters()]
    xs, hx = inputs(mine, "whole"), as_tuple(state(mine, "whole"))

    def f(xs: Any, *rest: Any) -> Any:
        parts, weights = rest[: len(hx)], rest[len(hx) :]
        given = parts if len(hx) == 2 else parts[0]
        called = torch.func.functional_call(
            mine, dict(zip(names, weights, strict=True)), (xs, given)
        )
        return called[0], *as_tuple(called[1])

    arguments = (xs, *hx, *mine.parameters())
    assert torch.autograd.gradcheck(f, arguments, fast_mode=True)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", 1e-5), ("float16", 5e-3), ("bfloat16", 4e-2)]
)
def test_other_dtypes(kind: str, dtype: str, bound: float) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 in NumPy needs it")
    mine, other = pair(kind, num_layers=2)
    mine.to(getattr(torch, dtype))
    xs, hx = inputs(mine, "whole"), state(mine, "whole")
    other.load_state_dict({name: w.double() for name, w in mine.state_dict().items()})
    found = results(mine, xs, hx)
    assert {value.dtype for value in found.values()} == {xs.dtype}
    wide = [part.detach().double().requires_grad_() for part in (xs, *as_tuple(hx))]
    torch.manual_seed(5)
    expected, _ = other(wide[0], tuple(wide[1:]) if kind == "lstm" else wide[1])
    torch.testing.assert_close(found["output"].double(), expected, rtol=bound, atol=bound)


@each_kind
def test_constructor_and_initial_weights(kind: str) -> None:
    ours, theirs, own = KINDS[kind]
    made = []
    for make in (ours, theirs):
        torch.manual_seed(3)
        made.append(make(I, H, 2, bidirectional=True, **own))
    mine, other = made
    assert isinstance(mine, theirs)
    assert repr(mine) == repr(other)
    for (name, weight), (expected, value) in zip(
        mine.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert name == expected
        assert torch.equal(weight, value)
    other.load_state_dict(mine.state_dict())


@pytest.mark.parametrize("which", ["xs", "hx", "weight_hh_l0", "bias_ih_l0", "none"])
def test_only_what_is_needed(which: str) -> None:
    mine, _ = pair("lstm")
    xs, hx = inputs(mine, "whole"), state(mine, "whole")
    every = {"xs": xs, "hx": hx[1], **dict(mine.named_parameters())}
    for value in (xs, *hx, *mine.parameters()):
        value.requires_grad_(value is every.get(which))
    output, last = mine(xs, hx)
    assert output.requires_grad == last[1].requires_grad == (which != "none")
    if which != "none":
        (output.sum() + last[0].sum()).backward()
        assert [name for name, value in every.items() if value.grad is not None] == [which]


def test_the_gradient_of_each_output_alone() -> None:
    mine, other = pair("lstm", num_layers=2, bidirectional=True)
    xs = inputs(mine, "whole")
    for n in range(3):
        outs = [(output, *last)[n] for output, last in (mine(xs), other(xs))]
        torch.testing.assert_close(*[torch.autograd.grad(y.square().sum(), xs) for y in outs])


def test_gradients_add_up_and_the_two_biases_have_their_own() -> None:
    mine, other = pair("gru")
    xs = inputs(mine, "whole")
    for module in (mine, other):
        for _ in range(3):
            module(xs)[0].square().sum().backward()
    for (name, p), q in zip(mine.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    pointers = {p.grad.untyped_storage().data_ptr() for p in mine.parameters()}
    assert len(pointers) == 4


def test_backward_twice() -> None:
    mine, _ = pair("lstm")
    loss = mine(inputs(mine, "whole"))[0].square().sum()
    first = torch.autograd.grad(loss, mine.weight_hh_l0, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(loss, mine.weight_hh_l0))


@pytest.mark.parametrize("changed", ["input", "state", "weight", "output"])
def test_what_was_changed_in_place_is_told(changed: str) -> None:
    mine, _ = pair("gru")
    xs, hx = inputs(mine, "whole").detach(), state(mine, "whole").detach()
    output, _ = mine(xs, hx)
    with torch.no_grad():
        value = {"input": xs, "state": hx, "weight": mine.weight_hh_l0, "output": output}[changed]
        value.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("of_constants", [False, True])
def test_a_second_derivative_is_refused(of_constants: bool) -> None:
    mine, _ = pair("gru")
    xs = inputs(mine, "whole")
    output, _ = mine(xs)
    loss = output.sum() if of_constants else output.square().sum()
    (dxs,) = torch.autograd.grad(loss, xs, create_graph=True)
    assert torch.isfinite(dxs).all()
    with pytest.raises(RuntimeError, match=r"no second derivatives .*restore"):
        dxs.square().sum().backward()


WRONG = {
    "dtype": lambda m: m(torch.zeros(T, B, I)),
    "input_size": lambda m: m(torch.zeros(T, B, I + 1).double()),
    "axes": lambda m: m(torch.zeros(I).double()),
    "no step": lambda m: m(torch.zeros(0, B, I).double()),
    "rows of hx": lambda m: m(torch.zeros(T, B, I).double(), torch.zeros(2, B, H).double()),
    "axes of hx": lambda m: m(torch.zeros(T, I).double(), torch.zeros(1, 1, H).double()),
    "dtype of hx": lambda m: m(torch.zeros(T, B, I).double(), torch.zeros(1, B, H)),
    "tuple": lambda m: m(torch.zeros(T, B, I).double(), (torch.zeros(1, B, H),) * 2),
    "list": lambda m: m([1.0]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_raise_what_pytorch_raises(wrong: str) -> None:
    raised = []
    for module in pair("gru"):
        with pytest.raises(Exception) as caught:
            WRONG[wrong](module)
        raised.append((type(caught.value), str(caught.value)))
    assert raised[0] == raised[1]


@pytest.mark.parametrize(("kind", "fewest"), [("lstm", 1), ("gru", 2), ("rnn", 3)])
def test_a_few_steps_are_left_to_pytorch(kind: str, fewest: int) -> None:
    mine, other = pair(kind, batch_first=True)
    for steps in (1, 2, 3):
        xs = torch.randn(B, steps, I).double()
        output, _ = mine(xs)
        torch.testing.assert_close(output, other(xs)[0], check_stride=False)
        node = output.grad_fn.next_functions[0][0]
        assert ("Recurrence" in type(node).__name__) == (steps >= fewest)


def test_a_batch_without_sequences() -> None:
    mine, _ = pair("gru")
    assert mine(torch.zeros(T, 0, I).double())[0].shape == (T, 0, H)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": torch.complex64}, "its weights are torch.complex64; they must be one of"),
        ({"device": "meta"}, "its weights are on meta; xrnn has kernels for cpu and cuda"),
    ],
)
def test_weights_that_no_kernel_takes(options: dict[str, Any], words: str) -> None:
    module = LSTM(I, H, **options)
    with pytest.raises(TypeError, match=rf"^LSTM: {words}.*restore\(model\)"):
        module(torch.zeros(T, B, I, **options))


def test_autocast_is_served_in_the_dtype_of_the_weights() -> None:
    mine, _ = pair("lstm")
    mine.float()
    xs = torch.randn(T, B, I)
    hx = tuple(torch.randn(1, B, H).bfloat16() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = mine(xs.bfloat16(), hx)
    assert output.dtype == torch.float32
    expected, _ = mine(xs.bfloat16().float(), tuple(part.float() for part in hx))
    assert torch.equal(output, expected)


def test_autocast_of_a_few_steps() -> None:
    """They are left to PyTorch, which would compute them in bfloat16."""
    mine, _ = pair("gru")
    mine.float()
    xs = torch.randn(1, B, I)
    expected = mine(xs)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = mine(xs)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_that_travel_by_dlpack(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, with NumPy in the place of CuPy."""
    import numpy as np

    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 in NumPy needs it")
    mine, _ = pair("gru", num_layers=2, dtype=getattr(torch, dtype))
    xs, hx = inputs(mine, "whole"), state(mine, "whole")
    expected = results(mine, xs, hx)
    ways = tensors._ways(torch.device("cuda"), np)
    monkeypatch.setattr(tensors, "_ways", lambda device, xp: ways)
    tensors.bridge.cache_clear()
    form.form_of.cache_clear()
    try:
        assert_same(results(mine, xs, hx), expected, 0.0)
        assert tensors.bridge("GRU", xs.device, xs.dtype).array is not torch.Tensor.numpy
    finally:
        tensors.bridge.cache_clear()
        form.form_of.cache_clear()


def test_dropout_draws_the_numbers_of_pytorch() -> None:
    made = form.form_of(LSTM(I, H)._form_sizes(), torch.device("cpu"), torch.float32)
    drawn = function.Dropout(made, 0.25, None)
    torch.manual_seed(1)
    mask = drawn.between(0, (T, B, H))
    torch.manual_seed(1)
    expected = torch.nn.functional.dropout(torch.ones(T, B, H), 0.25)
    assert (mask == expected.numpy()).all()
