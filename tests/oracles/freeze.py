"""Write the frozen vectors, xrnn/certify/vectors.safetensors: ``python tests/oracles/freeze.py``.

The judges are asked once, here, so that their word can be checked where they are not
installed.  What torch.nn has as a module comes from there in the case `plain`; the rest
comes from `torch_cells`.  Nothing is written unless all judges agree.  xrnn has no part in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # A script finds what lies in its own folder, not the package `oracles` that the folder is.
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from safetensors.numpy import save_file

from oracles import torch_cells, torch_nn
from oracles.flat import Arrays, assert_agree, case_shapes, draw, under

PATH = Path(__file__).parents[2] / "xrnn" / "certify" / "vectors.safetensors"

I, H = 2, 3

#: case → the options of the layer
CASES: dict[str, dict[str, Any]] = {
    "plain": {"num_layers": 1, "bidirectional": False},
    "deep": {"num_layers": 2, "bidirectional": True},
}

#: case → T, B and lengths
SIZES: dict[str, tuple[int, int, list[int] | None]] = {
    "plain": (4, 3, None),
    "deep": (4, 4, [3, 0, 4, 1]),
}

EXACT, SINGLE = 1e-12, 1e-5


def vectors() -> Arrays:
    """All frozen vectors, on which torch_cells and torch.nn agree."""
    frozen = {}
    for cell in torch_cells.CELLS:
        for case in CASES:
            given = drawn(cell, case)
            for name, a in (given | verdict(cell, case, given)).items():
                frozen[f"{cell}/{case}/{name}"] = a
    return frozen


def drawn(cell: str, case: str) -> Arrays:
    """What goes in."""
    T, B, lengths = SIZES[case]
    weights = torch_cells.shapes(cell, I, H, **CASES[case])
    states, D = torch_cells.CELLS[cell].states, 2 if CASES[case]["bidirectional"] else 1
    shapes = case_shapes(weights, states, (T, B, I, H), CASES[case]["num_layers"], D)
    given = draw(f"{cell}/{case}", shapes)
    return given if lengths is None else given | {"lengths": np.array(lengths, np.int64)}


def verdict(cell: str, case: str, given: Arrays) -> Arrays:
    """What must come out."""
    results = torch_cells.verdict(cell, given, **CASES[case])
    if cell not in torch_nn.MODULES:
        return results
    module = torch_nn.verdict(cell, given, **CASES[case])
    assert_agree(results, module, EXACT)
    return module if case == "plain" else results


def assert_onnxruntime_agrees(cell: str, case: str, frozen: Arrays) -> None:
    """Its float32 values agree, layer on layer, where it has the cell."""
    from oracles import onnx_node

    if cell not in onnx_node.OPS:
        return
    given = under_case(frozen, cell, case)
    D = 2 if CASES[case]["bidirectional"] else 1
    xs, lasts = given["xs"], []
    for k in range(CASES[case]["num_layers"]):
        parts = [
            {n.removesuffix(s): w for n, w in under(given, "weights").items() if n.endswith(s)}
            for s in (f"_l{k}", f"_l{k}_reverse")[:D]
        ]
        state = [given[f"state.{s}"][k * D : (k + 1) * D] for s in onnx_node.OPS[cell].states]
        direction = "bidirectional" if D == 2 else "forward"
        found = onnx_node.run(cell, parts, xs, state, given.get("lengths"), direction)
        xs = found["ys"]
        lasts.append(under(found, "last"))
    stacked = {f"last.{s}": np.concatenate([last[s] for last in lasts]) for s in lasts[0]}
    assert_agree({"ys": xs, **stacked}, {k: given[k] for k in ("ys", *stacked)}, SINGLE)


def under_case(frozen: Arrays, cell: str, case: str) -> Arrays:
    """One case and its verdict out of the whole file."""
    prefix = f"{cell}/{case}/"
    return {k.removeprefix(prefix): a for k, a in frozen.items() if k.startswith(prefix)}


def main() -> None:
    import onnxruntime

    frozen = vectors()
    for cell in torch_cells.CELLS:
        for case in CASES:
            assert_onnxruntime_agrees(cell, case, frozen)
    torch_version = torch.__version__.partition("+")[0]
    metadata = {
        "origin": f"torch {torch_version}, onnxruntime {onnxruntime.__version__}",
        "cases": json.dumps(CASES),
    }
    save_file({k: np.ascontiguousarray(a) for k, a in frozen.items()}, PATH, metadata)
    print(f"{PATH.name}: {len(frozen)} arrays, {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
