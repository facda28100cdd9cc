// The gradients that are sums over all steps: one product each, after the loop.  Every one has
// its order of summation, which no thread changes.

// C (m, n) = or += Aᵀ B over k rows.
static int N(outer)(const Pass* p, idx m, idx n, idx k, const real* A, idx lda, const real* B,
                    idx ldb, void* C, int accumulate) {
  const Gemm g = {.m = m,
                  .n = n,
                  .k = k,
                  .A = A,
                  .B = B,
                  .C = C,
                  .lda = lda,
                  .ldb = ldb,
                  .ldc = n,
                  .a_transposed = 1,
                  .accumulate = accumulate,
                  .team = p->team};
  return N(gemm)(&g);
}

typedef struct {
  idx rows, n, lda;
  const real* a;
  real* out;
} N(ColumnSums);

static void N(column_share)(void* data, int i, int threads) {
  const N(ColumnSums)* job = data;
  const idx n = share_start(job->n, 4 * L, i + 1, threads);
  for (idx o = share_start(job->n, 4 * L, i, threads); o < n; o += 4 * L) {
    const real* a = job->a + o;
    const idx rest = job->n - o;
    vec sum[4] = {N(zero)(), N(zero)(), N(zero)(), N(zero)()};
    if (rest >= 4 * L) {
      for (idx r = 0; r < job->rows; r++, a += job->lda)
        UNROLL for (int v = 0; v < 4; v++) sum[v] += N(load)(a + v * L);
    } else {
      for (idx r = 0; r < job->rows; r++, a += job->lda)
        for (int v = 0; v * L < rest; v++) sum[v] += N(get)(a + v * L, rest - v * L);
    }
    for (int v = 0; v < 4 && v * L < rest; v++) N(put)(job->out + o + v * L, sum[v], rest - v * L);
  }
}

// out [n] = the sum of the rows of a, from the first to the last.
static void N(column_sums)(idx rows, idx n, const real* a, idx lda, real* out, Team* team) {
  N(ColumnSums) job = {rows, n, lda, a, out};
  parallel(team, worth(team, MOVE_COST * rows * n), N(column_share), &job);
}

// The das of the first step that each sequence runs, [B, width]: where they stand, if that is one
// row of das, else gathered in `room`; 0 for a sequence without steps.
static const real* N(first_das)(const Pass* p, real* room) {
  const idx width = SAVED[p->cell] * p->H;
  if (!p->reverse) return N(das_at)(p, 0, 0);
  if (!p->lengths) return N(das_at)(p, p->T - 1, 0);
  for (idx b = 0; b < p->B; b++) {
    const idx steps = N(steps)(p, b);
    if (steps)
      memcpy(room + b * width, N(das_at)(p, steps - 1, b), width * sizeof(real));
    else
      memset(room + b * width, 0, width * sizeof(real));
  }
  return room;
}

// `rows` rows of dU = Σ das[t]ᵀ h[t-1], from those blocks of das on that begin at `from`.  The h
// before a sequence's first step is the given one; behind its end, where reversed time looks for
// one, ys is 0.
static int N(sum_u)(const Pass* p, idx rows, idx from, real* dU, const real* first) {
  const idx H = p->H, width = SAVED[p->cell] * H, rest = (p->T - 1) * p->B;
  const real *das = (const real*)p->das + from, *ys = p->ys;
  int bad = 0;
  if (rest)
    bad = N(outer)(p, rows, H, rest, p->reverse ? das : das + p->B * width, width,
                   p->reverse ? ys + p->B * H : ys, H, dU, 0);
  return bad | N(outer)(p, rows, H, p->B, first + from, width, p->h0, H, dU, rest != 0);
}

// dW, db and dxs, from xs without what stands in the padding.
static int N(sum_w)(const Pass* p, const real* xs) {
  const idx rows = p->T * p->B, out = GATES[p->cell] * p->H, width = SAVED[p->cell] * p->H;
  const Gemm back = {.m = rows,
                     .n = p->I,
                     .k = out,
                     .A = p->das,
                     .B = p->W,
                     .C = p->dxs,
                     .lda = width,
                     .ldb = p->I,
                     .ldc = p->I,
                     .team = p->team};
  N(column_sums)(rows, out, p->das, width, p->db, p->team);
  return N(outer)(p, out, p->I, rows, p->das, width, xs, p->I, p->dW, 0) | N(gemm)(&back);
}

// all [T, B, n] ← 0 where a sequence has no step.
static void N(clear_padding)(const Pass* p, real* all, idx n, idx b0, idx b1) {
  if (!p->lengths) return;
  for (idx b = b0; b < b1; b++)
    for (idx t = N(steps)(p, b); t < p->T; t++)
      memset(all + N(at)(p, t, b, n), 0, n * sizeof(real));
}

// All sums, once das is known.
static int N(sums)(const Pass* p) {
  const idx H = p->H, I = p->I, G = GATES[p->cell], width = SAVED[p->cell] * H;
  const size_t xs_size = p->lengths ? (size_t)(p->T * p->B * I) : 0;
  real *copy = NULL, *gathered = NULL;
  if (p->lengths) {
    copy = room((xs_size + (size_t)(p->B * width)) * sizeof(real));
    if (!copy) return -1;
    gathered = copy + xs_size;
    memcpy(copy, p->xs, xs_size * sizeof(real));
    N(clear_padding)(p, copy, I, 0, p->B);
  }
  int bad = N(sum_w)(p, copy ? copy : p->xs);
  N(clear_padding)(p, p->dxs, I, 0, p->B);  // a weight may be infinite
  if (has_U(p->cell)) {
    const idx some = p->cell == GRU || p->cell == GRU_BEFORE ? 2 * H : G * H;
    const real* first = N(first_das)(p, gathered);
    real* dU_n = (real*)p->dU + some * H;
    bad |= N(sum_u)(p, some, 0, p->dU, first);
    if (p->cell == GRU) {
      bad |= N(sum_u)(p, H, 3 * H, dU_n, first);
      N(column_sums)(p->T * p->B, H, (const real*)p->das + 3 * H, width, p->dv, p->team);
    }
    if (p->cell == GRU_BEFORE)  // U_n took q
      bad |= N(outer)(p, H, H, p->T * p->B, (const real*)p->das + 2 * H, width,
                      (const real*)p->gates + 3 * H, width, dU_n, 0);
  }
  free(copy);
  return bad;
}

// The sums over no step at all.
static int N(nothing)(const Pass* p) {
  const size_t out = GATES[p->cell] * p->H * sizeof(real);
  memset(p->dW, 0, out * p->I);
  memset(p->db, 0, out);
  if (p->dU) memset(p->dU, 0, out * p->H);
  if (p->dv) memset(p->dv, 0, p->H * sizeof(real));
  return 0;
}
