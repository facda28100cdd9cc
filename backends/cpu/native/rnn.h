// The simple recurrent network, once the products are made.  Equations: xrnn/cells/elman.py.

// One row, forward: h [H] in: the pre-activation; out: its curve.
static void N(rnn_row)(int cell, Units own, real* h) {
  EACH_UNIT(own) {
    const vec a = N(get)(h + u, n);
    // (1), (2)
    N(put)(h + u, cell == RNN_TANH ? N(vtanh)(a) : N(vmax)(N(zero)(), a), n);
  }
}

// One row, back.
// h   [H]       da  [H] out      dy  [H] or null: gradient of the output of this step
// dh  [H]  in: what later steps send to h; out: 0, to which the caller adds Uᵀ da
static void N(rnn_row_back)(int cell, Units own, const real* h, const real* dy, real* dh,
                            real* da) {
  EACH_UNIT(own) {
    const vec y = N(get)(h + u, n);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec slope = cell == RNN_TANH ? N(tanh_slope)(y) : N(positive)(y, N(set1)(1), N(zero)());
    N(put)(da + u, d_h * slope, n);
    N(put)(dh + u, N(zero)(), n);
  }
}

// All sequences that have step t.
static void N(rnn_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) N(rnn_row)(p->cell, s->own, N(h_at)(p, t, s->b[i]));
}

static void N(rnn_step_back)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(rnn_row_back)(p->cell, s->own, N(h_at)(p, t, b), N(dy_at)(p, t, b), (real*)p->dh + b * p->H,
                    N(das_at)(p, t, b));
  }
}
