// The gated recurrent unit with the reset gate after the product, with options: activation
// functions and a limit.  Equations: xrnn/cells/gru.py.  See gru.h.

// The pre-activations of some units, and what follows from them.
typedef struct {
  vec a_r, a_z, a_n, m, r, z, new;
} N(GRUUnits);

// From the pre-activations of r and z, W_n x + b_n and m: all values of n units from unit u on.
static INLINE N(GRUUnits) N(gru_units)(const N(Choices) * o, idx H, idx u, idx n, const real* a) {
  N(GRUUnits) s = {.a_r = N(get)(a + u, n), .a_z = N(get)(a + H + u, n)};
  s.m = N(get)(a + 3 * H + u, n);
  s.r = N(gate)(&o->gate, o->clip, s.a_r);  // (1)
  s.z = N(gate)(&o->gate, o->clip, s.a_z);  // (2)
  s.a_n = N(fma)(s.r, s.m, N(get)(a + 2 * H + u, n));
  s.new = N(gate)(&o->candidate, o->clip, s.a_n);  // (3)
  return s;
}

static void N(gru_options_row)(const N(Choices) * o, Units own, const real* a, const real* h_prev,
                               real* h) {
  EACH_UNIT(own) {
    const N(GRUUnits) s = N(gru_units)(o, own.H, u, n, a);
    N(put)(h + u, N(fma)(s.z, N(get)(h_prev + u, n), (N(set1)(1) - s.z) * s.new), n);  // (4)
  }
}

// As gru_row_backward, from the pre-activations a.
static void N(gru_options_row_backward)(const N(Choices) * o, Units own, const real* a,
                                        const real* h_prev, const real* dy, real* dh, real* da) {
  const idx H = own.H;
  EACH_UNIT(own) {
    const N(GRUUnits) s = N(gru_units)(o, H, u, n, a);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec d_z = d_h * (N(get)(h_prev + u, n) - s.new);                         // (4)
    const vec d_n = d_h * (N(set1)(1) - s.z);                                      // (4)
    const vec da_n = d_n * N(gate_slope)(&o->candidate, o->clip, s.a_n, s.new);    // (3)
    N(put)(da + u, da_n * s.m * N(gate_slope)(&o->gate, o->clip, s.a_r, s.r), n);  // (1)
    N(put)(da + H + u, d_z * N(gate_slope)(&o->gate, o->clip, s.a_z, s.z), n);     // (2)
    N(put)(da + 2 * H + u, da_n, n);
    N(put)(da + 3 * H + u, da_n * s.r, n);
    N(put)(dh + u, d_h * s.z, n);
  }
}

static void N(gru_options_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const N(Choices) o = N(choices)(p);
  N(recur_noisy)(s, t);
  N(recur_seen)(s, 1, t, 3);  // m
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_options_row)(&o, s->own, N(pre_at)(s, t, b), N(h_before)(p, t, b), N(h_at)(p, t, b));
  }
  N(mix)(s, t);
}

static void N(gru_options_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const N(Choices) o = N(choices)(p);
  N(unmix)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_options_row_backward)(&o, s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b),
                                N(dy_left)(p, t, b), N(dh_at)(p, b), N(das_at)(p, t, b));
  }
  N(recur_noisy_backward)(s, t);
  N(recur_seen_backward)(s, 1, t, 3);  // dm
  N(undrop)(s);
}

static const N(Loops) N(gru_options) = {
    .cell = {.name = "gru",
             .functions = 2,
             .options = "activations clip",
             .gates = 3,
             .saved = 4,
             .first_gates = 2,
             .has_U = 1,
             .extras = {{"v", 1, 0}},
             .bias_of_others = 1},
    .step = N(gru_options_step),
    .step_backward = N(gru_options_step_backward),
    .sum_others = N(gru_sum_others),
};
