// The LSTM with layer norm and other options.  Equations: xrnn/cells/lstm_options.py.
//
// "products": a row of pre-activations has W x in the blocks of the G gates and U h in G
// blocks after them, and each is normalised whole; c is normalised before its activation.
// "gates": a row has W x + U h, to which the peepholes are added, and each gate is
// normalised.  The gates are in the order i, f, g, o, or with coupled gates i, g, o.

// One row of a step: where its numbers are, and the norms.
typedef struct {
  N(Choices) o;
  idx H, G;
  int products;
  real* a;                                              // the pre-activations before their norms
  const real *b, *p, *gain, *gain_h, *gain_c, *bias_c;  // the weights; p or null
  N(Norm) norm[4], of_h, of_c;  // of each gate, or [0] of all and of U h; of c
} N(NormedRow);

static INLINE N(NormedRow) N(normed_row)(const N(Slice) * s, real* a) {
  const Pass* p = s->p;
  const Cell* cell = p->cell;
  const int products = cell->norms == PRODUCTS_NORMED, peephole = cell->sums_cs;
  const real* const* extras = (const real* const*)p->extras;
  N(NormedRow) r = {.o = N(choices)(p), .H = p->H, .G = cell->gates, .products = products, .a = a};
  r.b = p->b;
  r.p = peephole ? extras[0] : NULL;
  r.gain = extras[peephole];
  if (products) r.gain_h = extras[1], r.gain_c = extras[2], r.bias_c = extras[3];
  return r;
}

// The normalised pre-activation of the gate in a block.
static INLINE vec N(normed)(const N(NormedRow) * r, idx block, idx u, idx n) {
  const idx at = block * r->H + u;
  const N(Norm) m = r->products ? r->norm[0] : r->norm[block];
  const vec x =
      N(fma)(N(get)(r->gain + at, n), N(unit)(m, N(get)(r->a + at, n)), N(get)(r->b + at, n));
  if (!r->products) return x;
  const vec h = N(unit)(r->of_h, N(get)(r->a + r->G * r->H + at, n));
  return N(fma)(N(get)(r->gain_h + at, n), h, x);
}

// Computes the norms of i, f and g.
static void N(norms_before_c)(N(NormedRow) * r) {
  if (r->products) {
    r->norm[0] = N(norm_of)(r->a, r->G * r->H, EPS_PRODUCTS);
    r->of_h = N(norm_of)(r->a + r->G * r->H, r->G * r->H, EPS_PRODUCTS);
  } else {
    for (idx k = 0; k + 1 < r->G; k++) r->norm[k] = N(norm_of)(r->a + k * r->H, r->H, EPS_GATES);
  }
}

// Computes the norms of o and c.
static void N(norms_after_c)(N(NormedRow) * r, const real* c) {
  const idx last = r->G - 1;
  if (r->products)
    r->of_c = N(norm_of)(c, r->H, EPS_PRODUCTS);
  else
    r->norm[last] = N(norm_of)(r->a + last * r->H, r->H, EPS_GATES);
}

// The gates before c, and c, of some units; as LSTMUnits.
static INLINE N(LSTMUnits)
    N(normed_units)(const N(NormedRow) * r, const real* c_prev, idx u, idx n) {
  N(LSTMUnits) s = {.old = N(get)(c_prev + u, n)};
  s.a_i = N(normed)(r, 0, u, n);
  s.i = N(gate)(&r->o.gate, r->o.clip, s.a_i);
  s.f = N(set1)(1) - s.i;
  if (r->G == 4) {
    s.a_f = N(normed)(r, 1, u, n);
    s.f = N(gate)(&r->o.gate, r->o.clip, s.a_f);
  }
  s.a_g = N(normed)(r, r->G - 2, u, n);
  s.g = N(gate)(&r->o.candidate, r->o.clip, s.a_g);
  s.raw = N(fma)(s.f, s.old, s.i * s.g);
  s.c = N(limited)(s.raw, r->o.cell_clip);
  return s;
}

// What the activation of c takes.
static INLINE vec N(normed_c)(const N(NormedRow) * r, vec c, idx u, idx n) {
  if (!r->products) return c;
  return N(fma)(N(get)(r->gain_c + u, n), N(unit)(r->of_c, c), N(get)(r->bias_c + u, n));
}

// Adds p_k ⊙ c to the pre-activations in a block.
static void N(look)(const N(NormedRow) * r, Units own, idx block, idx k, const real* c) {
  real* a = r->a + block * r->H;
  const real* p = r->p + k * r->H;
  EACH_UNIT(own) N(put)(a + u, N(fma)(N(get)(p + u, n), N(get)(c + u, n), N(get)(a + u, n)), n);
}

// One row of the forward pass: c [H], which may be c_prev, and h [H].
static void N(lstm_norm_row)(N(NormedRow) * r, Units own, const real* c_prev, real* c, real* h) {
  const idx last = r->G - 1;
  if (r->p)
    for (idx k = 0; k < r->G - 2; k++) N(look)(r, own, k, k, c_prev);
  N(norms_before_c)(r);
  EACH_UNIT(own) N(put)(c + u, N(normed_units)(r, c_prev, u, n).c, n);
  if (r->p) N(look)(r, own, last, last - 1, c);
  N(norms_after_c)(r, c);
  EACH_UNIT(own) {
    const vec o = N(gate)(&r->o.gate, r->o.clip, N(normed)(r, last, u, n));
    N(put)(h + u, o * N(activate)(&r->o.output, N(normed_c)(r, N(get)(c + u, n), u, n)), n);
  }
}

// The first part of a row of the backward pass: from the gradient of h those of o's pre-activation,
// of what the activation of c takes, and c itself [H] each.
static void N(lstm_norm_row_backward_o)(N(NormedRow) * r, Units own, const real* c_prev,
                                        const real* dy, real* dh, real* c, real* da_o, real* d_c) {
  N(norms_before_c)(r);
  EACH_UNIT(own) N(put)(c + u, N(normed_units)(r, c_prev, u, n).c, n);
  N(norms_after_c)(r, c);
  EACH_UNIT(own) {
    const vec a = N(normed)(r, r->G - 1, u, n), o = N(gate)(&r->o.gate, r->o.clip, a);
    const vec seen = N(normed_c)(r, N(get)(c + u, n), u, n), y = N(activate)(&r->o.output, seen);
    const vec d_h = dy ? N(get)(dh + u, n) + N(get)(dy + u, n) : N(get)(dh + u, n);
    N(put)(da_o + u, d_h * y * N(gate_slope)(&r->o.gate, r->o.clip, a, o), n);
    N(put)(d_c + u, d_h * o * N(slope)(&r->o.output, seen, y), n);
    N(put)(dh + u, N(zero)(), n);
  }
}

// The second part: from the gradients of c, in d_c what comes from h, those of the other gates.
static void N(lstm_norm_row_backward)(const N(NormedRow) * r, Units own, const real* c_prev,
                                      const real* d_c, real* dc, real* da) {
  const idx H = r->H, g_at = (r->G - 2) * H;
  EACH_UNIT(own) {
    const N(LSTMUnits) s = N(normed_units)(r, c_prev, u, n);
    const vec d =
        N(limited_backward)(s.raw, r->o.cell_clip, N(get)(dc + u, n) + N(get)(d_c + u, n));
    const vec d_i = d * (r->G == 4 ? s.g : s.g - s.old);
    N(put)(da + u, d_i * N(gate_slope)(&r->o.gate, r->o.clip, s.a_i, s.i), n);
    if (r->G == 4)
      N(put)(da + H + u, d * s.old * N(gate_slope)(&r->o.gate, r->o.clip, s.a_f, s.f), n);
    N(put)(da + g_at + u, d * s.i * N(gate_slope)(&r->o.candidate, r->o.clip, s.a_g, s.g), n);
    N(put)(dc + u, d * s.f, n);
  }
}

// d += p_k ⊙ da.
static void N(look_backward)(const N(NormedRow) * r, Units own, idx k, const real* da, real* d) {
  const real* p = r->p + k * r->H;
  EACH_UNIT(own) N(put)(d + u, N(fma)(N(get)(p + u, n), N(get)(da + u, n), N(get)(d + u, n)), n);
}

// A row of the backward pass; see lstm_row_backward.  `dn` [G·H] and `c`, `d_c` [H] are memory.
static void N(lstm_norm_whole_backward)(N(NormedRow) * r, Units own, const real* c_prev,
                                        const real* dy, real* dh, real* dc, real* da, real* dn,
                                        real* c, real* d_c, real* sums) {
  const idx H = r->H, GH = r->G * H, last = r->G - 1;
  real* const gains = sums + GH;
  N(lstm_norm_row_backward_o)(r, own, c_prev, dy, dh, c, dn + last * H, d_c);
  if (r->products) {
    N(add_to)(d_c, H, gains + 2 * GH + H);  // of bias_c
    N(norm_backward)(r->of_c, r->gain_c, H, c, d_c, d_c, gains + 2 * GH);
    N(lstm_norm_row_backward)(r, own, c_prev, d_c, dc, dn);
    N(norm_backward)(r->norm[0], r->gain, GH, r->a, dn, da, gains);
    N(norm_backward)(r->of_h, r->gain_h, GH, r->a + GH, dn, da + GH, gains + GH);
  } else {
    // da may be the memory of a, whose norms of i, f, g are computed, and whose o is not read
    // later.
    N(norm_backward)(r->norm[last], r->gain + last * H, H, r->a + last * H, dn + last * H,
                     da + last * H, gains + last * H);
    if (r->p) N(look_backward)(r, own, last - 1, da + last * H, d_c);
    N(lstm_norm_row_backward)(r, own, c_prev, d_c, dc, dn);
    for (idx k = 0; k < last; k++)
      N(norm_backward)(r->norm[k], r->gain + k * H, H, r->a + k * H, dn + k * H, da + k * H,
                       gains + k * H);
    if (r->p)
      for (idx k = 0; k < last - 1; k++) N(look_backward)(r, own, k, da + k * H, dc);
  }
  N(add_to)(dn, GH, sums);
}

static void N(lstm_norm_step)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const Cell* cell = p->cell;
  N(recur_noisy)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    real* a = N(pre_at)(s, t, b);
    N(NormedRow) r = N(normed_row)(s, a);
    N(lstm_norm_row)(&r, s->own, N(c_before)(p, t, b), N(c_at)(p, t, b),
                     cell->projects ? a + (cell->saved - 1) * p->H : N(h_at)(p, t, b));
  }
  if (cell->projects) N(project)(s, t);
  N(mix)(s, t);
}

static void N(lstm_norm_step_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  const Cell* cell = p->cell;
  const idx G = cell->gates, first = cell->projects != 0;
  N(unmix)(s, t);
  if (cell->projects) N(project_backward)(s, t);
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    N(NormedRow) r = N(normed_row)(s, (real*)N(gates_at)(p, t, b));
    N(lstm_norm_whole_backward)(
        &r, s->own, N(c_before)(p, t, b), cell->projects ? NULL : N(dy_left)(p, t, b),
        cell->projects ? N(dm_at)(s, b) : N(dh_at)(p, b), N(dc_at)(p, b), N(das_at)(p, t, b),
        N(scratch_at)(s, first + 2, G, b), N(scratch_at)(s, first, 1, b),
        N(scratch_at)(s, first + 1, 1, b), N(rows_at)(p, b));
  }
  N(recur_noisy_backward)(s, t);
  N(undrop)(s);
}

static int N(lstm_norm_sum_others)(const Pass* p) {
  N(sum_rows)(p, p->cell->sums_cs);
  return N(lstm_options_sum_others)(p);
}

// A cell with G gates and Q peepholes; `projection` and `products` are 0 or 1.
#define LSTM_NORMED(loops, G, Q, projection, products, words, ...)                       \
  static const N(Loops) N(loops) = {                                                     \
      .cell = {.name = "lstm",                                                           \
               .functions = 3,                                                           \
               .options = "activations clip cell_clip " words,                           \
               .gates = G,                                                               \
               .saved = (1 + products) * G + projection,                                 \
               .first_gates = G,                                                         \
               .has_U = 1,                                                               \
               .has_c = 1,                                                               \
               .U_at = products * G,                                                     \
               .extras = {__VA_ARGS__},                                                  \
               .projects = projection * (products ? 5 : 2 + (Q > 0)),                    \
               .norms = products ? PRODUCTS_NORMED : GATES_NORMED,                       \
               .norm_sums = products ? 3 * G + 2 : 2 * G,                                \
               .scratch = projection + 2 + G, /* dm, c, d_c, the gradients of G gates */ \
               .sums_gates = projection,      /* m */                                    \
               .sums_cs = Q > 0},                                                        \
      .step = N(lstm_norm_step),                                                         \
      .step_backward = N(lstm_norm_step_backward),                                       \
      .sum_others = N(lstm_norm_sum_others)};
#define GAINS(G) {"gain_x", G, 0}, {"gain_h", G, 0}, {"gain_c", 1, 0}, {"bias_c", 1, 0}
#define PROJECTION {"P", 0, 1}
LSTM_NORMED(lstm_products, 4, 0, 0, 1, "layer_norm=products", GAINS(4))
LSTM_NORMED(lstm_products_p, 4, 0, 1, 1, "layer_norm=products proj_size", GAINS(4), PROJECTION)
LSTM_NORMED(lstm_coupled_products, 3, 0, 0, 1, "coupled layer_norm=products", GAINS(3))
LSTM_NORMED(lstm_coupled_products_p, 3, 0, 1, 1, "coupled layer_norm=products proj_size", GAINS(3),
            PROJECTION)
LSTM_NORMED(lstm_gates, 4, 0, 0, 0, "layer_norm=gates", {"gain", 4, 0})
LSTM_NORMED(lstm_gates_p, 4, 0, 1, 0, "layer_norm=gates proj_size", {"gain", 4, 0}, PROJECTION)
LSTM_NORMED(lstm_coupled_gates, 3, 0, 0, 0, "coupled layer_norm=gates", {"gain", 3, 0})
LSTM_NORMED(lstm_coupled_gates_p, 3, 0, 1, 0, "coupled layer_norm=gates proj_size", {"gain", 3, 0},
            PROJECTION)
LSTM_NORMED(lstm_peephole_gates, 4, 3, 0, 0, "peephole layer_norm=gates", {"p", 3, 0},
            {"gain", 4, 0})
LSTM_NORMED(lstm_peephole_gates_p, 4, 3, 1, 0, "peephole layer_norm=gates proj_size", {"p", 3, 0},
            {"gain", 4, 0}, PROJECTION)
LSTM_NORMED(lstm_coupled_peephole_gates, 3, 2, 0, 0, "coupled peephole layer_norm=gates",
            {"p", 2, 0}, {"gain", 3, 0})
LSTM_NORMED(lstm_coupled_peephole_gates_p, 3, 2, 1, 0,
            "coupled peephole layer_norm=gates proj_size", {"p", 2, 0}, {"gain", 3, 0}, PROJECTION)
#undef GAINS
#undef PROJECTION
#undef LSTM_NORMED
