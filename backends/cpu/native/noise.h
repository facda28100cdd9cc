// Dropout of what the products with U take of h, and zoneout, for the cells with options.
// Equations: xrnn/cells/noise.py, xrnn/cells/zoneout.py.
//
// Both are applied around the equations of a cell.  A step is: recur_noisy, what else the cell
// does, mix.  In the backward pass it is: unmix, what the cell does, undrop.

// Computes the rows that the products with U take, d ⊙ h, for the units of this thread.
static INLINE void N(drop_rows)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    const real *d = (const real*)p->dropout + b * p->P, *h = N(h_before)(p, t, b);
    real* seen = N(noise_at)(s, SEEN, b);
    EACH_UNIT(s->out) N(put)(seen + u, N(get)(d + u, n) * N(get)(h + u, n), n);
  }
}

// The product of h, or what is not dropped of it, and U for the first gates.  Keeps the c before
// the step for `mix`.
static INLINE void N(recur_noisy)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  N(barrier)(s);  // h comes from all threads
  if (p->dropout) {
    N(drop_rows)(s, t);
    N(barrier)(s);
  }
  if (zoned(p, 1))
    for (idx i = 0; i < s->n; i++)
      memcpy(N(noise_at)(s, KEPT_C, s->b[i]) + s->own.from,
             N(c_before)(p, t, s->b[i]) + s->own.from, (s->own.to - s->own.from) * sizeof(real));
  N(recur_seen)(s, 0, t, p->cell->U_at);
}

// The same in the backward pass.
static INLINE void N(recur_noisy_backward)(N(Slice) * s, idx t) {
  N(barrier)(s);  // das come from all threads
  N(recur_seen_backward)(s, 0, t, s->p->cell->U_at);
}

// The zoneout z of state k (0: h, 1: c) for sequence b, or null: then it is the rate everywhere.
static INLINE const real* N(zoneout_at)(const Pass* p, int k, idx t, idx b) {
  return p->zoneout[k] ? (const real*)p->zoneout[k] + N(at)(p, t, b, k ? p->H : p->P) : NULL;
}

// new = z ⊙ old + (1 - z) ⊙ new.
static INLINE void N(mix_row)(Units own, const real* z, vec rate, const real* old, real* new) {
  EACH_UNIT(own) {
    const vec k = z ? N(get)(z + u, n) : rate;
    const vec taken = (N(set1)(1) - k) * N(get)(new + u, n);
    N(put)(new + u, N(fma)(k, N(get)(old + u, n), taken), n);
  }
}

// Lets units keep their old state, after all else of a step.
static INLINE void N(mix)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (int k = 0; k < 2; k++) {
    if (!zoned(p, k)) continue;
    const vec rate = N(set1)((real)p->options.zoneout[k]);
    for (idx i = 0; i < s->n; i++) {
      const idx b = s->b[i];
      const real* z = N(zoneout_at)(p, k, t, b);
      if (k)
        N(mix_row)(s->own, z, rate, N(noise_at)(s, KEPT_C, b), N(c_at)(p, t, b));
      else
        N(mix_row)(s->out, z, rate, N(h_before)(p, t, b), N(h_at)(p, t, b));
    }
  }
}

// d = (1 - z) ⊙ d, kept = z ⊙ d, after dy, if it is given, was added to d.
static INLINE void N(unmix_row)(Units own, const real* z, vec rate, const real* dy, real* d,
                                real* kept) {
  EACH_UNIT(own) {
    const vec k = z ? N(get)(z + u, n) : rate;
    const vec whole = dy ? N(get)(d + u, n) + N(get)(dy + u, n) : N(get)(d + u, n);
    N(put)(kept + u, k * whole, n);
    N(put)(d + u, (N(set1)(1) - k) * whole, n);
  }
}

// Before all else of a step of the backward pass: divides the gradients of the states among the
// new values and the old ones.  With dropout it makes ready what the products need.
static INLINE void N(unmix)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (int k = 0; k < 2; k++) {
    if (!zoned(p, k)) continue;
    const vec rate = N(set1)((real)p->options.zoneout[k]);
    for (idx i = 0; i < s->n; i++) {
      const idx b = s->b[i];
      N(unmix_row)(k ? s->own : s->out, N(zoneout_at)(p, k, t, b), rate,
                   k ? NULL : N(dy_at)(p, t, b), k ? N(dc_at)(p, b) : N(dh_at)(p, b),
                   N(noise_at)(s, k ? KEPT_C : KEPT_H, b));
    }
  }
  if (!p->dropout) return;
  N(drop_rows)(s, t);
  for (idx i = 0; i < s->n; i++) {
    real* d = N(noise_at)(s, D_SEEN, s->b[i]);
    EACH_UNIT(s->out) N(put)(d + u, N(zero)(), n);
  }
}

// The gradient of the output of this step alone, unless `unmix` has added it already.
static INLINE const real* N(dy_left)(const Pass* p, idx t, idx b) {
  return zoned(p, 0) ? NULL : N(dy_at)(p, t, b);
}

// d += kept.
static INLINE void N(add_row)(Units own, const real* kept, real* d) {
  EACH_UNIT(own) N(put)(d + u, N(get)(d + u, n) + N(get)(kept + u, n), n);
}

// After all else of a step of the backward pass: adds to the gradients of the old states what comes
// from the products, and what the units kept.
static INLINE void N(undrop)(N(Slice) * s) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    real* dh = N(dh_at)(p, b);
    if (p->dropout) {
      const real *mask = (const real*)p->dropout + b * p->P, *d = N(noise_at)(s, D_SEEN, b);
      EACH_UNIT(s->out)
      N(put)(dh + u, N(fma)(N(get)(mask + u, n), N(get)(d + u, n), N(get)(dh + u, n)), n);
    }
    if (zoned(p, 0)) N(add_row)(s->out, N(noise_at)(s, KEPT_H, b), dh);
    if (zoned(p, 1)) N(add_row)(s->own, N(noise_at)(s, KEPT_C, b), N(dc_at)(p, b));
  }
}
