// The simple recurrent networks: Elman with tanh and with ReLU.  Equations: xrnn/cells/elman.py.

// One row of the forward pass.
// h  [H]  in: the pre-activation; out: the output
static INLINE void N(rnn_row)(const int relu, Units own, real* h) {
  EACH_UNIT(own) {
    const vec a = N(get)(h + u, n);
    N(put)(h + u, relu ? N(vmax)(N(zero)(), a) : N(vtanh)(a), n);  // (2), (1)
  }
}

// One row of the backward pass.
// h   [H]  the output
// dy  [H]  the gradient of the output of this step alone, or null
// dh  [H]  in: the gradient of h from later steps; out: 0, to which the caller adds Uᵀ da
// da  [H]  out
static INLINE void N(rnn_row_backward)(const int relu, Units own, const real* h, const real* dy,
                                       real* dh, real* da) {
  EACH_UNIT(own) {
    const vec y = N(get)(h + u, n);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec slope = relu ? N(positive)(y, N(set1)(1), N(zero)()) : N(tanh_slope)(y);
    N(put)(da + u, d_h * slope, n);
    N(put)(dh + u, N(zero)(), n);
  }
}

static INLINE void N(rnn_step)(const int relu, N(Slice) * s, idx t) {
  N(recur_first_gates)(s, t);
  for (idx i = 0; i < s->n; i++) N(rnn_row)(relu, s->own, N(h_at)(s->p, t, s->b[i]));
}

static INLINE void N(rnn_step_backward)(const int relu, N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(rnn_row_backward)(relu, s->own, N(h_at)(p, t, b), N(dy_at)(p, t, b), N(dh_at)(p, b),
                        N(das_at)(p, t, b));
  }
  N(recur_first_gates_backward)(s, t);
}

static void N(rnn_tanh_step)(N(Slice) * s, idx t) { N(rnn_step)(0, s, t); }
static void N(rnn_tanh_step_backward)(N(Slice) * s, idx t) { N(rnn_step_backward)(0, s, t); }
static void N(rnn_relu_step)(N(Slice) * s, idx t) { N(rnn_step)(1, s, t); }
static void N(rnn_relu_step_backward)(N(Slice) * s, idx t) { N(rnn_step_backward)(1, s, t); }

static const N(Loops) N(rnn_tanh) = {
    .cell = {.name = "rnn", .gates = 1, .saved = 0, .first_gates = 1, .has_U = 1},
    .step = N(rnn_tanh_step),
    .step_backward = N(rnn_tanh_step_backward),
};

static const N(Loops) N(rnn_relu) = {
    .cell = {.name = "rnn-relu", .gates = 1, .saved = 0, .first_gates = 1, .has_U = 1},
    .step = N(rnn_relu_step),
    .step_backward = N(rnn_relu_step_backward),
};
