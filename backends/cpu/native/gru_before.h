// The gated recurrent unit, reset before the product, once the products are made.
// Equations: xrnn/cells/gru_before.py.

// One row, forward, up to what U_n multiplies.
// a       [4H]  in: pre-activations of r and z; out: r, z, as it was, q = r ⊙ h_prev
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

// And the rest.
// a       [4H]  in: r, z, the pre-activation of n, q; out: r, z, n, q
// h_prev  [H]   h  [H] out
static void N(gru_before_row)(Units own, real* a, const real* h_prev, real* h) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const vec z = N(get)(a + H + u, n), new = N(vtanh)(N(get)(a + 2 * H + u, n));  // (3)
    N(put)(a + 2 * H + u, new, n);
    N(put)(h + u, N(fma)(z, N(get)(h_prev + u, n), (N(set1)(1) - z) * new), n);  // (4)
  }
}

// One row, back, up to what U_nᵀ multiplies.
// gates   [4H]  r, z, n, q      da  [4H] may be gates; out: as it was, da_z, da_n, as it was
// h_prev  [H]                   dy  [H] or null: gradient of the output of this step
// dh      [H]   in: what later steps send to h; out: what passes by z
// dq      [H]   out: 0, to which the caller adds U_nᵀ da_n
static void N(gru_before_row_back_n)(Units own, const real* gates, const real* h_prev,
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

// And the rest: da_r from dq; to dh what passes by q.  The caller adds U_rzᵀ (da_r, da_z).
static void N(gru_before_row_back)(Units own, const real* gates, const real* h_prev, const real* dq,
                                   real* dh, real* da) {
  EACH_UNIT(own) {
    const vec r = N(get)(gates + u, n), d_q = N(get)(dq + u, n);
    N(put)(dh + u, N(fma)(d_q, r, N(get)(dh + u, n)), n);
    N(put)(da + u, d_q * N(get)(h_prev + u, n) * N(sigmoid_slope)(r), n);  // (2)
  }
}

// All sequences that have step t.
static void N(gru_before_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const idx H = p->H;
  for (idx i = 0; i < s->n; i++) {
    real* a = N(pre_at)(s, t, s->b[i]);
    N(gru_before_row_q)(s->own, a, N(h_before)(p, t, s->b[i]));
    s->x[i] = a + 3 * H;
    s->y[i] = a + 2 * H + s->own.from;
  }
  N(together)(s);
  N(multiply)(&s->u[1], s->n, s->x, s->y);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_before_row)(s->own, N(pre_at)(s, t, b), N(h_before)(p, t, b), N(h_at)(p, t, b));
  }
}

static void N(gru_before_step_back)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const idx H = p->H;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    real *da = N(das_at)(p, t, b), *dq = s->room + (b - s->b0) * H;
    N(gru_before_row_back_n)(s->own, (const real*)p->gates + N(at)(p, t, b, 4 * H),
                             N(h_before)(p, t, b), N(dy_at)(p, t, b), (real*)p->dh + b * H, dq, da);
    s->x[i] = da + 2 * H;
    s->y[i] = dq + s->own.from;
  }
  N(together)(s);
  N(multiply)(&s->u[1], s->n, s->x, s->y);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_before_row_back)(s->own, (const real*)p->gates + N(at)(p, t, b, 4 * H),
                           N(h_before)(p, t, b), s->room + (b - s->b0) * H, (real*)p->dh + b * H,
                           N(das_at)(p, t, b));
  }
}
