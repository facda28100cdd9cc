// Layer normalisation of the rows of a step.  Equations: xrnn/cells/normalisation.py.
//
// A row belongs to one thread, and its sums have a fixed order.  What each step adds to the
// gradients of gains and biases is summed for each sequence (Pass.rows), and then over the batch.
#define EPS_PRODUCTS 1e-5
#define EPS_GATES 1e-8

// The mean of a row, and 1 / √(variance + ε).
typedef struct {
  real mean, scale;
} N(Norm);

static INLINE real N(lanes_sum)(vec v) {
  real sum = 0;
  for (int l = 0; l < L; l++) sum += v[l];
  return sum;
}

static N(Norm) N(norm_of)(const real* x, idx n, double eps) {
  const idx whole = n / L * L;
  vec sum = N(zero)(), squares = N(zero)();
  for (idx u = 0; u < whole; u += L) sum += N(load)(x + u);
  real total = N(lanes_sum)(sum), square = 0;
  for (idx u = whole; u < n; u++) total += x[u];
  const real mean = total / n;
  for (idx u = 0; u < whole; u += L) {
    const vec d = N(load)(x + u) - N(set1)(mean);
    squares = N(fma)(d, d, squares);
  }
  square = N(lanes_sum)(squares);
  for (idx u = whole; u < n; u++) square += (x[u] - mean) * (x[u] - mean);
  return (N(Norm)){mean, (real)(1 / sqrt((double)(square / n) + eps))};
}

// x̂ of some units.
static INLINE vec N(unit)(N(Norm) m, vec x) { return (x - N(set1)(m.mean)) * N(set1)(m.scale); }

// From the gradient dy of a normalised row with gains, that of the row x of `size` values: dx,
// which may be the same memory as x or dy.  Adds to the gradient of the gains.
static void N(norm_backward)(N(Norm) m, const real* gain, idx size, const real* x, const real* dy,
                             real* dx, real* dgain) {
  const Units all = {0, size, size};
  vec sum = N(zero)(), product = N(zero)();
  EACH_UNIT(all) {
    // Lanes behind the row are 0 in dy.
    const vec hat = N(unit)(m, N(get)(x + u, n)), d = N(get)(dy + u, n);
    const vec d_hat = d * N(get)(gain + u, n);
    sum += d_hat;
    product = N(fma)(d_hat, hat, product);
    N(put)(dgain + u, N(fma)(d, hat, N(get)(dgain + u, n)), n);
  }
  const vec mean = N(set1)(N(lanes_sum)(sum) / size);
  const vec along = N(set1)(N(lanes_sum)(product) / size);
  EACH_UNIT(all) {
    const vec hat = N(unit)(m, N(get)(x + u, n));
    const vec d_hat = N(get)(dy + u, n) * N(get)(gain + u, n);
    N(put)(dx + u, (d_hat - mean - hat * along) * N(set1)(m.scale), n);
  }
}

// sum += x, for rows of `size` values.
static void N(add_to)(const real* x, idx size, real* sum) {
  const Units all = {0, size, size};
  EACH_UNIT(all) N(put)(sum + u, N(get)(sum + u, n) + N(get)(x + u, n), n);
}

// Memory of H values for each sequence: the k-th of those that the cell needs (Cell.scratch).
static INLINE real* N(scratch_at)(const N(Slice) * s, idx k, idx blocks, idx b) {
  const idx n = s->b1 - s->b0;
  return s->scratch + (k * n + (b - s->b0) * blocks) * s->own.H;
}

static INLINE real* N(rows_at)(const Pass* p, idx b) {
  return (real*)p->rows + b * p->cell->norm_sums * p->H;
}

// The gradients of the bias and of the weights besides W and U that are summed for each sequence:
// b, then those of `extras` from the given one on, as many as there are.
static void N(sum_rows)(const Pass* p, int first) {
  const idx H = p->H, width = p->cell->norm_sums * H;
  const real* at = p->rows;
  N(column_sums)(p->B, p->cell->gates * H, at, width, p->db, 0, p->team);
  at += p->cell->gates * H;
  for (int k = first; at < (const real*)p->rows + width; k++) {
    const idx n = p->cell->extras[k].rows * H;
    N(column_sums)(p->B, n, at, width, p->dextras[k], 0, p->team);
    at += n;
  }
}
