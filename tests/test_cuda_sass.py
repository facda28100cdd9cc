"""The loop over time of the cluster kernels, as machine code: short, and it waits for no load.

No GPU is needed: NVRTC compiles, nvdisasm tells what came out.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from shim import nvrtc, sass

from xrnn.backends.cuda.geometry import CELLS, KINDS, Geometry

MISSING = nvrtc.missing() or (sass.NO_NVDISASM if sass.nvdisasm() is None else None)
COMPILES = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

#: (cell, kind) → instructions of the loop, forward and backward, with a twentieth to spare, where
#: H = 256: sixteen blocks of four warps, eight sequences, most weights in registers
BUDGETS = {
    ("lstm", "float16"): (276, 280),
    ("lstm", "bfloat16"): (276, 280),
    ("lstm", "tf32"): (297, 300),
    ("lstm", "float32"): (441, 436),
    ("gru", "float16"): (224, 254),
    ("gru", "bfloat16"): (224, 254),
    ("gru", "tf32"): (250, 265),
    ("gru", "float32"): (370, 350),
    ("rnn", "float16"): (153, 182),
    ("rnn", "bfloat16"): (153, 182),
    ("rnn", "tf32"): (170, 190),
    ("rnn", "float32"): (255, 208),
}


def geometry(cell: str, kind: str) -> Geometry:
    split = kind == "float32"
    g = Geometry(cell, kind, 256, 16, 16, 8, 4, 1, kept=0, kept_back=0, split=split)
    most = 4 if split else 8
    kept, kept_back = min(g.deep, most), min(g.deep_back, most)
    return Geometry(cell, kind, 256, 16, 16, 8, 4, 1, kept, kept_back, split)


@cache
def loops(source: str, folder: Path) -> dict[str, list[str]]:
    """Instance → its loop over time, of all kernels with a budget in a source."""
    from xrnn.backends.cuda import runtime

    found = [geometry(*key) for key in BUDGETS]
    names = [n for g in found if g.source == source for n in (g.forward, g.backward)]
    cubin, mangled = nvrtc.compiled(runtime.text(source), names, 90)
    codes = sass.disassembled(cubin, folder)
    return {name: sass.time_loop(codes[mangled[name]]) for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sass")


@COMPILES
@pytest.mark.parametrize(("cell", "kind"), BUDGETS)
def test_a_step_takes_no_more_instructions_than_it_did(cell: str, kind: str, folder: Path) -> None:
    g = geometry(cell, kind)
    found = [len(loops(g.source, folder)[name]) for name in (g.forward, g.backward)]
    allowed = BUDGETS[cell, kind]
    assert all(n <= most for n, most in zip(found, allowed, strict=True)), found
    # A budget that is never near says nothing.
    assert all(n > 0.85 * most for n, most in zip(found, allowed, strict=True)), found


@COMPILES
@pytest.mark.parametrize(("cell", "kind"), BUDGETS)
def test_the_predicted_instructions_are_near(cell: str, kind: str, folder: Path) -> None:
    """By them a geometry is chosen."""
    g = geometry(cell, kind)
    for forward, name in ((True, g.forward), (False, g.backward)):
        assert g.instructions(forward) == pytest.approx(len(loops(g.source, folder)[name]), rel=0.2)


@COMPILES
@pytest.mark.parametrize(("cell", "kind"), BUDGETS)
def test_no_load_is_used_before_the_wait(cell: str, kind: str, folder: Path) -> None:
    """What a step reads from global memory arrives while the blocks wait for one another."""
    g = geometry(cell, kind)
    for name in (g.forward, g.backward):
        loop = loops(g.source, folder)[name]
        assert any(i.startswith("LDG") for i in loop)
        assert any(i.startswith(sass.WAIT) for i in loop)
        assert sass.used_too_early(loop) == []


@COMPILES
@pytest.mark.parametrize(("cell", "kind"), BUDGETS)
def test_nothing_slow_is_in_the_loop(cell: str, kind: str, folder: Path) -> None:
    """No fence, no barrier of the cluster, no call, no spilled register, no load in pieces."""
    g = geometry(cell, kind)
    slow = ("MEMBAR", "ERRBAR", "UCGABAR", "CALL", "LDL", "STL", "FCHK")
    for name in (g.forward, g.backward):
        assert [i for i in loops(g.source, folder)[name] if i.startswith(slow)] == []


def test_every_cluster_kernel_has_a_budget() -> None:
    stems = {kernels.stem for kernels in CELLS.values()}
    assert {cell for cell, _ in BUDGETS} == stems
    assert {kind for _, kind in BUDGETS} == set(KINDS)


LISTING = """
.L_x_1:
        /*0010*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P2, [R83+URZ], R14 ;
        /*0020*/                   HADD2.F32 R9, -RZ, R4.H0_H0 ;
        /*0030*/                   HMMA.16816.F32 R92, R56, R88.reuse, RZ ;
        /*0040*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0050*/              @!P1 LDG.E.U16 R4, desc[UR6][R12.64] ;
        /*0060*/                   LDG.E.64 R6, desc[UR6][R12.64+0x10] ;
        /*0070*/                   %s ;
        /*0080*/               @P0 BRA `(.L_x_1) ;
        /*0090*/                   EXIT ;
"""


@pytest.mark.parametrize(
    ("instruction", "early"),
    [
        ("FADD.FTZ R9, R8, R5", 0),
        ("FADD.FTZ R9, R8, R4", 1),
        ("FADD.FTZ R4, R8, R5", 0),  # the result is replaced, not used
        ("FADD.FTZ R9, R7, R5", 1),  # the second half of a wide load
        ("STG.E.U16 desc[UR6][R12.64], R4", 1),
    ],
)
def test_a_load_that_is_waited_for_is_seen(instruction: str, early: int) -> None:
    code = sass.parsed(LISTING % instruction)
    loop = sass.time_loop(code)
    assert len(loop) == 8
    assert len(sass.used_too_early(loop)) == early
