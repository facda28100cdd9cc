"""The loops of every instruction set obey the laws, not only those of the one in use."""

from __future__ import annotations

import re

import pytest
from test_native_base import ROOT, in_a_process, native

#: the instruction sets that have loops of their own; the others have the loops of one of these, and
#: products of bfloat16 or of bytes, whose bits `test_native_bfloat16.py` and `test_quantised.py`
#: compare
WITH_LOOPS = ("avx512", "avx2", "portable")

CERTIFY = """
import xrnn
from xrnn.backends.cpu.extension import CODES
found = [v for d in ("float64", "float32") for v in xrnn.certify("cpu", d, CODES)]
bad = [v for v in found if not v.passed]
assert len(found) > 100 * len(CODES) and not bad, bad[:3]
print(xrnn.LSTM(3, 4).path((5, 2, 3))["_l0"])
"""


def test_every_set_of_loops_is_named() -> None:
    sets = ROOT / "backends" / "cpu" / "native" / "sets.h"
    if not sets.exists():
        pytest.skip("the sources are not beside us")
    found = re.findall(r'^ *\{"\w+", kernels_(\w+),', sets.read_text("utf-8"), re.MULTILINE)
    assert set(found) == set(WITH_LOOPS)
    assert len(found) > len(WITH_LOOPS)


@pytest.mark.parametrize("isa", [isa for isa in native.isas() if isa in WITH_LOOPS])
def test_every_instruction_set_obeys_the_laws(isa: str) -> None:
    done = in_a_process(CERTIFY, XRNN_ISA=isa)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"native loop, {isa}\n"
