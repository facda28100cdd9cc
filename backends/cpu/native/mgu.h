// The minimal gated unit.  Equations: xrnn/cells/mgu.py.
//
// As in gru_before.h, U_n multiplies q = u ⊙ h_prev, which has a block of its own in a row of
// pre-activations, and each step has two parts.

// One row of the forward pass, before the product U_n q.
// a       [3H]  in: the pre-activation of u, W_n x + b_n, unused; out: u, unchanged, q
// h_prev  [H]
static void N(mgu_row_q)(Units own, real* a, const real* h_prev) {
  EACH_UNIT(own) {
    const vec update = N(vsigmoid)(N(get)(a + u, n));  // (1)
    N(put)(a + u, update, n);
    N(put)(a + 2 * own.H + u, update * N(get)(h_prev + u, n), n);
  }
}

// One row of the forward pass, after the product.
// a       [3H]  in: u, the pre-activation of n, q; out: u, n, q
// h_prev  [H]
// h       [H]   out
static void N(mgu_row)(Units own, real* a, const real* h_prev, real* h) {
  EACH_UNIT(own) {
    const vec update = N(get)(a + u, n), new = N(vtanh)(N(get)(a + own.H + u, n));  // (2)
    const vec old = N(get)(h_prev + u, n);
    N(put)(a + own.H + u, new, n);
    N(put)(h + u, N(fma)(update, new, (N(set1)(1) - update) * old), n);  // (3)
  }
}

// One row of the backward pass, before the product dq = U_nᵀ da_n.
// gates   [3H]  u, n, q
// h_prev  [H]
// dy      [H]   the gradient of the output of this step alone, or null
// dh      [H]   in: the gradient of h from later steps; out: the part of the gradient of h_prev
//               that comes from (3)
// dq      [H]   out: 0, to which the caller adds U_nᵀ da_n
// du      [H]   out: the part of the gradient of u that comes from (3)
// da      [3H]  out: unchanged, da_n, unchanged; may be the same memory as gates
static void N(mgu_row_backward_n)(Units own, const real* gates, const real* h_prev, const real* dy,
                                  real* dh, real* dq, real* du, real* da) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec update = N(get)(gates + u, n), new = N(get)(gates + H + u, n);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    N(put)(du + u, d_h * (new - N(get)(h_prev + u, n)), n);    // (3)
    N(put)(da + H + u, d_h * update * N(tanh_slope)(new), n);  // (3), (2)
    N(put)(dh + u, d_h * (N(set1)(1) - update), n);            // (3)
    N(put)(dq + u, N(zero)(), n);
  }
}

// One row of the backward pass, after the product: computes da_u, and adds to dh the part of the
// gradient of h_prev that comes from q.  The caller adds U_uᵀ da_u.
static void N(mgu_row_backward)(Units own, const real* gates, const real* h_prev, const real* dq,
                                const real* du, real* dh, real* da) {
  EACH_UNIT(own) {
    const vec update = N(get)(gates + u, n), d_q = N(get)(dq + u, n);
    const vec d_u = N(fma)(d_q, N(get)(h_prev + u, n), N(get)(du + u, n));  // (2)
    N(put)(dh + u, N(fma)(d_q, update, N(get)(dh + u, n)), n);              // (2)
    N(put)(da + u, d_u * N(sigmoid_slope)(update), n);                      // (1)
  }
}

static void N(mgu_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  N(recur_first_gates)(s, t);
  for (idx i = 0; i < s->n; i++)
    N(mgu_row_q)(s->own, N(pre_at)(s, t, s->b[i]), N(h_before)(p, t, s->b[i]));
  N(multiply_q)(s, t, 1);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(mgu_row)(s->own, N(pre_at)(s, t, b), N(h_before)(p, t, b), N(h_at)(p, t, b));
  }
}

// The part of du from (3) lies behind the dq of all sequences.
static INLINE real* N(du_at)(const N(Slice) * s, idx b) { return N(dq_at)(s, s->b1 - s->b0 + b); }

static void N(mgu_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(mgu_row_backward_n)(s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b), N(dy_at)(p, t, b),
                          N(dh_at)(p, b), N(dq_at)(s, b), N(du_at)(s, b), N(das_at)(p, t, b));
  }
  N(multiply_da_n)(s, t, 1);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(mgu_row_backward)(s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b), N(dq_at)(s, b),
                        N(du_at)(s, b), N(dh_at)(p, b), N(das_at)(p, t, b));
  }
  N(recur_first_gates_backward)(s, t);
}

// As gru_before_sum_others.
static int N(mgu_sum_others)(const Pass* p) {
  const idx H = p->H;
  return N(sum_outer)(p, H, H, (const real*)p->das + H, 3 * H, (const real*)p->gates + 2 * H, 3 * H,
                      (real*)p->dU + H * H);
}

static const N(Loops) N(mgu) = {
    .cell = {.name = "mgu",
             .gates = 2,
             .saved = 3,
             .first_gates = 1,
             .has_U = 1,
             .scratch = 2,      // dq, du
             .sums_gates = 1},  // q
    .step = N(mgu_step),
    .step_backward = N(mgu_step_backward),
    .sum_others = N(mgu_sum_others),
};
