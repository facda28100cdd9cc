// The projection of h: h = P m, where m are the H values that the cell computes.

// Computes h from m, which is in the last block of a row of pre-activations.
static INLINE void N(project)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    s->x[i] = N(pre_at)(s, t, b) + (p->cell->saved - 1) * p->H;
    s->y[i] = N(h_at)(p, t, b);
    memset(s->y[i], 0, p->P * sizeof(real));
  }
  N(multiply_rows)(s, &s->u[2], s->n);
}

// The gradient of m is in the scratch memory.
static INLINE real* N(dm_at)(const N(Slice) * s, idx b) {
  return s->scratch + (b - s->b0) * s->own.H;
}

// Computes the gradients of m from those of h, which are moved to `dhs`: dh is 0 afterwards.
static INLINE void N(project_backward)(N(Slice) * s, idx t) {
  const Pass* p = s->p;
  for (idx i = 0; i < s->n; i++) {
    const idx b = s->b[i];
    real *dh = N(dh_at)(p, b), *total = (real*)p->dhs + N(at)(p, t, b, p->P);
    const real* dy = N(dy_left)(p, t, b);
    EACH_UNIT(s->out) {
      const vec d_h = N(get)(dh + u, n);
      N(put)(total + u, dy ? d_h + N(get)(dy + u, n) : d_h, n);
      N(put)(dh + u, N(zero)(), n);
    }
    s->x[i] = total;
    s->y[i] = N(dm_at)(s, b);
    memset(s->y[i], 0, p->H * sizeof(real));
  }
  N(multiply_rows)(s, &s->u[2], s->n);
}
