// The LSTM with options: activation functions, limits, coupled gates, peepholes.
// The numbers below are those of xrnn/cells/lstm.py.
//
// With coupled gates f = 1 - i, and the gates are i, g, o.  The weight p holds p_i, p_f, p_o, or
// with coupled gates p_i, p_o.  `coupled` and `peephole` are constants.
//
// With a projection, what is called h below is m, see projection.h.

// The pre-activations of some units, and what follows from them.
typedef struct {
  vec a_i, a_f, a_g, a_o, i, f, g, o;
  vec old, raw, c, y;  // c_prev; c without and with its limit; the activation of c
} N(LSTMUnits);

// From the pre-activations a without the peepholes: all values of n units from unit u on.
static INLINE N(LSTMUnits)
    N(lstm_units)(const int coupled, const int peephole, const N(Choices) * o, idx H, idx u, idx n,
                  const real* a, const real* p, const real* c_prev) {
  const idx g_at = (coupled ? 1 : 2) * H + u, last = coupled ? 1 : 2;
  N(LSTMUnits) s = {.old = N(get)(c_prev + u, n)};
  s.a_i = N(get)(a + u, n);
  if (peephole) s.a_i = N(fma)(N(get)(p + u, n), s.old, s.a_i);
  s.i = N(gate)(&o->gate, o->clip, s.a_i);  // (1)
  if (coupled) {
    s.f = N(set1)(1) - s.i;  // (2)
  } else {
    s.a_f = N(get)(a + H + u, n);
    if (peephole) s.a_f = N(fma)(N(get)(p + H + u, n), s.old, s.a_f);
    s.f = N(gate)(&o->gate, o->clip, s.a_f);  // (2)
  }
  s.a_g = N(get)(a + g_at, n);
  s.g = N(gate)(&o->candidate, o->clip, s.a_g);  // (3)
  s.raw = N(fma)(s.f, s.old, s.i * s.g);         // (5)
  s.c = N(limited)(s.raw, o->cell_clip);
  s.a_o = N(get)(a + g_at + H, n);
  if (peephole) s.a_o = N(fma)(N(get)(p + last * H + u, n), s.c, s.a_o);
  s.o = N(gate)(&o->gate, o->clip, s.a_o);  // (4)
  s.y = N(activate)(&o->output, s.c);
  return s;
}

// One row of the forward pass: c [H], which may be c_prev, and h [H].
static INLINE void N(lstm_options_row)(const int coupled, const int peephole, const N(Choices) * o,
                                       Units own, const real* a, const real* p, const real* c_prev,
                                       real* c, real* h) {
  EACH_UNIT(own) {
    const N(LSTMUnits) s = N(lstm_units)(coupled, peephole, o, own.H, u, n, a, p, c_prev);
    N(put)(c + u, s.c, n);
    N(put)(h + u, s.o * s.y, n);  // (6)
  }
}

// One row of the backward pass; see lstm_row_backward.  `a` are the pre-activations.
static INLINE void N(lstm_options_row_backward)(const int coupled, const int peephole,
                                                const N(Choices) * o, Units own, const real* a,
                                                const real* p, const real* c_prev, const real* dy,
                                                real* dh, real* dc, real* da) {
  const idx H = own.H, last = coupled ? 1 : 2;
  EACH_UNIT(own) {
    const N(LSTMUnits) s = N(lstm_units)(coupled, peephole, o, H, u, n, a, p, c_prev);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    const vec da_o = d_h * s.y * N(gate_slope)(&o->gate, o->clip, s.a_o, s.o);       // (6), (4)
    vec d_c = N(fma)(d_h * s.o, N(slope)(&o->output, s.c, s.y), N(get)(dc + u, n));  // (6)
    if (peephole) d_c = N(fma)(N(get)(p + last * H + u, n), da_o, d_c);              // (4)
    d_c = N(limited_backward)(s.raw, o->cell_clip, d_c);
    const vec da_g = d_c * s.i * N(gate_slope)(&o->candidate, o->clip, s.a_g, s.g);  // (5), (3)
    const vec d_i = d_c * (coupled ? s.g - s.old : s.g);                             // (5)
    const vec da_i = d_i * N(gate_slope)(&o->gate, o->clip, s.a_i, s.i);             // (1)
    vec d_old = d_c * s.f;                                                           // (5)
    if (peephole) d_old = N(fma)(N(get)(p + u, n), da_i, d_old);
    if (!coupled) {
      const vec da_f = d_c * s.old * N(gate_slope)(&o->gate, o->clip, s.a_f, s.f);  // (5), (2)
      if (peephole) d_old = N(fma)(N(get)(p + H + u, n), da_f, d_old);
      N(put)(da + H + u, da_f, n);
    }
    N(put)(da + u, da_i, n);
    N(put)(da + last * H + u, da_g, n);
    N(put)(da + (last + 1) * H + u, da_o, n);
    N(put)(dc + u, d_old, n);
    N(put)(dh + u, N(zero)(), n);
  }
}

static INLINE void N(lstm_step_with)(const int coupled, const int peephole, N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const int projects = p->cell->projects;
  const N(Choices) o = N(choices)(p);
  N(recur_noisy)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    real* a = N(pre_at)(s, t, b);
    N(lstm_options_row)(coupled, peephole, &o, s->own, a, p->extras[0], N(c_before)(p, t, b),
                        N(c_at)(p, t, b),
                        projects ? a + (p->cell->saved - 1) * p->H : N(h_at)(p, t, b));
  }
  if (projects) N(project)(s, t);
  N(mix)(s, t);
}

static INLINE void N(lstm_step_with_backward)(const int coupled, const int peephole, N(Slice) * s,
                                              idx t) {
  const Pass* p = s->p;
  const int projects = p->cell->projects;
  const N(Choices) o = N(choices)(p);
  N(unmix)(s, t);
  if (projects) N(project_backward)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(lstm_options_row_backward)(coupled, peephole, &o, s->own, N(gates_at)(p, t, b), p->extras[0],
                                 N(c_before)(p, t, b), projects ? NULL : N(dy_left)(p, t, b),
                                 projects ? N(dm_at)(s, b) : N(dh_at)(p, b), N(dc_at)(p, b),
                                 N(das_at)(p, t, b));
  }
  N(recur_noisy_backward)(s, t);
  N(undrop)(s);
}

// As peephole_sum_others.
static void N(coupled_peephole_sum_others)(const Pass* p) {
  real* dp = p->dextras[0];
  N(sum_with_c_before)(p, 0, dp);
  N(sum_with_c)(p, 2 * p->H, dp + p->H);
}

static int N(lstm_options_sum_others)(const Pass* p) {
  const Cell* cell = p->cell;
  if (cell->sums_cs && cell->gates == 4) N(peephole_sum_others)(p);
  if (cell->sums_cs && cell->gates == 3) N(coupled_peephole_sum_others)(p);
  return cell->projects ? N(sum_projection)(p) : 0;
}

#define LSTM_STEPS(steps, coupled, peephole)                                                       \
  static void N(steps##_step)(N(Slice) * s, idx t) { N(lstm_step_with)(coupled, peephole, s, t); } \
  static void N(steps##_step_backward)(N(Slice) * s, idx t) {                                      \
    N(lstm_step_with_backward)(coupled, peephole, s, t);                                           \
  }
LSTM_STEPS(lstm_options, 0, 0)
LSTM_STEPS(lstm_coupled, 1, 0)
LSTM_STEPS(lstm_peephole, 0, 1)
LSTM_STEPS(lstm_coupled_peephole, 1, 1)
#undef LSTM_STEPS

// The cell of these steps, without and with a projection; G gates, and Q peepholes.
#define LSTM_WITH(loops, steps, G, Q, projection, words, ...)                               \
  static const N(Loops) N(loops) = {.cell = {.name = "lstm",                                \
                                             .functions = 3,                                \
                                             .options = "activations clip cell_clip" words, \
                                             .gates = G,                                    \
                                             .saved = G + projection,                       \
                                             .first_gates = G,                              \
                                             .has_U = 1,                                    \
                                             .has_c = 1,                                    \
                                             .extras = {__VA_ARGS__},                       \
                                             .projects = projection * (1 + (Q > 0)),        \
                                             .scratch = projection,    /* dm */             \
                                             .sums_gates = projection, /* m */              \
                                             .sums_cs = Q > 0},                             \
                                    .step = N(steps##_step),                                \
                                    .step_backward = N(steps##_step_backward),              \
                                    .sum_others = N(lstm_options_sum_others)};
#define PROJECTION {"P", 0, 1}
LSTM_WITH(lstm_options, lstm_options, 4, 0, 0, "", {0})
LSTM_WITH(lstm_coupled, lstm_coupled, 3, 0, 0, " coupled", {0})
LSTM_WITH(lstm_peephole, lstm_peephole, 4, 3, 0, " peephole", {"p", 3, 0})
LSTM_WITH(lstm_coupled_peephole, lstm_coupled_peephole, 3, 2, 0, " coupled peephole", {"p", 2, 0})
LSTM_WITH(lstm_p, lstm_options, 4, 0, 1, " proj_size", PROJECTION)
LSTM_WITH(lstm_coupled_p, lstm_coupled, 3, 0, 1, " coupled proj_size", PROJECTION)
LSTM_WITH(lstm_peephole_p, lstm_peephole, 4, 3, 1, " peephole proj_size", {"p", 3, 0}, PROJECTION)
LSTM_WITH(lstm_coupled_peephole_p, lstm_coupled_peephole, 3, 2, 1, " coupled peephole proj_size",
          {"p", 2, 0}, PROJECTION)
#undef PROJECTION
#undef LSTM_WITH
