// The LSTM with peepholes.  Equations: xrnn/cells/peephole.py.

// One row of the forward pass.
// a       [4H]  in: the pre-activations of i, f, g, o without the peepholes; out, if `keep`: the
//               gates
// p       [3H]  p_i, p_f, p_o
// c_prev  [H]
// c       [H]   out, may be c_prev
// h       [H]   out
static void N(peephole_row)(Units own, real* a, int keep, const real* p, const real* c_prev,
                            real* c, real* h) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec old = N(get)(c_prev + u, n);
    const vec i = N(vsigmoid)(N(fma)(N(get)(p + u, n), old, N(get)(a + u, n)));          // (1)
    const vec f = N(vsigmoid)(N(fma)(N(get)(p + H + u, n), old, N(get)(a + H + u, n)));  // (2)
    const vec g = N(vtanh)(N(get)(a + 2 * H + u, n));                                    // (3)
    const vec new = N(fma)(f, old, i * g);                                               // (4)
    const vec o =
        N(vsigmoid)(N(fma)(N(get)(p + 2 * H + u, n), new, N(get)(a + 3 * H + u, n)));  // (5)
    N(put)(c + u, new, n);
    N(put)(h + u, o * N(vtanh)(new), n);  // (6)
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
// p          [3H]
// c_prev, c  [H]
// dy         [H]   the gradient of the output of this step alone, or null
// dh         [H]   in: the gradient of h from later steps; out: 0, to which the caller adds Uᵀ da
// dc         [H]   in: the gradient of c from later steps; out: the gradient of c_prev
// da         [4H]  out, may be the same memory as gates
static void N(peephole_row_backward)(Units own, const real* gates, const real* p,
                                     const real* c_prev, const real* c, const real* dy, real* dh,
                                     real* dc, real* da) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec i = N(get)(gates + u, n), f = N(get)(gates + H + u, n);
    const vec g = N(get)(gates + 2 * H + u, n), o = N(get)(gates + 3 * H + u, n);
    const vec tanh_c = N(vtanh)(N(get)(c + u, n));
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec da_o = d_h * tanh_c * N(sigmoid_slope)(o);                  // (6), (5)
    vec d_c = N(fma)(d_h * o, N(tanh_slope)(tanh_c), N(get)(dc + u, n));  // (6)
    d_c = N(fma)(N(get)(p + 2 * H + u, n), da_o, d_c);                    // (5)
    const vec da_f = d_c * N(get)(c_prev + u, n) * N(sigmoid_slope)(f);   // (4), (2)
    const vec da_i = d_c * g * N(sigmoid_slope)(i);                       // (4), (1)
    N(put)(da + 3 * H + u, da_o, n);
    N(put)(da + 2 * H + u, d_c * i * N(tanh_slope)(g), n);  // (4), (3)
    N(put)(da + H + u, da_f, n);
    N(put)(da + u, da_i, n);
    const vec seen = N(fma)(N(get)(p + H + u, n), da_f, N(get)(p + u, n) * da_i);  // (2), (1)
    N(put)(dc + u, N(fma)(d_c, f, seen), n);                                       // (4)
    N(put)(dh + u, N(zero)(), n);
  }
}

static void N(peephole_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  N(recur_first_gates)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(peephole_row)(s->own, N(pre_at)(s, t, b), p->gates != NULL, p->extras[0],
                    N(c_before)(p, t, b), N(c_at)(p, t, b), N(h_at)(p, t, b));
  }
}

static void N(peephole_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(peephole_row_backward)(s->own, N(gates_at)(p, t, b), p->extras[0], N(c_before)(p, t, b),
                             N(c_at)(p, t, b), N(dy_at)(p, t, b), N(dh_at)(p, b), N(dc_at)(p, b),
                             N(das_at)(p, t, b));
  }
  N(recur_first_gates_backward)(s, t);
}

// dp_i = Σ_t da_i,t ⊙ c_(t-1), dp_f = Σ_t da_f,t ⊙ c_(t-1), dp_o = Σ_t da_o,t ⊙ c_t.
static int N(peephole_sum_others)(const Pass* p) {
  const idx H = p->H;
  real* dp = p->dextras[0];
  N(sum_with_c_before)(p, 0, dp);
  N(sum_with_c_before)(p, H, dp + H);
  N(sum_with_c)(p, 3 * H, dp + 2 * H);
  return 0;
}

static const N(Loops) N(peephole) = {
    .cell = {.name = "peephole",
             .gates = 4,
             .saved = 4,
             .first_gates = 4,
             .has_U = 1,
             .has_c = 1,
             .extras = {{"p", 3, 0}},
             .sums_cs = 1},
    .step = N(peephole_step),
    .step_backward = N(peephole_step_backward),
    .sum_others = N(peephole_sum_others),
};
