// The gated recurrent unit with the reset gate after the product.  Equations: xrnn/cells/gru.py.
//
// The product m = U_n h_prev + v is multiplied by r, so it is kept in a block of its own, apart
// from W_n x + b_n: a row of pre-activations has 4 blocks for the 3 gates.

// One row of the forward pass.
// a       [4H]  in: the pre-activations of r and z, W_n x + b_n, m; out, if `keep`: r, z, n, m
// h_prev  [H]
// h       [H]   out
static void N(gru_row)(Units own, real* a, int keep, const real* h_prev, real* h) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec r = N(vsigmoid)(N(get)(a + u, n));      // (1)
    const vec z = N(vsigmoid)(N(get)(a + H + u, n));  // (2)
    const vec m = N(get)(a + 3 * H + u, n);
    const vec new = N(vtanh)(N(fma)(r, m, N(get)(a + 2 * H + u, n)));            // (3)
    N(put)(h + u, N(fma)(z, N(get)(h_prev + u, n), (N(set1)(1) - z) * new), n);  // (4)
    if (keep) {
      N(put)(a + u, r, n);
      N(put)(a + H + u, z, n);
      N(put)(a + 2 * H + u, new, n);
    }
  }
}

// One row of the backward pass.
// gates   [4H]  r, z, n, m
// h_prev  [H]
// dy      [H]   the gradient of the output of this step alone, or null
// dh      [H]   in: the gradient of h from later steps; out: the part of the gradient of h_prev
//               that comes from (4), to which the caller adds Uᵀ (da_r, da_z, dm)
// da      [4H]  out: da_r, da_z, da_n, dm; may be the same memory as gates
static void N(gru_row_backward)(Units own, const real* gates, const real* h_prev, const real* dy,
                                real* dh, real* da) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec r = N(get)(gates + u, n), z = N(get)(gates + H + u, n);
    const vec new = N(get)(gates + 2 * H + u, n), m = N(get)(gates + 3 * H + u, n);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec d_z = d_h * (N(get)(h_prev + u, n) - new);           // (4)
    const vec da_n = d_h * (N(set1)(1) - z) * N(tanh_slope)(new);  // (3)
    N(put)(da + u, da_n * m * N(sigmoid_slope)(r), n);             // (1)
    N(put)(da + H + u, d_z * N(sigmoid_slope)(z), n);              // (2)
    N(put)(da + 2 * H + u, da_n, n);
    N(put)(da + 3 * H + u, da_n * r, n);
    N(put)(dh + u, d_h * z, n);
  }
}

static void N(gru_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  N(recur_first_gates)(s, t);
  N(recur)(s, 1, t, 3);  // m
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_row)(s->own, N(pre_at)(s, t, b), p->gates != NULL, N(h_before)(p, t, b),
               N(h_at)(p, t, b));
  }
}

static void N(gru_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_row_backward)(s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b), N(dy_at)(p, t, b),
                        N(dh_at)(p, b), N(das_at)(p, t, b));
  }
  N(recur_first_gates_backward)(s, t);
  N(recur_backward)(s, 1, t, 3);  // dm
}

// dU_n = Σ_t dm_tᵀ h_prev, dv = Σ_t dm_t.
static int N(gru_sum_others)(const Pass* p) {
  const idx H = p->H;
  const int status = N(sum_U)(p, H, 3 * H, (real*)p->dU + 2 * H * H);
  N(sum_das)(p, 3 * H, H, p->dextras[0]);
  return status;
}

static const N(Loops) N(gru) = {
    .cell = {.name = "gru",
             .gates = 3,
             .saved = 4,
             .first_gates = 2,
             .has_U = 1,
             .extras = {{"v", 1, 0}},
             .bias_of_others = 1},
    .step = N(gru_step),
    .step_backward = N(gru_step_backward),
    .sum_others = N(gru_sum_others),
};
