"""The modules of `xrnn.adapters.torch` beside other parts of PyTorch: compilers, threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the adapter is for PyTorch")

from xrnn.adapters.torch import GRU, LSTM, accelerate, restore, survey  # noqa: E402
from xrnn.backends.cpu import extension  # noqa: E402
from xrnn.backends.cpu.threads import at_most, threads  # noqa: E402

#: without types, as PyTorch gives them to some of its functions only
nn: Any = torch.nn
MODULES: dict[str, Any] = {"gru": GRU, "lstm": LSTM}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """One thread, because PyTorch's slow each other down when the tests run beside others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield
    torch.set_num_threads(before)


def test_a_replica_of_data_parallel() -> None:
    """Its weights are tensors that were computed from those of the module, no parameters."""
    module, xs = MODULES["lstm"](3, 5), torch.randn(4, 2, 3)
    replica: Any = module._replicate_for_data_parallel()
    replica._parameters = {}
    for name, p in module.named_parameters():
        setattr(replica, name, p * 1.0)
    output, _ = replica(xs)
    torch.testing.assert_close(output, module(xs)[0])
    output.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weights_that_are_computed_from_others(how: Any) -> None:
    results = []
    for make in (nn.GRU, MODULES["gru"]):
        torch.manual_seed(1)
        module = how(make(3, 5), "weight_hh_l0")
        output, _ = module(torch.randn(4, 2, 3))
        output.square().sum().backward()
        results.append({"output": output, **{n: p.grad for n, p in module.named_parameters()}})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_of_activations(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    module = MODULES["gru"](3, 5, 2, dropout=0.5)
    xs = torch.randn(4, 2, 3, requires_grad=True)
    found = []
    for run in (module, lambda xs: checkpoint(module, xs, use_reentrant=reentrant)):
        torch.manual_seed(2)
        found.append(torch.autograd.grad(run(xs)[0].square().sum(), xs)[0] if run is module else 0)
        if run is not module:
            xs.grad = None
            run(xs)[0].square().sum().backward()
            found[-1] = xs.grad
    assert torch.equal(*found)


@pytest.mark.filterwarnings("ignore")
def test_tracing_and_export_record_the_operations_of_pytorch() -> None:
    model, xs = nn.Sequential(nn.GRU(3, 5)), torch.randn(4, 2, 3)
    expected, _ = model(xs)
    accelerate(model)
    traced = torch.jit.trace(model, xs)
    torch.testing.assert_close(traced(2 * xs)[0], restore(model)(2 * xs)[0])
    accelerate(model)
    exported = torch.export.export(model, (xs,)).module()
    torch.testing.assert_close(exported(xs)[0], expected)
    assert survey(model) == {"0": "xrnn"}


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_has_the_graphs_that_it_has_with_pytorch() -> None:
    """The graph breaks at the recurrent module, and nothing of xrnn is compiled."""
    plain, xs = nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 5)), torch.randn(4, 2, 3)
    model = accelerate(deepcopy(plain))
    graphs: dict[Any, list[Any]] = {plain: [], model: []}
    for one in (plain, model):

        def backend(graph: Any, example: Any, found: list[Any] = graphs[one]) -> Any:
            found.append(graph)
            return graph.forward

        torch._dynamo.reset()
        compiled = torch.compile(one, backend=backend)
        for _ in range(2):
            output, _ = compiled(xs)
            torch.testing.assert_close(output, plain(xs)[0])
            output.sum().backward()
    assert model[0].weight.grad is not None
    assert len(graphs[model]) == len(graphs[plain])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripts_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^GRU: torch.jit.script cannot compile .*restore\(model\)"
    ):
        torch.jit.script(nn.Sequential(accelerate(nn.GRU(3, 5))))


@pytest.mark.filterwarnings("ignore")
def test_transforms_of_functions_are_refused_by_pytorch() -> None:
    forward_ad: Any = torch.autograd.forward_ad
    module, xs = MODULES["gru"](3, 5), torch.randn(4, 2, 3)
    gradient = torch.func.grad(lambda xs: module(xs)[0].sum())
    for transformed, given in ((gradient, xs), (torch.vmap(module), xs[None])):
        with pytest.raises(RuntimeError, match="functorch transforms"):
            transformed(given)
    with torch.no_grad(), forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        module(forward_ad.make_dual(xs, xs))


# Threads and processes ---------------------------------------------------------------------


def test_a_limit_of_threads() -> None:
    usual = threads()
    with at_most(1):
        assert threads() == 1
        with at_most(5):
            assert threads() == 1
    with at_most(10**6):
        assert threads() == usual
    assert threads() == usual


@pytest.mark.skipif(bool(extension.ABSENT), reason=extension.ABSENT)
def test_the_loops_use_the_threads_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRNN_NUM_THREADS", "8")
    asked: list[int] = []

    def counted() -> int:
        asked.append(threads())
        return asked[-1]

    monkeypatch.setattr(extension, "threads", counted)
    module, xs = MODULES["gru"](64, 64), torch.randn(40, 8, 64)
    for n in (1, 2):
        torch.set_num_threads(n)
        module(xs)[0].sum().backward()
    assert asked == [1, 1, 2, 2]


def test_threads_that_share_a_module() -> None:
    module = MODULES["lstm"](3, 5, 2, bidirectional=True)
    given = [torch.randn(6, 2, 3) for _ in range(4)]
    expected = [torch.autograd.grad(module(xs)[0].sum(), module.weight_hh_l0)[0] for xs in given]
    found: dict[int, Any] = {}

    def work(n: int) -> None:
        for _ in range(20):
            loss = module(given[n])[0].sum()
            (found[n],) = torch.autograd.grad(loss, module.weight_hh_l0)

    every = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for one in every:
        one.start()
    for one in every:
        one.join()
    assert all(torch.equal(found[n], gradient) for n, gradient in enumerate(expected))


#: in a process of its own, as forking one that has threads is not safe
LOADER = """
import torch
from xrnn.adapters.torch import accelerate

module = accelerate(torch.nn.GRU(64, 64))

class Encoded(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, n):
        with torch.no_grad():
            return module(torch.full((40, 8, 64), float(n)))[0]

expected = torch.stack([Encoded()[n] for n in range(4)])
loader = torch.utils.data.DataLoader(
    Encoded(), batch_size=2, num_workers=2, multiprocessing_context="fork"
)
torch.testing.assert_close(torch.cat(list(loader)), expected)
print("equal")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_workers_of_a_data_loader() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADER], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr


def test_importing_the_adapters_imports_no_other_library() -> None:
    code = "import sys, xrnn.adapters; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
