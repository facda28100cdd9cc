"""Kernels of clusters on a device, at sizes that fill more than one tile of a product."""

from __future__ import annotations

from typing import Any

import pytest
from emulation import CLUSTER_KINDS
from sequences import AnyCell

from xrnn.backends import get
from xrnn.backends.cuda.cluster import CAPABILITY, OPT_IN
from xrnn.backends.cuda.tables import CLUSTERED
from xrnn.backends.host import named_dtype
from xrnn.engine.select import candidates
from xrnn.engine.trial import tolerance
from xrnn.engine.verify import difference

pytestmark = pytest.mark.gpu

#: (T, B, I, H): several blocks, each with padding; the certificate's 4 units fill half a tile
SIZES = (3, 3, 4, 72)


@pytest.mark.parametrize("kind", CLUSTER_KINDS)
@pytest.mark.parametrize("cell", CLUSTERED, ids=lambda cell: cell.name)
def test_they_equal_the_cell(cell: AnyCell, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        backend = get("cuda")
    except ImportError as problem:
        pytest.skip(str(problem))
    from xrnn.backends.cuda.device import RUNTIME

    if RUNTIME.capability() < CAPABILITY:
        pytest.skip("this device has no clusters")
    monkeypatch.setenv(OPT_IN, "1")
    dtype, precision = named_dtype(CLUSTER_KINDS[kind][0]), "tf32" if kind == "tf32" else "ieee"
    found: Any = candidates(backend, cell, SIZES, dtype, precision)
    kernel = found[0]
    assert kernel.precision == precision
    assert "clusters" in kernel.path(*SIZES)
    allowed = tolerance(cell, dtype, precision, SIZES)
    assert difference(backend, cell, dtype, kernel, SIZES) <= allowed
