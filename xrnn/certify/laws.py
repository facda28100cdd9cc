"""The laws that every cell obeys, in every option, on every backend and dtype.

1. derivative   backward equals the numeric derivative of forward for every argument, with a
                gradient of the outputs only, of each last state only, and of all of them
2. batch        permuting the sequences permutes the results
3. cut          running T steps gives the same results and gradients as running the first T₁
                steps, and then the others from the state reached
4. oracle       results equal those of independent implementations (frozen vectors, whose file
                says where they come from)
5. contract     no argument is written to; results have the dtype and library of the
                arguments; outputs and gradients in the padding are exactly 0
6. twin         results of the backend, with its kernels, equal those of the cell's own code in
                float64 on the host
7. look         the gradients of the gates that `xrnn.analysis` returns add up to those of W and
                b (of W alone, if the step normalises W x before it adds b); like the values of
                the gates, they are exactly 0 in the padding; each of these values depends on
                what W x + b is for its gate
8. checkpoint   a pass that keeps the states before every k steps only gives the same results

Each law returns the largest relative error found, or None where the law does not apply.  With
weights of 8 bits it is about inference, and 6 compares with the cell's own code that rounds the
same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, wraps
from importlib import resources
from typing import Any

from safetensors.numpy import load

from xrnn.analysis.gates import gate_gradients, gates
from xrnn.backends import backend_of, host
from xrnn.cells import Cell
from xrnn.certify.derivative import derivative
from xrnn.certify.distance import difference, equal, worse
from xrnn.certify.trial import Inputs, Results, Trial, each, leaves
from xrnn.layers.layer import Layer
from xrnn.typing import Array, Precision

#: the frozen vectors, a file of this package
VECTORS = "vectors.safetensors"


def batch(trial: Trial) -> float | None:
    """Law 2.  It does not apply to random numbers, which belong to positions in the batch."""
    if trial.random or trial.option.B < 2:
        return None
    axis = trial.option.axes[1]
    inputs, before = trial.inputs, trial.run(trial.inputs)

    def turn(a: Array, axis: int = 1) -> Array:
        return host.xp.flip(a, axis=axis)

    def turn_all(state: Any) -> Any:
        # The axis B is the last but one of an array (L·D, B, H), and of one (B, H).
        return each(lambda a: turn(a, -2), state)

    after = trial.run(
        Inputs(
            turn(inputs.xs, axis),
            turn_all(inputs.state),
            None if inputs.lengths is None else inputs.lengths[::-1],
            turn(inputs.dys, axis),
            turn_all(inputs.dlast),
            {
                name: turn(value, axis) if name in ("mask", "resets") else value
                for name, value in inputs.steps.items()
            },
        )
    )
    expected = Results(
        turn(before.ys, axis),
        turn_all(before.last),
        turn(before.dxs, axis),
        turn_all(before.dfirst),
        before.dweights,
    )
    return difference(expected.arrays(), after.arrays())


def cut(trial: Trial) -> float | None:
    """Law 3.  It does not apply to the reverse direction, which starts at the end."""
    o, whole = trial.option, trial.inputs
    if o.bidirectional or o.reverse or o.masked == "hold" or o.T < 2:
        return None
    xp, time = host.xp, o.axes[0]
    T1 = o.T // 2

    def piece(a: Array, part: slice) -> Array:
        index: list[Any] = [slice(None)] * a.ndim
        index[time] = part
        return a[tuple(index)]

    def steps(part: slice) -> dict[str, Any]:
        given = whole.steps.items()
        return {k: piece(a, part) if k in ("mask", "resets") else a for k, a in given}

    lengths1 = lengths2 = None
    if whole.lengths is not None:
        lengths1 = [min(n, T1) for n in whole.lengths]
        lengths2 = [max(n - T1, 0) for n in whole.lengths]
    first, second = slice(None, T1), slice(T1, None)
    none = (None,) * len(trial.cell.states)
    # First forward, to compute the state reached; then backward from the end.
    start = Inputs(piece(whole.xs, first), whole.state, lengths1, None, none, steps(first))
    reached = trial.run(start).last
    xs, dys = piece(whole.xs, second), piece(whole.dys, second)
    later = steps(second) | {"t": T1}
    b = trial.run(Inputs(xs, reached, lengths2, dys, whole.dlast, later))
    a = trial.run(start._replace(dys=piece(whole.dys, first), dlast=b.dfirst))
    joined = Results(
        xp.concat([a.ys, b.ys], axis=time),
        b.last,
        xp.concat([a.dxs, b.dxs], axis=time),
        a.dfirst,
        {name: g + b.dweights[name] for name, g in a.dweights.items()},
    )
    return difference(trial.run(whole).arrays(), joined.arrays())


def contract(trial: Trial) -> float:
    """Law 5: 0, or infinity if any part of it does not hold."""
    to_host, given = trial.backend.to_host, trial.on_device(trial.inputs)
    arrays = [given.xs, *leaves(given.state), given.dys, *leaves(given.dlast)]
    arrays += trial.layer.weights.values()
    before = [to_host(a).copy() for a in arrays]
    out = trial.run_there(given)
    inference, state = trial.layer(given.xs, given.state, given.lengths, **given.steps)
    kept = [equal(to_host(a), b) for a, b in zip(arrays, before, strict=True)]
    kind = [backend_of(a) is trial.backend and a.dtype == given.xs.dtype for a in out.arrays()]
    pairs = ((out.ys, trial.silent()), (out.dxs, trial.padding()))
    zero = [not to_host(a)[past].any() for a, past in pairs]
    # Inference is the same pass without residuals (and without random numbers).
    same = [
        trial.random or equal(to_host(a), to_host(b))
        for a, b in zip((inference, *leaves(state)), (out.ys, *leaves(out.last)), strict=True)
    ]
    return 0.0 if all([*kept, *kind, *zero, *same]) else float("inf")


def twin(trial: Trial) -> float | None:
    """Law 6.  It does not apply where rounding decides on the sides of kinks."""
    if trial.undecided:
        return None
    if trial.option.weights:
        own = Trial(replace(trial.cell), trial.option, trial.device, trial.dtype)
        return difference(own.run(trial.inputs).arrays(), trial.run(trial.inputs).arrays())
    # A copy made by `replace` is another cell, for which no backend has a kernel.
    in_float64 = Trial(replace(trial.cell), trial.option)
    weights = {k: trial.backend.to_host(w) for k, w in trial.layer.weights.items()}
    layer = in_float64.make_layer({k: w.astype("float64") for k, w in weights.items()})
    inputs = trial.inputs

    def up(arrays: Any) -> Any:
        return each(lambda a: a.astype("float64"), arrays)

    (xs, dys), state, dlast = up((inputs.xs, inputs.dys)), up(inputs.state), up(inputs.dlast)
    reference = in_float64.run(Inputs(xs, state, inputs.lengths, dys, dlast, inputs.steps), layer)
    return difference(reference.arrays(), trial.run(inputs).arrays())


def _saves_gates(cell: Cell[Any]) -> bool:
    """Whether what a step saves begins with arrays (B, H) that may be the values of its gates: each
    changes with the pre-activation of that gate."""
    xp, (B, I, H), G = host.xp, (3, 2, 4), len(cell.gates)
    random = host.generator(0).normal
    weights = {name: random(size=shape) for name, shape in cell.shapes(I, H).items()}
    state = tuple(random(size=(B, n)) for n in cell.widths(H))
    ax = random(size=(B, G * H))

    def saved(ax: Array) -> list[Array]:
        found = cell.step(ax, state, weights, xp=xp)[1][:G]
        return [xp.broadcast_to(xp.asarray(a), (B, H)) for a in found]

    values = saved(ax)
    for k, value in enumerate(values):
        moved = ax.copy()
        moved[:, k * H : (k + 1) * H] += 1
        if equal(saved(moved)[k], value):
            return False
    return len(values) == G


def look(trial: Trial) -> float:
    """Law 7."""
    to_host, layer = trial.backend.to_host, trial.layer
    given = trial.on_device(trial.inputs)
    how: Any = {"seed": trial.seed, **given.steps}
    _, _, tape = layer.forward(given.xs, given.state, given.lengths, **how)
    found = gate_gradients(tape, given.dys, given.dlast)
    dgates, dstates = ({name: to_host(a) for name, a in part.items()} for part in found)
    values = [to_host(a) for a in gates(tape).values()]
    past = trial.padding()
    if any(a[past].any() for a in (*values, *dgates.values(), *dstates.values())):
        return float("inf")
    if not _saves_gates(trial.cell):
        return float("inf")
    plain, worst = trial.run(trial.inputs), 0.0
    xs = trial.inputs.xs.astype("float64")
    xs[past] = 0
    for k, suffix in layer.parts():
        das = host.xp.concat([dgates[f"{g}{suffix}"] for g in trial.cell.gates], axis=-1)
        das = das.astype("float64").reshape(past.size, das.shape[-1])
        sums = {"b": das.sum(axis=0)} if layer.bias and not trial.cell.bias_in_step else {}
        if k == 0:
            sums["W"] = das.T @ xs.reshape(past.size, layer.input_size)
        for name, expected in sums.items():
            worst = worse(worst, difference([expected], [plain.dweights[f"{name}{suffix}"]]))
    return worst


def checkpoint(trial: Trial) -> float:
    """Law 8."""
    inputs, worst = trial.inputs, 0.0
    whole = trial.run(inputs).arrays()
    for k in (1, 3):
        steps = inputs.steps | {"checkpoint": k}
        found = trial.run(inputs._replace(steps=steps)).arrays()
        worst = worse(worst, difference(whole, found))
    return worst


def _in(law: Callable[[Trial], float | None], *, training: bool) -> Callable[[Trial], float | None]:
    """The law; None where the option is not one of the library and dtype, or there is no training
    that the law is about."""

    @wraps(law)
    def found(trial: Trial) -> float | None:
        outside = trial.option.weights is not None if training else not trial.applies
        return None if outside else law(trial)

    return found


LAWS: dict[str, Callable[[Trial], float | None]] = {
    "derivative": _in(derivative, training=True),
    "batch": _in(batch, training=False),
    "cut": _in(cut, training=False),
    "contract": _in(contract, training=False),
    "twin": _in(twin, training=False),
    "look": _in(look, training=True),
    "checkpoint": _in(checkpoint, training=True),
}
"""The laws that take a trial; `oracle` takes a cell and one case of its frozen vectors."""


@cache
def vectors() -> tuple[dict[str, Array], dict[str, str]]:
    """The frozen vectors, and the metadata of their file, which says where they come from."""
    content = resources.files(__package__).joinpath(VECTORS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    return load(content), json.loads(content[8 : 8 + size])["__metadata__"]


def oracle(
    cell: Cell[Any],
    case: str,
    device: str = "cpu",
    dtype: str = "float64",
    precision: Precision = "ieee",
) -> float:
    """Law 4, for one frozen case of a cell."""
    tensors, about = vectors()
    prefix = f"{cell.name}/{case}/"
    value = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    options: dict[str, Any] = {
        **json.loads(about["cases"])[case],
        "dtype": dtype,
        "precision": precision,
    }
    I, H = value["xs"].shape[2], value["last.h"].shape[2]
    layer: Any = Layer(cell, I, H, device=device, **options)
    placement = layer.weights.placement

    def put(name: str) -> Array:
        return placement.from_host(value[name].astype(dtype))

    def states(name: str) -> tuple[Array, ...]:
        return tuple(put(f"{name}.{k}") for k in cell.states)

    layer.weights = {name: put(f"weights.{name}") for name in layer.weights}
    lengths = value["lengths"].tolist() if "lengths" in value else None
    ys, last, tape = layer.forward(put("xs"), states("state"), lengths)
    dxs, dfirst, dweights = layer.backward(tape, put("dys"), states("dstate"))
    found = [ys, *last, dxs, *dfirst, *(dweights[name] for name in layer.weights)]
    expected = [
        value["ys"],
        *(value[f"last.{k}"] for k in cell.states),
        value["dxs"],
        *(value[f"dfirst.{k}"] for k in cell.states),
        *(value[f"dweights.{name}"] for name in layer.weights),
    ]
    return difference(expected, [placement.backend.to_host(a) for a in found])


def cases(cell: Cell[Any]) -> list[str]:
    """The frozen cases of a cell."""
    names = {key.split("/")[1] for key in vectors()[0] if key.split("/")[0] == cell.name}
    return sorted(names)
