// The gated recurrent unit with layer norm, other activation functions and a limit.
// Equations: xrnn/cells/gru_options.py.
//
// A row of pre-activations has W x in blocks 0 to 2 and U h in blocks 3 to 5; each is normalised
// whole.  The weights besides W, U and b are v, gain_x, gain_h.

// The norms of a row, and its pre-activations and values, for some units.
typedef struct {
  N(Norm) x, h;
} N(GRUNorms);

static INLINE N(GRUNorms) N(gru_norms)(idx H, const real* a) {
  return (N(GRUNorms)){N(norm_of)(a, 3 * H, EPS_PRODUCTS),
                       N(norm_of)(a + 3 * H, 3 * H, EPS_PRODUCTS)};
}

static INLINE N(GRUUnits) N(gru_normed_units)(const N(Choices) * o, const Pass* p, N(GRUNorms) m,
                                              const real* a, idx u, idx n) {
  const idx H = p->H;
  const real *b = p->b, *v = p->extras[0], *gain_x = p->extras[1], *gain_h = p->extras[2];
  vec x[3], h[3];
  UNROLL for (int k = 0; k < 3; k++) {
    const idx at = k * H + u;
    const vec x_hat = N(unit)(m.x, N(get)(a + at, n));
    x[k] = N(fma)(N(get)(gain_x + at, n), x_hat, N(get)(b + at, n));
    h[k] = N(get)(gain_h + at, n) * N(unit)(m.h, N(get)(a + 3 * H + at, n));
  }
  N(GRUUnits) s = {.a_r = x[0] + h[0], .a_z = x[1] + h[1], .m = h[2] + N(get)(v + u, n)};
  s.r = N(gate)(&o->gate, o->clip, s.a_r);  // (1)
  s.z = N(gate)(&o->gate, o->clip, s.a_z);  // (2)
  s.a_n = N(fma)(s.r, s.m, x[2]);
  s.new = N(gate)(&o->candidate, o->clip, s.a_n);  // (3)
  return s;
}

static void N(gru_norm_row)(const N(Choices) * o, const Pass* p, Units own, const real* a,
                            const real* h_prev, real* h) {
  const N(GRUNorms) m = N(gru_norms)(own.H, a);
  EACH_UNIT(own) {
    const N(GRUUnits) s = N(gru_normed_units)(o, p, m, a, u, n);
    N(put)(h + u, N(fma)(s.z, N(get)(h_prev + u, n), (N(set1)(1) - s.z) * s.new), n);  // (5)
  }
}

// As gru_options_row_backward.  `dx` and `du` [3H] are memory, `sums` what is summed for each
// sequence: the gradients of b, v, gain_x and gain_h.
static void N(gru_norm_row_backward)(const N(Choices) * o, const Pass* p, Units own, const real* a,
                                     const real* h_prev, const real* dy, real* dh, real* da,
                                     real* dx, real* du, real* sums) {
  const idx H = own.H;
  const N(GRUNorms) m = N(gru_norms)(H, a);
  EACH_UNIT(own) {
    const N(GRUUnits) s = N(gru_normed_units)(o, p, m, a, u, n);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec d_z = d_h * (N(get)(h_prev + u, n) - s.new);                       // (5)
    const vec d_n = d_h * (N(set1)(1) - s.z);                                    // (5)
    const vec da_n = d_n * N(gate_slope)(&o->candidate, o->clip, s.a_n, s.new);  // (3)
    const vec da_r = da_n * s.m * N(gate_slope)(&o->gate, o->clip, s.a_r, s.r);  // (1)
    const vec da_z = d_z * N(gate_slope)(&o->gate, o->clip, s.a_z, s.z);         // (2)
    N(put)(dx + u, da_r, n);
    N(put)(du + u, da_r, n);
    N(put)(dx + H + u, da_z, n);
    N(put)(du + H + u, da_z, n);
    N(put)(dx + 2 * H + u, da_n, n);
    N(put)(du + 2 * H + u, da_n * s.r, n);
    N(put)(dh + u, d_h * s.z, n);
  }
  N(add_to)(dx, 3 * H, sums);
  N(add_to)(du + 2 * H, H, sums + 3 * H);
  N(norm_backward)(m.x, p->extras[1], 3 * H, a, dx, da, sums + 4 * H);
  N(norm_backward)(m.h, p->extras[2], 3 * H, a + 3 * H, du, da + 3 * H, sums + 7 * H);
}

static void N(gru_norm_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const N(Choices) o = N(choices)(p);
  N(recur_noisy)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_norm_row)(&o, p, s->own, N(pre_at)(s, t, b), N(h_before)(p, t, b), N(h_at)(p, t, b));
  }
  N(mix)(s, t);
}

static void N(gru_norm_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const N(Choices) o = N(choices)(p);
  N(unmix)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(gru_norm_row_backward)(&o, p, s->own, N(gates_at)(p, t, b), N(h_before)(p, t, b),
                             N(dy_left)(p, t, b), N(dh_at)(p, b), N(das_at)(p, t, b),
                             N(scratch_at)(s, 0, 3, b), N(scratch_at)(s, 3, 3, b),
                             N(rows_at)(p, b));
  }
  N(recur_noisy_backward)(s, t);
  N(undrop)(s);
}

static int N(gru_norm_sum_others)(const Pass* p) {
  N(sum_rows)(p, 0);
  return 0;
}

static const N(Loops) N(gru_norm) = {
    .cell = {.name = "gru",
             .functions = 2,
             .options = "activations clip layer_norm=products",
             .gates = 3,
             .saved = 6,
             .first_gates = 3,
             .has_U = 1,
             .U_at = 3,
             .extras = {{"v", 1, 0}, {"gain_x", 3, 0}, {"gain_h", 3, 0}},
             .norms = PRODUCTS_NORMED,
             .norm_sums = 10,
             .scratch = 6},  // dx, du
    .step = N(gru_norm_step),
    .step_backward = N(gru_norm_step_backward),
    .sum_others = N(gru_norm_sum_others),
};
