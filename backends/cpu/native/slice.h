// The part of a pass that one thread computes, and the functions that the cells use for one time
// step of it.

struct N(Loops);

// The sequences b0 to b1 (exclusive) of a pass, and of each of them the hidden units `own`.
typedef struct {
  const Pass* p;
  const struct N(Loops) * loops;  // the functions of the cell
  idx b0, b1;
  Units own, out;  // `out` are those of the values of h: `own`, or with a projection all P
  Barrier* peers;  // shared with the threads that compute the other units of these sequences
  // The product with W, and those with U (in the backward pass with its transpose): u[0] for the
  // first gates (Cell.first_gates), u[1] for the others; and u[2] that with the projection.
  Packed w;
  Packed u[3];
  idx n;           // the number of sequences that have the current time step, and
  idx* b;          // [b1 - b0] their indices
  const void** x;  // [rows] the operands of a product, and
  void** y;        // [rows] where its results go
  void* operands;  // the memory for operands in the form in which products take them
  // In the forward pass, the pre-activations of some steps from t0 on, if they are not kept; in the
  // backward pass, the memory that the cell needs (Cell.scratch).
  real* scratch;
  real* noise;  // the memory for dropout and zoneout (NOISE_ROWS)
  idx t0;
  Watch watch;
} N(Slice);

// What the engine needs to know of a cell: its properties, and its functions for one instruction
// set and one real type.  Each cell defines one of these at the end of its header.
typedef struct N(Loops) {
  Cell cell;
  // One time step of all sequences that have it.  Before the call, the pre-activations (pre_at)
  // are W x + b.
  void (*step)(N(Slice) * s, idx t);
  // The same step in the backward pass: turns dh and dc from the gradients of the state after the
  // step into those of the state before it, and writes the gradients of the pre-activations (das).
  void (*step_backward)(N(Slice) * s, idx t);
  // Null unless there are gates after the first ones (Cell.first_gates), or weights besides W, U
  // and b: computes their gradients after the last step of the backward pass.  Returns 0, or -1 if
  // there is not enough memory.
  int (*sum_others)(const Pass* p);
} N(Loops);

// Waits for the threads that compute the other units.  This is necessary before reading what they
// wrote, and before overwriting what they may still read.  If the call is stopped, the time step
// has no more sequences; returns whether it has.
static INLINE int N(barrier)(N(Slice) * s) {
  const int goes_on = barrier_wait(s->peers, &s->watch);
  if (!goes_on) s->n = 0, s->watch.left = 0;
  return goes_on;
}

// To be called before each time step.  Returns whether to stop instead.
static INLINE int N(stopped)(N(Slice) * s) {
  const Pass* p = s->p;
  const idx rows = p->cell->gates * (s->own.to - s->own.from) * s->n;
  return stopped(&s->watch, 500.0 + (double)(rows * (2 * (p->I + p->H) + 50)));
}

static INLINE idx N(steps)(const Pass* p, idx b) { return p->lengths ? (idx)p->lengths[b] : p->T; }

// The offset of the row for time step t and sequence b in an array [T, B, n].
static INLINE idx N(at)(const Pass* p, idx t, idx b, idx n) { return (t * p->B + b) * n; }

// The state (n values) of sequence b before time step t: that of the step before, or the initial
// one.
static INLINE const real* N(before)(const Pass* p, const void* first, const void* all, idx t, idx b,
                                    idx n) {
  const idx start = p->reverse ? N(steps)(p, b) - 1 : 0;
  if (t == start) return (const real*)first + b * n;
  return (const real*)all + N(at)(p, p->reverse ? t + 1 : t - 1, b, n);
}

static INLINE const real* N(h_before)(const Pass* p, idx t, idx b) {
  return N(before)(p, p->h0, p->ys, t, b, p->P);
}

static INLINE real* N(h_at)(const Pass* p, idx t, idx b) {
  return (real*)p->ys + N(at)(p, t, b, p->P);
}

// If the pass does not keep c for the backward pass, c_last holds its current value.
static INLINE const real* N(c_before)(const Pass* p, idx t, idx b) {
  return p->cs ? N(before)(p, p->c0, p->cs, t, b, p->H) : (const real*)p->c_last + b * p->H;
}

static INLINE real* N(c_at)(const Pass* p, idx t, idx b) {
  return p->cs ? (real*)p->cs + N(at)(p, t, b, p->H) : (real*)p->c_last + b * p->H;
}

static INLINE real* N(dh_at)(const Pass* p, idx b) { return (real*)p->dh + b * p->P; }

static INLINE real* N(dc_at)(const Pass* p, idx b) { return (real*)p->dc + b * p->H; }

static INLINE const real* N(dy_at)(const Pass* p, idx t, idx b) {
  return p->dys ? (const real*)p->dys + N(at)(p, t, b, p->P) : NULL;
}

static INLINE const real* N(gates_at)(const Pass* p, idx t, idx b) {
  return (const real*)p->gates + N(at)(p, t, b, p->cell->saved * p->H);
}

static INLINE real* N(das_at)(const Pass* p, idx t, idx b) {
  return (real*)p->das + N(at)(p, t, b, row_blocks(p->cell) * p->H);
}

// Where the pre-activations of time step t and sequence b are computed: in the output if the cell
// saves no gates, else in `gates` if they are kept, else in the scratch memory.
static INLINE real* N(pre_at)(const N(Slice) * s, idx t, idx b) {
  const Pass* p = s->p;
  const idx saved = p->cell->saved;
  if (!saved) return N(h_at)(p, t, b);
  if (p->gates) return (real*)p->gates + N(at)(p, t, b, saved * p->H);
  return s->scratch + ((t - s->t0) * (s->b1 - s->b0) + b - s->b0) * saved * p->H;
}

// Finds the sequences that have time step t.
static INLINE void N(active_sequences)(N(Slice) * s, idx t) {
  s->n = 0;
  for (idx b = s->b0; b < s->b1; b++)
    if (t < N(steps)(s->p, b)) s->b[s->n++] = b;
}

static INLINE real* N(noise_at)(const N(Slice) * s, int row, idx b) {
  return s->noise + (row * (s->b1 - s->b0) + b - s->b0) * noise_width(s->p);
}

// y = start + w x for so many rows.  Every second time the panels are read from the last one to the
// first: if they are larger than a cache, it still holds the last ones.
static INLINE void N(multiply_rows)(N(Slice) * s, Packed* m, idx rows) {
  s->p->products->multiply(m, rows, s->x, s->y, s->operands, &s->watch);
  m->backwards = !m->backwards;
}

// What a product with U takes: h, or with dropout a row that noise.h makes; and where its gradient
// is added.
static INLINE const real* N(seen_at)(const N(Slice) * s, idx t, idx b) {
  return s->p->dropout ? N(noise_at)(s, SEEN, b) : N(h_before)(s->p, t, b);
}

static INLINE real* N(d_seen_at)(const N(Slice) * s, idx b) {
  return s->p->dropout ? N(noise_at)(s, D_SEEN, b) : N(dh_at)(s->p, b);
}

// The product of h before time step t and U, for all sequences that have the step and the units of
// this thread.  `part` 0 are the first gates (Cell.first_gates), 1 the others.  The result is
// written to block `to` of the pre-activations and the blocks after it; the sums start from what
// is there, or from the bias.  With `drops`, the product takes what dropout leaves.
static INLINE void N(recur_with)(const int drops, N(Slice) * s, int part, idx t, idx to) {
  for (idx i = 0; i < s->n; i++) {
    s->x[i] = drops ? N(seen_at)(s, t, s->b[i]) : N(h_before)(s->p, t, s->b[i]);
    s->y[i] = N(pre_at)(s, t, s->b[i]) + to * s->own.H + s->own.from;
  }
  N(multiply_rows)(s, &s->u[part], s->n);
}

static INLINE void N(recur)(N(Slice) * s, int part, idx t, idx to) {
  N(recur_with)(0, s, part, t, to);
}

static INLINE void N(recur_seen)(N(Slice) * s, int part, idx t, idx to) {
  N(recur_with)(1, s, part, t, to);
}

// The same in the backward pass: adds to dh the product of U transposed and the blocks of das from
// block `from` on.
static INLINE void N(recur_backward_with)(const int drops, N(Slice) * s, int part, idx t,
                                          idx from) {
  for (idx i = 0; i < s->n; i++) {
    s->x[i] = N(das_at)(s->p, t, s->b[i]) + from * s->own.H;
    s->y[i] = (drops ? N(d_seen_at)(s, s->b[i]) : N(dh_at)(s->p, s->b[i])) + s->out.from;
  }
  N(multiply_rows)(s, &s->u[part], s->n);
}

static INLINE void N(recur_backward)(N(Slice) * s, int part, idx t, idx from) {
  N(recur_backward_with)(0, s, part, t, from);
}

static INLINE void N(recur_seen_backward)(N(Slice) * s, int part, idx t, idx from) {
  N(recur_backward_with)(1, s, part, t, from);
}

// The product of h and U for the first gates, which most cells need before anything else.  Cells
// without U can call it too: it does nothing then.
static INLINE void N(recur_first_gates)(N(Slice) * s, idx t) {
  if (!s->p->cell->has_U) return;
  N(barrier)(s);  // h comes from all threads
  N(recur)(s, 0, t, 0);
}

// The same in the backward pass, which most cells need after everything else.
static INLINE void N(recur_first_gates_backward)(N(Slice) * s, idx t) {
  if (!s->p->cell->has_U) return;
  N(barrier)(s);  // das come from all threads
  N(recur_backward)(s, 0, t, 0);
}

// A loop over hidden units, one vector at a time: u is the first unit of the vector, n the number
// of units from it to the end.
#define EACH_UNIT(own) for (idx u = (own).from, n; n = (own).to - u, u < (own).to; u += L)

static INLINE vec N(tanh_slope)(vec y) { return N(set1)(1) - y * y; }
static INLINE vec N(sigmoid_slope)(vec y) { return y * (N(set1)(1) - y); }
