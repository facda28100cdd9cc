// The minGRU, which has no U.  Equations: xrnn/cells/mingru.py.

// One row of the forward pass.
// a       [2H]  in: the pre-activation of z, and n; out, if `keep`: z, n
// h_prev  [H]
// h       [H]   out
static void N(mingru_row)(Units own, real* a, int keep, const real* h_prev, real* h) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec z = N(vsigmoid)(N(get)(a + u, n));                                 // (1)
    const vec new = N(get)(a + H + u, n);                                        // (2)
    N(put)(h + u, N(fma)(z, new, (N(set1)(1) - z) * N(get)(h_prev + u, n)), n);  // (3)
    if (keep) N(put)(a + u, z, n);
  }
}

// One row of the backward pass.
// gates   [2H]  z, n
// h_prev  [H]
// dy      [H]   the gradient of the output of this step alone, or null
// dh      [H]   in: the gradient of h from later steps; out: the gradient of h_prev
// da      [2H]  out, may be the same memory as gates
static void N(mingru_row_backward)(Units own, const real* gates, const real* h_prev, const real* dy,
                                   real* dh, real* da) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec z = N(get)(gates + u, n), new = N(get)(gates + H + u, n);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec d_z = d_h * (new - N(get)(h_prev + u, n));  // (3)
    N(put)(da + H + u, d_h * z, n);                       // (3), (2)
    N(put)(da + u, d_z * N(sigmoid_slope)(z), n);         // (1)
    N(put)(dh + u, d_h * (N(set1)(1) - z), n);            // (3)
  }
}

static void N(mingru_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(mingru_row)(s->own, N(pre_at)(s, t, b), p->gates != NULL, N(h_before)(p, t, b),
                  N(h_at)(p, t, b));
  }
}

static void N(mingru_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(mingru_row_backward)(s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b), N(dy_at)(p, t, b),
                           N(dh_at)(p, b), N(das_at)(p, t, b));
  }
}

static const N(Loops) N(mingru) = {
    .cell = {.name = "mingru", .gates = 2, .saved = 2},
    .step = N(mingru_step),
    .step_backward = N(mingru_step_backward),
};
