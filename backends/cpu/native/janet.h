// JANET, the LSTM with its forget gate alone.  Equations: xrnn/cells/janet.py.
//
// The pre-activation s of f is kept and not f: the digits of i = σ(1 - s) are lost in an f near 1.

// One row of the forward pass.
// a       [2H]  in: s and the pre-activation of g; out, if `keep`: s, g
// h_prev  [H]
// h       [H]   out
static void N(janet_row)(Units own, real* a, int keep, const real* h_prev, real* h) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec s = N(get)(a + u, n);
    const vec f = N(vsigmoid)(s), i = N(vsigmoid)(N(set1)(1) - s);  // (1), (2)
    const vec g = N(vtanh)(N(get)(a + H + u, n));                   // (3)
    N(put)(h + u, N(fma)(f, N(get)(h_prev + u, n), i * g), n);      // (4)
    if (keep) N(put)(a + H + u, g, n);
  }
}

// One row of the backward pass.
// gates   [2H]  s, g
// h_prev  [H]
// dy      [H]   the gradient of the output of this step alone, or null
// dh      [H]   in: the gradient of h from later steps; out: the part of the gradient of h_prev
//               that comes from (4), to which the caller adds Uᵀ da
// da      [2H]  out, may be the same memory as gates
static void N(janet_row_backward)(Units own, const real* gates, const real* h_prev, const real* dy,
                                  real* dh, real* da) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec s = N(get)(gates + u, n), g = N(get)(gates + H + u, n);
    const vec f = N(vsigmoid)(s), i = N(vsigmoid)(N(set1)(1) - s);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec d_i = d_h * g * N(sigmoid_slope)(i);                               // (4), (2)
    N(put)(da + u, d_h * N(get)(h_prev + u, n) * N(sigmoid_slope)(f) - d_i, n);  // (4), (1)
    N(put)(da + H + u, d_h * i * N(tanh_slope)(g), n);                           // (4), (3)
    N(put)(dh + u, d_h * f, n);                                                  // (4)
  }
}

static void N(janet_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  N(recur_first_gates)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(janet_row)(s->own, N(pre_at)(s, t, b), p->gates != NULL, N(h_before)(p, t, b),
                 N(h_at)(p, t, b));
  }
}

static void N(janet_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(janet_row_backward)(s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b), N(dy_at)(p, t, b),
                          N(dh_at)(p, b), N(das_at)(p, t, b));
  }
  N(recur_first_gates_backward)(s, t);
}

static const N(Loops) N(janet) = {
    .cell = {.name = "janet", .gates = 2, .saved = 2, .first_gates = 2, .has_U = 1},
    .step = N(janet_step),
    .step_backward = N(janet_step_backward),
};
