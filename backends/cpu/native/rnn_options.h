// The simple recurrent network with options: an activation function and a limit.
// Equations: xrnn/cells/elman.py.

static void N(rnn_options_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const N(Choices) o = N(choices)(p);
  N(recur_noisy)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const real* a = N(pre_at)(s, t, s->b[i]);
    real* h = N(h_at)(p, t, s->b[i]);
    EACH_UNIT(s->own) N(put)(h + u, N(gate)(&o.gate, o.clip, N(get)(a + u, n)), n);  // (2), (1)
  }
  N(mix)(s, t);
}

// One row of the backward pass, as rnn_row_backward, from the pre-activation a.
static void N(rnn_options_row_backward)(const N(Choices) * o, Units own, const real* a,
                                        const real* dy, real* dh, real* da) {
  EACH_UNIT(own) {
    const vec pre = N(get)(a + u, n), y = N(gate)(&o->gate, o->clip, pre);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    N(put)(da + u, d_h * N(gate_slope)(&o->gate, o->clip, pre, y), n);
    N(put)(dh + u, N(zero)(), n);
  }
}

static void N(rnn_options_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const N(Choices) o = N(choices)(p);
  N(unmix)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(rnn_options_row_backward)(&o, s->own, N(gates_at)(p, t, b), N(dy_left)(p, t, b),
                                N(dh_at)(p, b), N(das_at)(p, t, b));
  }
  N(recur_noisy_backward)(s, t);
  N(undrop)(s);
}

static const N(Loops) N(rnn_options) = {
    .cell = {.name = "rnn",
             .functions = 1,
             .options = "activations clip",
             .gates = 1,
             .saved = 1,
             .first_gates = 1,
             .has_U = 1},
    .step = N(rnn_options_step),
    .step_backward = N(rnn_options_step_backward),
};
