// What a thread needs to run some sequences of a pass through time.

// The sequences from b0 to b1 of a pass, of them the units `own`.
typedef struct {
  const Pass* p;
  idx b0, b1;
  Units own;
  Barrier* others;  // who have the other units
  N(Packed) w;      // W, for W x + b
  N(Packed) u[2];   // U, forward or transposed: all gates; of the GRUs r and z, then n
  idx n;            // how many of the sequences have the present step, and
  idx* b;           // [b1 - b0] which
  const real** x;   // [rows] operands of a product, and
  real** y;         // [rows] where it goes
  real* room;       // pre-activations of some steps from t0 on, where they are not kept
  idx t0;
} N(Slice);

// To be called before reading what others wrote, and before writing what they may still read.
static INLINE void N(together)(N(Slice) * s) { wait_for_all(s->others); }

static INLINE idx N(steps)(const Pass* p, idx b) { return p->lengths ? (idx)p->lengths[b] : p->T; }

// Where the row of step t, sequence b is in an array [T, B, n].
static INLINE idx N(at)(const Pass* p, idx t, idx b, idx n) { return (t * p->B + b) * n; }

// The state of sequence b before step t: that of the step before, or the first one.
static INLINE const real* N(before)(const Pass* p, const void* first, const void* all, idx t,
                                    idx b) {
  const idx start = p->reverse ? N(steps)(p, b) - 1 : 0;
  if (t == start) return (const real*)first + b * p->H;
  return (const real*)all + N(at)(p, p->reverse ? t + 1 : t - 1, b, p->H);
}

static INLINE const real* N(h_before)(const Pass* p, idx t, idx b) {
  return N(before)(p, p->h0, p->ys, t, b);
}

static INLINE real* N(h_at)(const Pass* p, idx t, idx b) {
  return (real*)p->ys + N(at)(p, t, b, p->H);
}

// Of a pass that keeps nothing, c runs in c_last.
static INLINE const real* N(c_before)(const Pass* p, idx t, idx b) {
  return p->cs ? N(before)(p, p->c0, p->cs, t, b) : (const real*)p->c_last + b * p->H;
}

static INLINE real* N(c_at)(const Pass* p, idx t, idx b) {
  return p->cs ? (real*)p->cs + N(at)(p, t, b, p->H) : (real*)p->c_last + b * p->H;
}

static INLINE real* N(das_at)(const Pass* p, idx t, idx b) {
  return (real*)p->das + N(at)(p, t, b, SAVED[p->cell] * p->H);
}

static INLINE const real* N(dy_at)(const Pass* p, idx t, idx b) {
  return p->dys ? (const real*)p->dys + N(at)(p, t, b, p->H) : NULL;
}

// Where the pre-activations of step t, sequence b are made: where the gates are kept, or the
// output, or in room for some steps.
static INLINE real* N(pre_at)(const N(Slice) * s, idx t, idx b) {
  const Pass* p = s->p;
  if (SAVED[p->cell] == 1) return N(h_at)(p, t, b);
  if (p->gates) return (real*)p->gates + N(at)(p, t, b, 4 * p->H);
  return s->room + ((t - s->t0) * (s->b1 - s->b0) + b - s->b0) * 4 * p->H;
}

// Set down which sequences have step t.
static INLINE void N(meet)(N(Slice) * s, idx t) {
  s->n = 0;
  for (idx b = s->b0; b < s->b1; b++)
    if (t < N(steps)(s->p, b)) s->b[s->n++] = b;
}

// For all sequences that have step t, own units of pre[from …] = (bias, or what stands there)
// + u h_before.
static INLINE void N(recur)(N(Slice) * s, const N(Packed) * u, idx t, idx from) {
  for (idx i = 0; i < s->n; i++) {
    s->x[i] = N(h_before)(s->p, t, s->b[i]);
    s->y[i] = N(pre_at)(s, t, s->b[i]) + from + s->own.from;
  }
  N(multiply)(u, s->n, s->x, s->y);
}

// And back: dh += uᵀ das[from …].
static INLINE void N(recur_back)(N(Slice) * s, const N(Packed) * u, idx t, idx from) {
  for (idx i = 0; i < s->n; i++) {
    s->x[i] = N(das_at)(s->p, t, s->b[i]) + from;
    s->y[i] = (real*)s->p->dh + s->b[i] * s->p->H + s->own.from;
  }
  N(multiply)(u, s->n, s->x, s->y);
}

// Walk units of a row, a vector at a time: u is the first, n how many.
#define EACH_UNIT(own) for (idx u = (own).from, n; n = (own).to - u, u < (own).to; u += L)

static INLINE vec N(tanh_slope)(vec y) { return N(set1)(1) - y * y; }
static INLINE vec N(sigmoid_slope)(vec y) { return y * (N(set1)(1) - y); }
