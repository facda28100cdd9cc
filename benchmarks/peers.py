"""The sides of a comparison: xrnn and its peers, with the same weights and inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from cases import MODES, Case

import xrnn
from xrnn.backends import get
from xrnn.backends.cpu import extension
from xrnn.backends.host import named_dtype

LAYERS = {"rnn": xrnn.RNN, "lstm": xrnn.LSTM, "gru": xrnn.GRU}

#: precision → dtype of weights and inputs, and how far two sides may lie apart, relative
#: to the largest value of a result
DTYPES = {"fp32-ieee": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
TOLERANCES = {"fp32-ieee": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "bf16": 5e-2}

#: xrnn's order of the gates → ONNX's: i f g o → i o f g, and r z n → z r n
ONNX_GATES = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}

Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class Side:
    """One contestant: `call` is what is timed, `read` makes host arrays of what it returns.

    The names of the results are the same on every side: ys, h, c; in training also dxs,
    dh, dc, and PyTorch's names of the weights for their gradients.
    """

    name: str
    call: Callable[[], Any]
    read: Callable[[Any], Results]


class Problem:
    """A case with its numbers drawn: the layer, the inputs and the output gradients.

    Everything is drawn on the host from one seed.  ``init="uniform"`` leaves no bias zero,
    so a bias in the wrong place shows when the sides are compared.
    """

    def __init__(self, case: Case, device: str) -> None:
        self.case, self.device = case, device
        rng = np.random.default_rng(0)
        dtype = DTYPES[case.precision]
        self.layer = LAYERS[case.cell](
            case.I, case.H, dtype=dtype, device=device, rng=rng, init="uniform"
        )
        if case.precision == "tf32":
            self.layer.precision = "tf32"

        def array(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, dtype="float32").astype(named_dtype(dtype))

        self.xs, self.dys = array(case.T, case.B, case.I), array(case.T, case.B, case.H)
        self.state = tuple(array(1, case.B, case.H) for _ in self.layer.cell.states)

    @property
    def training(self) -> bool:
        return self.case.mode == "training"

    def named(self, ys: Any, state: Any) -> dict[str, Any]:
        return {"ys": ys, **dict(zip(self.layer.cell.states, state, strict=True))}


def ours(problem: Problem) -> Side:
    """xrnn itself."""
    layer, to_host = problem.layer, get(problem.device).to_host
    from_host = get(problem.device).from_host
    xs, dys = from_host(problem.xs), from_host(problem.dys)
    state = tuple(from_host(s) for s in problem.state)

    def train() -> Any:
        ys, last, tape = layer.forward(xs, state)
        return ys, last, layer.backward(tape, dys)

    def read(returned: Any) -> Results:
        ys, last, *backward = returned
        results = problem.named(ys, last)
        for dxs, dstate, dweights in backward:
            results |= {"dxs": dxs, **{f"d{k}": d for k, d in dstate._asdict().items()}}
            results |= xrnn.convert.to_torch(layer, dweights)
        return {name: to_host(a) for name, a in results.items()}

    return Side("xrnn", train if problem.training else lambda: layer(xs), read)


def code(problem: Problem) -> str:
    """What xrnn may use: on the CPU its "native" loops or "numpy" alone, else "table" or "cell"."""
    if problem.device == "cpu":
        return "numpy" if extension.ABSENT else "native"
    return "cell" if path(problem) == "the cell as written" else "table"


def path(problem: Problem) -> str:
    """What runs in xrnn, in words."""
    return str(problem.layer.path(problem.xs.shape)["_l0"])


def with_torch(problem: Problem, threads: int) -> Side:
    """PyTorch: oneDNN and its own loops on the CPU, cuDNN on a GPU."""
    import torch

    torch.set_num_threads(threads)
    case = problem.case
    cudnn_rnn: Any = torch.backends.cudnn.rnn
    cudnn_rnn.fp32_precision = "tf32" if case.precision == "tf32" else "ieee"

    dtype = getattr(torch, DTYPES[case.precision])

    def tensor(a: np.ndarray) -> Any:
        # By way of float32: neither library knows the other's bfloat16.
        return torch.from_numpy(a.astype("float32")).to(problem.device, dtype)

    module = getattr(torch.nn, case.cell.upper())(case.I, case.H)
    weights = xrnn.convert.to_torch(problem.layer)
    module = module.to(problem.device, dtype)
    module.load_state_dict({name: tensor(w) for name, w in weights.items()})
    module.flatten_parameters()
    parameters = dict(module.named_parameters())
    xs, dys = tensor(problem.xs).requires_grad_(problem.training), tensor(problem.dys)
    state = [tensor(s).requires_grad_(problem.training) for s in problem.state]
    wanted = [xs, *state, *parameters.values()]

    def infer() -> Any:
        with torch.inference_mode():
            return module(xs)

    def train() -> Any:
        ys, last = module(xs, tuple(state) if len(state) > 1 else state[0])
        return ys, last, torch.autograd.grad(ys, wanted, dys)

    def read(returned: Any) -> Results:
        ys, last, *backward = returned
        results = problem.named(ys, last if isinstance(last, tuple) else (last,))
        for gradients in backward:
            names = ["dxs", *(f"d{s}" for s in problem.layer.cell.states), *parameters]
            results |= dict(zip(names, gradients, strict=True))
        return {name: a.detach().float().cpu().numpy() for name, a in results.items()}

    return Side("torch", train if problem.training else infer, read)


def with_onnxruntime(problem: Problem, threads: int) -> Side:
    """ONNX Runtime on the CPU; the weights are constants of the model, so it may pack them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx_model(problem), options, providers=["CPUExecutionProvider"]
    )
    inputs = {"X": problem.xs}

    def read(returned: Any) -> Results:
        ys, *last = returned
        return problem.named(ys[:, 0], last)

    return Side("onnxruntime", lambda: session.run(None, inputs), read)


def onnx_model(problem: Problem, stateful: bool = False) -> bytes:
    """A model of one node: the layer, its weights inside; `stateful`, the first state is given."""
    from onnx import TensorProto, helper, numpy_helper

    case = problem.case
    weights = xrnn.convert.to_torch(problem.layer)

    def gates(name: str) -> np.ndarray:
        return np.concatenate([np.split(weights[name], len(order))[k] for k in order])

    order = ONNX_GATES[case.cell]
    bias = np.concatenate([gates("bias_ih_l0"), gates("bias_hh_l0")])
    constants = {"W": gates("weight_ih_l0"), "R": gates("weight_hh_l0"), "B": bias}
    outputs = ["Y", *(f"Y_{state}" for state in problem.layer.cell.states)]
    states = [f"initial_{state}" for state in problem.layer.cell.states] if stateful else []
    options: dict[str, Any] = {"linear_before_reset": 1} if case.cell == "gru" else {}
    # An empty name is an input left out: the lengths of the sequences.
    inputs = ["X", *constants, *(("", *states) if states else ())]
    node = helper.make_node(case.cell.upper(), inputs, outputs, hidden_size=case.H, **options)
    shape = (1, case.B, case.H)
    graph = helper.make_graph(
        [node],
        case.cell,
        [
            helper.make_tensor_value_info("X", TensorProto.FLOAT, problem.xs.shape),
            *(helper.make_tensor_value_info(s, TensorProto.FLOAT, shape) for s in states),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(a[None], name) for name, a in constants.items()],
    )
    opset = helper.make_opsetid("", 14)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Peer:
    """A library to compare with: what it needs installed, and where it can compete."""

    name: str
    modules: tuple[str, ...]
    backends: tuple[str, ...]
    modes: tuple[str, ...]
    side: Callable[[Problem, int], Side]

    @property
    def missing(self) -> list[str]:
        return [module for module in self.modules if find_spec(module) is None]


PEERS = (
    Peer("torch", ("torch",), ("cpu", "cuda"), MODES, with_torch),
    Peer("onnxruntime", ("onnx", "onnxruntime"), ("cpu",), ("inference",), with_onnxruntime),
)


def usable(name: str) -> bool:
    """Whether the peer of that name is installed."""
    return any(peer.name == name and not peer.missing for peer in PEERS)


def difference(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """The largest difference of two sides relative to the largest value, and its name."""
    if set(a) != set(b):
        return float("inf"), ", ".join(sorted(set(a) ^ set(b)))
    return max((_relative(a[name], b[name]), name) for name in a)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    gap = float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), np.finfo(np.float32).tiny))
    return gap if gap == gap else float("inf")
