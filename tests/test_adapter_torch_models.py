"""`xrnn.adapters.torch` in whole models: `accelerate`, training, copies and files."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the adapter is for PyTorch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

from xrnn.adapters import torch as adapter  # noqa: E402
from xrnn.adapters.torch import accelerate, restore, survey  # noqa: E402

#: without types, as PyTorch gives them to some of its functions only
nn: Any = torch.nn
parametrizations: Any = nn.utils.parametrizations


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """One thread, because PyTorch's slow each other down when the tests run beside others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield
    torch.set_num_threads(before)


class Tagger(nn.Module):  # type: ignore[misc]
    """A model as people write it: embedding, recurrent encoder, attention over its outputs."""

    def __init__(self, cell: str = "LSTM", **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6, padding_idx=0)
        options = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, **options}
        self.encoder = getattr(nn, cell)(6, 8, batch_first=True, **options)
        self.attend, self.out = nn.Linear(16, 1), nn.Linear(16, 3)

    def forward(self, tokens: Any, lengths: Any) -> Any:
        packed = pack_padded_sequence(
            self.embed(tokens), lengths, batch_first=True, enforce_sorted=False
        )
        ys, _ = pad_packed_sequence(self.encoder(packed)[0], batch_first=True)
        scores = self.attend(ys).masked_fill(tokens[:, : ys.shape[1], None] == 0, -1e9)
        return self.out((scores.softmax(1) * ys).sum(1))


def batches(n: int = 6) -> Iterator[tuple[Any, Any, Any]]:
    drawn = torch.Generator().manual_seed(0)
    for _ in range(n):
        lengths = torch.randint(1, 10, (5,), generator=drawn)
        tokens = torch.randint(1, 20, (5, 9), generator=drawn)
        tokens[torch.arange(9) >= lengths[:, None]] = 0
        yield tokens, lengths, torch.randint(0, 3, (5,), generator=drawn)


def trained(model: Any, make: Callable[[Any], Any]) -> list[float]:
    """The losses of a script of somebody's own kind: clipping, a schedule, two groups."""
    rest = [p for name, p in model.named_parameters() if not name.startswith("encoder")]
    optimizer = make([{"params": model.encoder.parameters(), "lr": 0.02}, {"params": rest}])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    torch.manual_seed(3)
    losses = []
    for tokens, lengths, labels in batches():
        optimizer.zero_grad()
        loss: Any = nn.functional.cross_entropy(model(tokens, lengths), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop, foreach": lambda p: torch.optim.RMSprop(p, lr=0.01, foreach=True),
}


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_script_has_equal_losses(name: str, cell: str) -> None:
    """Dropout included: it draws the same numbers."""
    model = Tagger(cell).double()
    twin = accelerate(deepcopy(model))
    assert survey(twin) == {"encoder": "xrnn"}
    expected = trained(model, OPTIMIZERS[name])
    assert trained(twin, OPTIMIZERS[name]) == pytest.approx(expected, rel=1e-9)
    assert expected[0] != expected[-1]
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_a_model_is_accelerated_while_an_optimizer_holds_its_parameters() -> None:
    model = Tagger("GRU")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, module = list(model.parameters()), model.encoder
    calls: list[Any] = []
    module.register_forward_hook(lambda *given: calls.append(given))
    assert accelerate(model) is model
    assert model.encoder is module
    assert type(module) is adapter.GRU
    assert all(p is q for p, q in zip(model.parameters(), before, strict=True))
    tokens, lengths, _ = next(batches(1))
    first = model.eval()(tokens, lengths)
    model(tokens, lengths).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(model(tokens, lengths), first)
    assert len(calls) == 3
    assert restore(model) is model
    assert type(module) is nn.GRU
    assert len(calls) == 3


def test_weights_that_are_assigned_or_loaded_are_seen() -> None:
    module, xs = adapter.GRU(3, 5), torch.randn(4, 2, 3)
    before = module(xs)[0]
    other = nn.GRU(3, 5)
    module.load_state_dict(other.state_dict())
    torch.testing.assert_close(module(xs)[0], other(xs)[0])
    module.weight_hh_l0 = nn.Parameter(torch.zeros(15, 5))
    other.weight_hh_l0 = module.weight_hh_l0
    torch.testing.assert_close(module(xs)[0], other(xs)[0])
    module.weight_ih_l0.data = torch.randn(3, 15).T
    other.weight_ih_l0 = module.weight_ih_l0
    torch.testing.assert_close(module(xs)[0], other(xs)[0])
    assert not torch.allclose(module(xs)[0], before)


# What is left to PyTorch -------------------------------------------------------------------


class Own(nn.LSTM):  # type: ignore[misc]
    pass


def _replaced() -> Any:
    module = nn.GRU(3, 5)
    module.forward = lambda xs: xs
    return module


def _quantised() -> Any:
    model = nn.Sequential(nn.LSTM(3, 5))
    return torch.ao.quantization.quantize_dynamic(model, {nn.LSTM})[0]


LEFT: dict[str, tuple[Callable[[], Any], str]] = {
    "cell": (lambda: nn.LSTMCell(3, 5), "it runs one step a call, which is not faster in xrnn"),
    "subclass": (lambda: Own(3, 5), "it is a Own, a subclass that may compute something else"),
    "forward": (_replaced, "its forward has been replaced"),
    "script": (lambda: torch.jit.script(nn.LSTM(3, 5)), "it is compiled by torch.jit"),
    "quantised": (_quantised, "it is quantised"),
    "parametrised": (
        lambda: parametrizations.weight_norm(nn.LSTM(3, 5), "weight_hh_l0"),
        "its weights are parametrised: accelerate first, then register parametrisations",
    ),
    "device": (lambda: nn.LSTM(3, 5, device="meta"), "its weights are on meta"),
    "dtype": (lambda: nn.GRU(3, 5, dtype=torch.complex64), "its weights are torch.complex64"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", LEFT)
def test_what_is_left_and_why(kind: str) -> None:
    make, why = LEFT[kind]
    model = nn.ModuleDict({"served": nn.GRU(3, 5), "left": make(), "none": nn.Linear(3, 3)})
    kept = type(model["left"])
    with pytest.warns(RuntimeWarning, match=rf"^left to PyTorch: left \({why}") as caught:
        accelerate(model)
    assert len(caught) == 1
    assert survey(model)["served"] == "xrnn"
    assert survey(model)["left"].startswith(why)
    assert survey(model).keys() == {"served", "left"}
    assert type(model["left"]) is kept
    restore(model)
    assert type(model["served"]) is nn.GRU
    assert survey(model)["served"] == "PyTorch"


def test_a_model_without_recurrent_modules() -> None:
    with pytest.warns(RuntimeWarning, match="Linear has no LSTM, GRU or RNN module"):
        accelerate(nn.Linear(3, 3))


@pytest.mark.parametrize("call", [accelerate, restore, survey])
def test_what_is_no_module(call: Any) -> None:
    with pytest.raises(TypeError, match=r"model is a dict; it must be a torch\.nn\.Module"):
        call({})


# Copies and files --------------------------------------------------------------------------


def outputs(model: Any) -> Any:
    tokens, lengths, _ = next(batches(1))
    return model.eval()(tokens, lengths)


def test_copies_and_files() -> None:
    model = accelerate(Tagger())
    expected = outputs(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for copied in (
        deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        assert survey(copied) == {"encoder": "xrnn"}
        assert torch.equal(outputs(copied), expected)
        outputs(copied).sum().backward()
        assert model.encoder.weight_hh_l0.grad is None
    plain = Tagger()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(outputs(plain), expected)
