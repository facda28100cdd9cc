// The gradients that are sums over all time steps: of the weights and the inputs.  Each is computed
// by one or two products after the loop over time.  The order of summation does not depend on the
// number of threads.

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
  return N(gemm)(&g);
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

// out [n] = the sum of the rows of a, in their order.
static void N(column_sums)(idx rows, idx n, const real* a, idx lda, real* out, Team* team) {
  N(ColumnSums) job = {.rows = rows, .n = n, .lda = lda, .a = a, .out = out, .team = team};
  parallel(team, worth(team, MOVE_COST * rows * n), N(sum_share), &job);
}

// out [n] = the sum of the rows of a ⊙ b, in their order; added to `out` if `accumulate` is set.
static void N(column_products)(idx rows, idx n, const real* a, idx lda, const real* b, idx ldb,
                               real* out, int accumulate, Team* team) {
  N(ColumnSums) job = {rows, n, lda, ldb, a, b, out, accumulate, team};
  parallel(team, worth(team, MOVE_COST * rows * n), N(product_share), &job);
}

// The rows of das for the first step of each sequence, [B, row_blocks·H].  If these are the rows of
// one time step, they are returned where they are.  Otherwise they are copied to `memory`, with 0
// for a sequence without steps.
static const real* N(first_das)(const Pass* p, real* memory) {
  const idx width = row_blocks(p->cell) * p->H;
  if (!p->reverse) return N(das_at)(p, 0, 0);
  if (!p->lengths) return N(das_at)(p, p->T - 1, 0);
  for (idx b = 0; b < p->B; b++) {
    const idx steps = N(steps)(p, b);
    if (steps)
      memcpy(memory + b * width, N(das_at)(p, steps - 1, b), width * sizeof(real));
    else
      memset(memory + b * width, 0, width * sizeof(real));
  }
  return memory;
}

// dU [rows, P] = Σ_t das_tᵀ h_(t-1), for the `rows` columns of das that begin with `column`.  The
// sum has two parts: the first step of each sequence, where h is h0, and the other steps, where it
// is in ys.  If time is reversed, the second part also includes the first step of the sequences
// that are shorter than T; this adds 0, because ys is 0 after the end.
static int N(sum_U)(const Pass* p, idx rows, idx column, real* dU, const real* first) {
  const idx P = p->P, width = row_blocks(p->cell) * p->H, rest = (p->T - 1) * p->B;
  const real *das = (const real*)p->das + column, *ys = p->ys;
  int status = 0;
  if (rest)
    status = N(outer)(p, rows, P, rest, p->reverse ? das : das + p->B * width, width,
                      p->reverse ? ys + p->B * P : ys, P, dU, 0);
  return status | N(outer)(p, rows, P, p->B, first + column, width, p->h0, P, dU, rest != 0);
}

// out [H] = Σ_t da_t ⊙ c_(t-1), for the H columns of das that begin with `column`.  The sum has the
// same two parts as that of sum_U; cs must be 0 after the end of each sequence.
static void N(sum_with_c_before)(const Pass* p, idx column, real* out, const real* first) {
  const idx H = p->H, width = row_blocks(p->cell) * H, rest = (p->T - 1) * p->B;
  const real *das = (const real*)p->das + column, *cs = p->cs;
  N(column_products)(rest, H, p->reverse ? das : das + p->B * width, width,
                     p->reverse ? cs + p->B * H : cs, H, out, 0, p->team);
  N(column_products)(p->B, H, first + column, width, p->c0, H, out, 1, p->team);
}

// out [H] = Σ_t da_t ⊙ c_t, for the H columns of das that begin with `column`.
static void N(sum_with_c)(const Pass* p, idx column, real* out) {
  const idx H = p->H;
  N(column_products)(p->T * p->B, H, (const real*)p->das + column, row_blocks(p->cell) * H, p->cs,
                     H, out, 0, p->team);
}

// dW, db and, if it is wanted, dxs.  xs must be 0 after the end of each sequence.
static int N(sum_W)(const Pass* p, const real* xs) {
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
  N(column_sums)(rows, out, p->das, width, p->db, p->team);
  const int status = N(outer)(p, out, p->I, rows, p->das, width, xs, p->I, p->dW, 0);
  return p->dxs ? status | N(gemm)(&product) : status;
}

// The gradient [P, H] of the projection, Σ_t dh_tᵀ m_t.
static int N(sum_projection)(const Pass* p) {
  const idx S = p->cell->saved, H = p->H;
  return N(outer)(p, p->P, H, p->T * p->B, p->dhs, p->P, (const real*)p->gates + (S - 1) * H, S * H,
                  p->dextras[p->cell->projects - 1], 0);
}

// Sets all [T, B, n] to 0 after the end of each sequence, for the sequences b0 to b1 (exclusive).
static void N(clear_padding)(const Pass* p, real* all, idx n, idx b0, idx b1, Watch* w) {
  if (!p->lengths) return;
  for (idx b = b0; b < b1; b++)
    for (idx t = N(steps)(p, b); t < p->T && !stopped(w, MOVE_COST * n); t++)
      memset(all + N(at)(p, t, b, n), 0, n * sizeof(real));
}

// All of these gradients, when das is complete.  Returns 0, or -1 if there is not enough memory.
static int N(sums)(const Pass* p, const N(Loops) * loops) {
  const idx I = p->I, width = row_blocks(p->cell) * p->H;
  const size_t xs_size = p->lengths ? (size_t)(p->T * p->B * I) : 0;
  real *xs = NULL, *gathered = NULL;
  Watch w = watch_of(p->team, 0);
  if (p->lengths) {
    xs = aligned_memory((xs_size + (size_t)(p->B * width)) * sizeof(real));
    if (!xs) return -1;
    gathered = xs + xs_size;
    const idx step = p->B * I;
    for (idx t = 0; t < p->T && !stopped(&w, MOVE_COST * step); t++)
      memcpy(xs + t * step, (const real*)p->xs + t * step, step * sizeof(real));
    N(clear_padding)(p, xs, I, 0, p->B, &w);
  }
  int status = N(sum_W)(p, xs ? xs : p->xs);
  // The product has set dxs to 0 there, unless a weight is infinite or NaN.
  if (p->dxs) N(clear_padding)(p, p->dxs, I, 0, p->B, &w);
  if (p->cell->has_U) {
    const real* first = N(first_das)(p, gathered);
    status |= N(sum_U)(p, p->cell->first_gates * p->H, p->cell->U_at * p->H, p->dU, first);
    if (loops->sum_others) status |= loops->sum_others(p, first);
  }
  free(xs);
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
  const size_t out = p->cell->gates * p->H * sizeof(real);
  memset(p->dW, 0, out * p->I);
  memset(p->db, 0, out);
  if (p->dU) memset(p->dU, 0, out * p->P);
  for (int k = 0; k < MAX_EXTRAS && p->cell->extras[k].name; k++)
    memset(p->dextras[k], 0, extra_size(p, &p->cell->extras[k]) * sizeof(real));
  return 0;
}
