// The gated recurrent unit with the reset gate before the product.
// Equations: xrnn/cells/gru_before.py.
//
// U_n multiplies q = r ⊙ h_prev, which has a block of its own in a row of pre-activations: 4 blocks
// for the 3 gates.  As q must be complete before the product, each step has two parts.

// One row of the forward pass, before the product U_n q.
// a       [4H]  in: the pre-activations of r and z, W_n x + b_n, unused; out: r, z, unchanged, q
// h_prev  [H]
static void N(gru_before_row_q)(Units own, real* a, const real* h_prev) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec r = N(vsigmoid)(N(get)(a + u, n));  // (2)
    N(put)(a + u, r, n);
    N(put)(a + H + u, N(vsigmoid)(N(get)(a + H + u, n)), n);  // (1)
    N(put)(a + 3 * H + u, r * N(get)(h_prev + u, n), n);
  }
}

// One row of the forward pass, after the product.
// a       [4H]  in: r, z, the pre-activation of n, q; out: r, z, n, q
// h_prev  [H]
// h       [H]   out
static void N(gru_before_row)(Units own, real* a, const real* h_prev, real* h) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec z = N(get)(a + H + u, n), new = N(vtanh)(N(get)(a + 2 * H + u, n));  // (3)
    N(put)(a + 2 * H + u, new, n);
    N(put)(h + u, N(fma)(z, N(get)(h_prev + u, n), (N(set1)(1) - z) * new), n);  // (4)
  }
}

// One row of the backward pass, before the product dq = U_nᵀ da_n.
// gates   [4H]  r, z, n, q
// h_prev  [H]
// dy      [H]   the gradient of the output of this step alone, or null
// dh      [H]   in: the gradient of h from later steps; out: the part of the gradient of h_prev
//               that comes from (4)
// dq      [H]   out: 0, to which the caller adds U_nᵀ da_n
// da      [4H]  out: unchanged, da_z, da_n, unchanged; may be the same memory as gates
static void N(gru_before_row_backward_n)(Units own, const real* gates, const real* h_prev,
                                         const real* dy, real* dh, real* dq, real* da) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec z = N(get)(gates + H + u, n), new = N(get)(gates + 2 * H + u, n);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec d_z = d_h * (N(get)(h_prev + u, n) - new);                     // (4)
    N(put)(da + H + u, d_z * N(sigmoid_slope)(z), n);                        // (1)
    N(put)(da + 2 * H + u, d_h * (N(set1)(1) - z) * N(tanh_slope)(new), n);  // (3)
    N(put)(dh + u, d_h * z, n);
    N(put)(dq + u, N(zero)(), n);
  }
}

// One row of the backward pass, after the product: computes da_r from dq, and adds to dh the part
// of the gradient of h_prev that comes from q.  The caller adds U_rzᵀ (da_r, da_z).
static void N(gru_before_row_backward)(Units own, const real* gates, const real* h_prev,
                                       const real* dq, real* dh, real* da) {
  EACH_UNIT(own) {
    const vec r = N(get)(gates + u, n), d_q = N(get)(dq + u, n);
    N(put)(dh + u, N(fma)(d_q, r, N(get)(dh + u, n)), n);
    N(put)(da + u, d_q * N(get)(h_prev + u, n) * N(sigmoid_slope)(r), n);  // (2)
  }
}

// Adds U_n q to the pre-activations of n, which are block `at` of a row; q is the block after it.
static INLINE void N(multiply_q)(N(Slice) * s, idx t, const int at) {
  const idx H = s->own.H;
  N(barrier)(s);  // q comes from all threads
  for (idx i = 0; i < s->n; i++) {
    real* a = N(pre_at)(s, t, s->b[i]);
    s->x[i] = a + (at + 1) * H;
    s->y[i] = a + at * H + s->own.from;
  }
  N(multiply_rows)(s, &s->u[1], s->n);
}

static INLINE real* N(dq_at)(const N(Slice) * s, idx b) {
  return s->scratch + (b - s->b0) * s->own.H;
}

// Adds U_nᵀ da_n to dq; da_n is block `at` of a row.
static INLINE void N(multiply_da_n)(N(Slice) * s, idx t, const int at) {
  const idx H = s->own.H;
  N(barrier)(s);  // da_n comes from all threads
  for (idx i = 0; i < s->n; i++) {
    s->x[i] = N(das_at)(s->p, t, s->b[i]) + at * H;
    s->y[i] = N(dq_at)(s, s->b[i]) + s->own.from;
  }
  N(multiply_rows)(s, &s->u[1], s->n);
}

static void N(gru_before_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  N(recur_first_gates)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_before_row_q)(s->own, N(pre_at)(s, t, b), N(h_before)(p, t, b));
  }
  N(multiply_q)(s, t, 2);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_before_row)(s->own, N(pre_at)(s, t, b), N(h_before)(p, t, b), N(h_at)(p, t, b));
  }
}

static void N(gru_before_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_before_row_backward_n)(s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b),
                                 N(dy_at)(p, t, b), N(dh_at)(p, b), N(dq_at)(s, b),
                                 N(das_at)(p, t, b));
  }
  N(multiply_da_n)(s, t, 2);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_before_row_backward)(s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b), N(dq_at)(s, b),
                               N(dh_at)(p, b), N(das_at)(p, t, b));
  }
  N(recur_first_gates_backward)(s, t);
}

// dU_n = Σ_t da_n,tᵀ q_t.
static int N(gru_before_sum_others)(const Pass* p) {
  const idx H = p->H;
  return N(sum_outer)(p, H, H, (const real*)p->das + 2 * H, 4 * H, (const real*)p->gates + 3 * H,
                      4 * H, (real*)p->dU + 2 * H * H);
}

static const N(Loops) N(gru_before) = {
    .cell = {.name = "gru-before",
             .gates = 3,
             .saved = 4,
             .first_gates = 2,
             .has_U = 1,
             .scratch = 1,      // dq
             .sums_gates = 1},  // q
    .step = N(gru_before_step),
    .step_backward = N(gru_before_step_backward),
    .sum_others = N(gru_before_sum_others),
};
