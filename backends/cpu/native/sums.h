// The gradients that are sums over all time steps: of the weights and the inputs.  Each is computed
// by one or two products after the loop over time.  The order of summation does not depend on the
// number of threads.  It is that of the backward pass, from the last step to the first, so that the
// sums of a pass can be added to those of the steps that come later (Pass.adds): the result is that
// of one pass over all of them, to the bit.

// C (m, n) = Aᵀ B, where A is (k, m) and B is (k, n).  If `accumulate` is set, it is added to C.
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
  return p->products->gemm(&g);
}

// The number of rows that are summed without looking whether to stop.
#undef SUM_ROWS
#define SUM_ROWS 1024

// The arguments of column_sums and column_products.
typedef struct {
  idx rows, n, lda, ldb;
  const real *a, *b;
  real* out;
  int accumulate;
  Team* team;
} N(ColumnSums);

// The sums of the columns from o on, of `wide` vectors of them; the last one may be incomplete.
static INLINE void N(columns_from)(const int factor, const int wide, const N(ColumnSums) * job,
                                   idx o, Watch* w) {
  const real *a = job->a + o, *b = factor ? job->b + o : NULL;
  const idx rest = wide == 4 ? 4 * L : job->n - o;
  vec sum[4];
  UNROLL for (int v = 0; v < wide; v++) {
    sum[v] = job->accumulate ? N(get)(job->out + o + v * L, rest - v * L) : N(zero)();
  }
  for (idx r = 0; r < job->rows && !stopped(w, MOVE_COST * 4 * L * SUM_ROWS);) {
    const idx end = job->rows - r < SUM_ROWS ? job->rows : r + SUM_ROWS;
    for (; r < end; r++, a += job->lda) {
      UNROLL for (int v = 0; v < wide; v++) {
        const vec x = N(get)(a + v * L, rest - v * L);
        sum[v] = factor ? N(fma)(x, N(get)(b + v * L, rest - v * L), sum[v]) : sum[v] + x;
      }
      if (factor) b += job->ldb;
    }
  }
  UNROLL for (int v = 0; v < wide; v++) N(put)(job->out + o + v * L, sum[v], rest - v * L);
}

static INLINE void N(column_share)(const int factor, const N(ColumnSums) * job, int i, int n) {
  Watch w = watch_of(job->team, i);
  idx o = share_start(job->n, 4 * L, i, n);
  const idx end = share_start(job->n, 4 * L, i + 1, n);
  for (; o + 4 * L <= end; o += 4 * L) N(columns_from)(factor, 4, job, o, &w);
  for (; o < end; o += L) N(columns_from)(factor, 1, job, o, &w);
}

static void N(sum_share)(void* data, int i, int n) { N(column_share)(0, data, i, n); }
static void N(product_share)(void* data, int i, int n) { N(column_share)(1, data, i, n); }

// out [n] = the sum of the rows of a, in their order; added to `out` if `accumulate` is set.
static void N(column_sums)(idx rows, idx n, const real* a, idx lda, real* out, int accumulate,
                           Team* team) {
  N(ColumnSums)
  job = {
      .rows = rows, .n = n, .lda = lda, .a = a, .out = out, .accumulate = accumulate, .team = team};
  parallel(team, worth(team, MOVE_COST * rows * n), N(sum_share), &job);
}

// out [n] = the sum of the rows of a ⊙ b, in their order; added to `out` if `accumulate` is set.
static void N(column_products)(idx rows, idx n, const real* a, idx lda, const real* b, idx ldb,
                               real* out, int accumulate, Team* team) {
  N(ColumnSums) job = {rows, n, lda, ldb, a, b, out, accumulate, team};
  parallel(team, worth(team, MOVE_COST * rows * n), N(product_share), &job);
}

// Rows of an array [rows, …] in the order in which the backward pass runs through the steps.
typedef struct {
  const real* at;
  idx ld;
} N(Rows);

static N(Rows) N(in_order)(const Pass* p, const real* first, idx rows, idx width) {
  if (p->reverse) return (N(Rows)){first, width};
  return (N(Rows)){first + (rows - 1) * width, -width};
}

// The rows (T-1)·B of das [T, B, row_blocks·H] that are not of the first step of the pass, and
// those of x [T, B, n], a state after each step, that stand before them.
static N(Rows) N(later_das)(const Pass* p, idx column) {
  const idx width = row_blocks(p->cell) * p->H, skipped = p->reverse ? 0 : p->B * width;
  return N(in_order)(p, (const real*)p->das + column + skipped, (p->T - 1) * p->B, width);
}

static N(Rows) N(before_later)(const Pass* p, const real* x, idx n) {
  return N(in_order)(p, p->reverse ? x + p->B * n : x, (p->T - 1) * p->B, n);
}

// The rows B of das that are of the first step of the pass.
static N(Rows) N(first_das)(const Pass* p, idx column) {
  const idx width = row_blocks(p->cell) * p->H, t = p->reverse ? p->T - 1 : 0;
  return N(in_order)(p, (const real*)p->das + column + t * p->B * width, p->B, width);
}

// dU [rows, P] = Σ_t das_tᵀ h_(t-1), for the `rows` columns of das that begin with `column`.  In
// the first step of the pass h_(t-1) is h0, and in the others it is in ys.
static int N(sum_U)(const Pass* p, idx rows, idx column, real* dU) {
  const idx P = p->P, rest = (p->T - 1) * p->B;
  const N(Rows) later = N(later_das)(p, column), hs = N(before_later)(p, p->ys, P);
  const N(Rows) first = N(first_das)(p, column), h0 = N(in_order)(p, p->h0, p->B, P);
  int status = 0;
  if (rest) status = N(outer)(p, rows, P, rest, later.at, later.ld, hs.at, hs.ld, dU, p->adds);
  return status | N(outer)(p, rows, P, p->B, first.at, first.ld, h0.at, h0.ld, dU, rest || p->adds);
}

// out [H] = Σ_t da_t ⊙ c_(t-1), for the H columns of das that begin with `column`.  The sum has the
// same two parts as that of sum_U; cs must be 0 after the end of each sequence.
static void N(sum_with_c_before)(const Pass* p, idx column, real* out) {
  const idx H = p->H, rest = (p->T - 1) * p->B;
  const N(Rows) later = N(later_das)(p, column), cs = N(before_later)(p, p->cs, H);
  const N(Rows) first = N(first_das)(p, column), c0 = N(in_order)(p, p->c0, p->B, H);
  if (rest) N(column_products)(rest, H, later.at, later.ld, cs.at, cs.ld, out, p->adds, p->team);
  N(column_products)(p->B, H, first.at, first.ld, c0.at, c0.ld, out, rest || p->adds, p->team);
}

// Sums over all rows of das, for the `n` columns that begin with `column`: of them, and of them
// times the c after each step.
static void N(sum_das)(const Pass* p, idx column, idx n, real* out) {
  const idx rows = p->T * p->B, width = row_blocks(p->cell) * p->H;
  const N(Rows) das = N(in_order)(p, (const real*)p->das + column, rows, width);
  N(column_sums)(rows, n, das.at, das.ld, out, p->adds, p->team);
}

static void N(sum_with_c)(const Pass* p, idx column, real* out) {
  const idx H = p->H, rows = p->T * p->B, width = row_blocks(p->cell) * H;
  const N(Rows) das = N(in_order)(p, (const real*)p->das + column, rows, width);
  const N(Rows) cs = N(in_order)(p, p->cs, rows, H);
  N(column_products)(rows, H, das.at, das.ld, cs.at, cs.ld, out, p->adds, p->team);
}

// out [m, n] = Σ_t a_tᵀ b_t, for the m columns of a [T, B, lda] and the n of b [T, B, ldb].
static int N(sum_outer)(const Pass* p, idx m, idx n, const real* a, idx lda, const real* b, idx ldb,
                        void* out) {
  const idx rows = p->T * p->B;
  const N(Rows) left = N(in_order)(p, a, rows, lda), right = N(in_order)(p, b, rows, ldb);
  return N(outer)(p, m, n, rows, left.at, left.ld, right.at, right.ld, out, p->adds);
}

// dW, db and, if it is wanted, dxs.  xs must be 0 after the end of each sequence.
static int N(sum_W)(const Pass* p) {
  const idx rows = p->T * p->B, out = p->cell->gates * p->H, width = row_blocks(p->cell) * p->H;
  const Gemm product = {.m = rows,
                        .n = p->I,
                        .k = out,
                        .A = p->das,
                        .B = p->W,
                        .C = p->dxs,
                        .lda = width,
                        .ldb = p->I,
                        .ldc = p->I,
                        .team = p->team};
  N(sum_das)(p, 0, out, p->db);
  const int status = N(sum_outer)(p, out, p->I, p->das, width, p->xs, p->I, p->dW);
  return p->dxs ? status | p->products->gemm(&product) : status;
}

// The gradient [P, H] of the projection, Σ_t dh_tᵀ m_t.
static int N(sum_projection)(const Pass* p) {
  const idx S = p->cell->saved, H = p->H;
  return N(sum_outer)(p, p->P, H, p->dhs, p->P, (const real*)p->gates + (S - 1) * H, S * H,
                      p->dextras[p->cell->projects - 1]);
}

// Sets all [T, B, n] to 0 after the end of each sequence, for the sequences b0 to b1 (exclusive).
static void N(clear_padding)(const Pass* p, real* all, idx n, idx b0, idx b1, Watch* w) {
  if (!p->lengths) return;
  for (idx b = b0; b < b1; b++)
    for (idx t = N(steps)(p, b); t < p->T && !stopped(w, MOVE_COST * n); t++)
      memset(all + N(at)(p, t, b, n), 0, n * sizeof(real));
}

// Copies all [T, B, n] to `out`.
static void N(copy_rows)(const Pass* p, const void* all, idx n, real* out, Watch* w) {
  const idx step = p->B * n;
  for (idx t = 0; t < p->T && !stopped(w, MOVE_COST * step); t++)
    memcpy(out + t * step, (const real*)all + t * step, step * sizeof(real));
}

// The same of a state after each step, with the first state of each sequence behind its end: where
// time is reversed, that is before its first step.
static void N(copy_states)(const Pass* p, const void* all, const void* first, idx n, real* out,
                           Watch* w) {
  N(copy_rows)(p, all, n, out, w);
  for (idx b = 0; b < p->B; b++) {
    const idx steps = N(steps)(p, b);
    if (steps && steps < p->T)
      memcpy(out + N(at)(p, steps, b, n), (const real*)first + b * n, n * sizeof(real));
  }
}

// All of these gradients, when das is complete.  Returns 0, or -1 if there is not enough memory.
static int N(sums)(const Pass* given, const N(Loops) * loops) {
  Pass q = *given;
  const Pass* p = &q;
  const Cell* cell = p->cell;
  const idx I = p->I, late = p->lengths && p->reverse;  // whether sequences start late
  const idx width = (p->lengths ? I : 0) + (late ? p->P + (cell->sums_cs ? p->H : 0) : 0);
  real* memory = NULL;
  Watch w = watch_of(p->team, 0);
  if (width) {
    memory = aligned_memory((size_t)(p->T * p->B * width) * sizeof(real));
    if (!memory) return -1;
    real *xs = memory, *ys = xs + p->T * p->B * I, *cs = ys + p->T * p->B * p->P;
    N(copy_rows)(p, p->xs, I, xs, &w);
    N(clear_padding)(p, xs, I, 0, p->B, &w);
    q.xs = xs;
    if (late && cell->has_U) N(copy_states)(p, p->ys, p->h0, p->P, ys, &w), q.ys = ys;
    if (late && cell->sums_cs) N(copy_states)(p, p->cs, p->c0, p->H, cs, &w), q.cs = cs;
  }
  int status = N(sum_W)(p);
  // The product has set dxs to 0 there, unless a weight is infinite or NaN.
  if (p->dxs) N(clear_padding)(p, p->dxs, I, 0, p->B, &w);
  if (cell->has_U) {
    status |= N(sum_U)(p, cell->first_gates * p->H, cell->U_at * p->H, p->dU);
    if (loops->sum_others) status |= loops->sum_others(p);
  }
  free(memory);
  return status;
}

// The same where products took d ⊙ h in the place of h.
static int N(sums_of_dropped)(const Pass* p, const N(Loops) * loops) {
  const idx row = p->B * p->P;
  real* seen = aligned_memory((size_t)(p->T + 1) * row * sizeof(real));
  if (!seen) return -1;
  Watch w = watch_of(p->team, 0);
  const real* d = p->dropout;
  for (idx t = -1; t < p->T && !stopped(&w, MOVE_COST * row); t++) {
    const real* h = t < 0 ? (const real*)p->h0 : (const real*)p->ys + t * row;
    real* to = seen + (t + 1) * row;
    for (idx u = 0; u < row; u += L)
      N(put)(to + u, N(get)(d + u, row - u) * N(get)(h + u, row - u), row - u);
  }
  Pass dropped = *p;
  dropped.h0 = seen, dropped.ys = seen + row;
  const int status = N(sums)(&dropped, loops);
  free(seen);
  return status;
}

// The gradients of the weights if there is no time step at all.
static int N(sums_of_nothing)(const Pass* p) {
  if (p->adds) return 0;
  const size_t out = p->cell->gates * p->H * sizeof(real);
  memset(p->dW, 0, out * p->I);
  memset(p->db, 0, out);
  if (p->dU) memset(p->dU, 0, out * p->P);
  for (int k = 0; k < MAX_EXTRAS && p->cell->extras[k].name; k++)
    memset(p->dextras[k], 0, extra_size(p, &p->cell->extras[k]) * sizeof(real));
  return 0;
}
