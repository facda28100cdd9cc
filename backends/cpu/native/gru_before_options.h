// The gated recurrent unit with the reset gate before the product, with options: activation
// functions and a limit.  Equations: xrnn/cells/gru_before.py.  See gru_before.h.

// One row of the forward pass, before the product U_n q.
// a       [4H]  in: the pre-activations of r and z, W_n x + b_n, unused; out: block 3 is q
// h_prev  [H]
static void N(gru_before_options_row_q)(const N(Choices) * o, Units own, real* a,
                                        const real* h_prev) {
  EACH_UNIT(own) {
    const vec r = N(gate)(&o->gate, o->clip, N(get)(a + u, n));  // (2)
    N(put)(a + 3 * own.H + u, r * N(get)(h_prev + u, n), n);
  }
}

// One row of the forward pass, after the product.
static void N(gru_before_options_row)(const N(Choices) * o, Units own, const real* a,
                                      const real* h_prev, real* h) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec z = N(gate)(&o->gate, o->clip, N(get)(a + H + u, n));              // (1)
    const vec new = N(gate)(&o->candidate, o->clip, N(get)(a + 2 * H + u, n));   // (3)
    N(put)(h + u, N(fma)(z, N(get)(h_prev + u, n), (N(set1)(1) - z) * new), n);  // (4)
  }
}

// As gru_before_row_backward_n, from the pre-activations a.
static void N(gru_before_options_row_backward_n)(const N(Choices) * o, Units own, const real* a,
                                                 const real* h_prev, const real* dy, real* dh,
                                                 real* dq, real* da) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec a_z = N(get)(a + H + u, n), a_n = N(get)(a + 2 * H + u, n);
    const vec z = N(gate)(&o->gate, o->clip, a_z);
    const vec new = N(gate)(&o->candidate, o->clip, a_n);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec d_z = d_h * (N(get)(h_prev + u, n) - new);                               // (4)
    const vec d_n = d_h * (N(set1)(1) - z);                                            // (4)
    N(put)(da + H + u, d_z * N(gate_slope)(&o->gate, o->clip, a_z, z), n);             // (1)
    N(put)(da + 2 * H + u, d_n * N(gate_slope)(&o->candidate, o->clip, a_n, new), n);  // (3)
    N(put)(dh + u, d_h * z, n);
    N(put)(dq + u, N(zero)(), n);
  }
}

// As gru_before_row_backward, from the pre-activations a; with dropout, h_prev and dh are what the
// products take and its gradient.
static void N(gru_before_options_row_backward)(const N(Choices) * o, Units own, const real* a,
                                               const real* h_prev, const real* dq, real* dh,
                                               real* da) {
  EACH_UNIT(own) {
    const vec a_r = N(get)(a + u, n), d_q = N(get)(dq + u, n);
    const vec r = N(gate)(&o->gate, o->clip, a_r);
    N(put)(dh + u, N(fma)(d_q, r, N(get)(dh + u, n)), n);
    const vec d_r = d_q * N(get)(h_prev + u, n);
    N(put)(da + u, d_r * N(gate_slope)(&o->gate, o->clip, a_r, r), n);  // (2)
  }
}

static void N(gru_before_options_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const N(Choices) o = N(choices)(p);
  N(recur_noisy)(s, t);
  for (idx i = 0; i < s->n; i++) {
    real* a = N(pre_at)(s, t, s->b[i]);
    N(gru_before_options_row_q)(&o, s->own, a, N(seen_at)(s, t, s->b[i]));
  }
  N(multiply_q)(s, t, 2);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_before_options_row)(&o, s->own, N(pre_at)(s, t, b), N(h_before)(p, t, b),
                              N(h_at)(p, t, b));
  }
  N(mix)(s, t);
}

static void N(gru_before_options_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const N(Choices) o = N(choices)(p);
  N(unmix)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_before_options_row_backward_n)(&o, s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b),
                                         N(dy_left)(p, t, b), N(dh_at)(p, b), N(dq_at)(s, b),
                                         N(das_at)(p, t, b));
  }
  N(multiply_da_n)(s, t, 2);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_before_options_row_backward)(&o, s->own, N(gates_at)(p, t, b), N(seen_at)(s, t, b),
                                       N(dq_at)(s, b), N(d_seen_at)(s, b), N(das_at)(p, t, b));
  }
  N(recur_noisy_backward)(s, t);
  N(undrop)(s);
}

static const N(Loops) N(gru_before_options) = {
    .cell = {.name = "gru-before",
             .functions = 2,
             .options = "activations clip",
             .gates = 3,
             .saved = 4,
             .first_gates = 2,
             .has_U = 1,
             .scratch = 1,      // dq
             .sums_gates = 1},  // q
    .step = N(gru_before_options_step),
    .step_backward = N(gru_before_options_step_backward),
    .sum_others = N(gru_before_sum_others),
};
