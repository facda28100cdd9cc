"""Passes whose products are of bfloat16, see `xrnn.recurrence.bfloat16`.

A kernel (``kernels/rounded.cu``) writes what a product of float32 multiplies to arrays of bfloat16,
and cuBLAS multiplies these with sums in float32.  Nothing else of a pass differs.
"""

from __future__ import annotations

from collections.abc import Sequence

from xrnn.backends.cuda.plan import BLOCK, Call, Launch, Plan, Product


class RoundedPlan(Plan):
    """A plan for float32 all of whose products round what they multiply to bfloat16."""

    def times(
        self,
        shape: tuple[int, int, int],
        A: tuple[int, int],
        B: tuple[int, int],
        C: tuple[int, int],
        *,
        ta: bool = False,
        tb: bool = False,
    ) -> None:
        left, right, product = self._rounded(self.product(shape, A, B, C, ta=ta, tb=tb))
        self.runtime.launch(*left)
        self.runtime.launch(*right)
        self.runtime.gemm(product)

    def repeat(self, calls: Sequence[Call], steps: int) -> None:
        """As `Plan.repeat`.  The right factors of products are weights: they are rounded once,
        before the steps."""
        rounding: list[Call] = []
        for call in calls:
            if isinstance(call, Product):
                left, right, call = self._rounded(call)
                self.runtime.launch(*right)
                rounding.append(left)
            rounding.append(call)
        super().repeat(rounding, steps)

    def _rounded(self, p: Product) -> tuple[Launch, Launch, Product]:
        """The launches that round A and B of a product, and the product of what they write."""
        rows, cols = (p.k, p.m) if p.ta else (p.m, p.k)
        left, A = self._rounding(rows, cols, p.A, p.lda)
        lda = cols
        rows, cols = (p.n, p.k) if p.tb else (p.k, p.n)
        right, B = self._rounding(rows, cols, p.B, p.ldb)
        return left, right, p._replace(A=A, lda=lda, B=B, ldb=cols, kind="bfloat16")

    def _rounding(self, rows: int, cols: int, x: int, ldx: int) -> tuple[Launch, int]:
        """The launch for an array (rows, cols), and the address that it writes to."""
        bits = self.xp.empty((rows, cols), dtype=self.xp.uint16, device=self.device)
        vector = 4 if self.vector == 4 and cols % 4 == ldx % 4 == 0 else 1
        long, out = self.xp.int64, self.at(bits)
        launch = Launch(
            "rounded.cu",
            f"rounded<{vector}>",
            (-(-rows * cols // (vector * BLOCK)),),
            (BLOCK,),
            (long(rows), long(cols), x, long(ldx), out),
        )
        return launch, out
