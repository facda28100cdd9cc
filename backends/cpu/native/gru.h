// The gated recurrent unit, reset after the product, once the products are made.
// Equations: xrnn/cells/gru.py.

// One row, forward.
// a       [4H]  pre-activations of r and z, W_n x + b_n, m = U_n h_prev + v; if `keep`, out:
//               r, z, n, m
// h_prev  [H]   h  [H] out
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

// One row, back.
// gates   [4H]  r, z, n, m      da  [4H] out, may be gates: da_r, da_z, da_n, dm
// h_prev  [H]                   dy  [H] or null: gradient of the output of this step
// dh      [H]   in: what later steps send to h; out: what passes by z, to which the caller adds
//               Uᵀ (da_r, da_z, dm)
static void N(gru_row_back)(Units own, const real* gates, const real* h_prev, const real* dy,
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

// All sequences that have step t.
static void N(gru_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  N(recur)(s, &s->u[1], t, 3 * p->H);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_row)(s->own, N(pre_at)(s, t, b), p->gates != NULL, N(h_before)(p, t, b),
               N(h_at)(p, t, b));
  }
}

static void N(gru_step_back)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_row_back)(s->own, (const real*)p->gates + N(at)(p, t, b, 4 * p->H), N(h_before)(p, t, b),
                    N(dy_at)(p, t, b), (real*)p->dh + b * p->H, N(das_at)(p, t, b));
  }
}
