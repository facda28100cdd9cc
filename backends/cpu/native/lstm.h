// The LSTM, and the input-gated LSTM, which differs only in having no U.
// Equations: xrnn/cells/lstm.py, xrnn/cells/input_gated.py.  The numbers below are those of
// lstm.py.

// One row of the forward pass.
// a       [4H]  in: the pre-activations of i, f, g, o; out, if `keep`: the gates
// c_prev  [H]
// c       [H]   out, may be c_prev
// h       [H]   out
static void N(lstm_row)(Units own, real* a, int keep, const real* c_prev, real* c, real* h) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec i = N(vsigmoid)(N(get)(a + u, n));                // (1)
    const vec f = N(vsigmoid)(N(get)(a + H + u, n));            // (2)
    const vec g = N(vtanh)(N(get)(a + 2 * H + u, n));           // (3)
    const vec o = N(vsigmoid)(N(get)(a + 3 * H + u, n));        // (4)
    const vec new_c = N(fma)(f, N(get)(c_prev + u, n), i * g);  // (5)
    N(put)(c + u, new_c, n);
    N(put)(h + u, o * N(vtanh)(new_c), n);  // (6)
    if (keep) {
      N(put)(a + u, i, n);
      N(put)(a + H + u, f, n);
      N(put)(a + 2 * H + u, g, n);
      N(put)(a + 3 * H + u, o, n);
    }
  }
}

// One row of the backward pass.
// gates      [4H]  i, f, g, o
// c_prev, c  [H]
// dy         [H]   the gradient of the output of this step alone, or null
// dh         [H]   in: the gradient of h from later steps; out: 0, to which the caller adds Uᵀ da
// dc         [H]   in: the gradient of c from later steps; out: the gradient of c_prev
// da         [4H]  out, may be the same memory as gates
static void N(lstm_row_backward)(Units own, const real* gates, const real* c_prev, const real* c,
                                 const real* dy, real* dh, real* dc, real* da) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec i = N(get)(gates + u, n), f = N(get)(gates + H + u, n);
    const vec g = N(get)(gates + 2 * H + u, n), o = N(get)(gates + 3 * H + u, n);
    const vec tanh_c = N(vtanh)(N(get)(c + u, n));
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec d_c = N(fma)(d_h * o, N(tanh_slope)(tanh_c), N(get)(dc + u, n));  // (6)
    N(put)(da + 3 * H + u, d_h * tanh_c * N(sigmoid_slope)(o), n);              // (4)
    N(put)(da + 2 * H + u, d_c * i * N(tanh_slope)(g), n);                      // (3)
    N(put)(da + H + u, d_c * N(get)(c_prev + u, n) * N(sigmoid_slope)(f), n);   // (2)
    N(put)(da + u, d_c * g * N(sigmoid_slope)(i), n);                           // (1)
    N(put)(dc + u, d_c * f, n);                                                 // (5)
    N(put)(dh + u, N(zero)(), n);
  }
}

static void N(lstm_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  N(recur_first_gates)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(lstm_row)(s->own, N(pre_at)(s, t, b), p->gates != NULL, N(c_before)(p, t, b),
                N(c_at)(p, t, b), N(h_at)(p, t, b));
  }
}

static void N(lstm_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(lstm_row_backward)(s->own, N(gates_at)(p, t, b), N(c_before)(p, t, b), N(c_at)(p, t, b),
                         N(dy_at)(p, t, b), N(dh_at)(p, b), N(dc_at)(p, b), N(das_at)(p, t, b));
  }
  N(recur_first_gates_backward)(s, t);
}

static const N(Loops) N(lstm) = {
    .cell = {.name = "lstm", .gates = 4, .saved = 4, .first_gates = 4, .has_U = 1, .has_c = 1},
    .step = N(lstm_step),
    .step_backward = N(lstm_step_backward),
};

static const N(Loops) N(input_gated) = {
    .cell = {.name = "input-gated", .gates = 4, .saved = 4, .has_U = 0, .has_c = 1},
    .step = N(lstm_step),
    .step_backward = N(lstm_step_backward),
};
