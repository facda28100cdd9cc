// Whole sequences, forward and back, and single steps, of every cell.  See Pass in native.h.
//
// Threads share the sequences of a batch: each runs its own from end to end, and none waits.
#include "rows.h"
#include "slice.h"
#include "lstm.h"
#include "gru.h"
#include "gru_before.h"
#include "rnn.h"
#include "sums.h"

// Bytes of pre-activations W x + b that are made before the steps that take them: many enough
// for the product to read W once for many rows, few enough to be near when they are taken.
#define AHEAD (256 * 1024)

// Up to so many rows a single step multiplies by weights as they lie; for more it packs them.
#define FEW 2

// The shares of all threads of a pass, and the memory that they take.
typedef struct {
  const Pass* p;
  idx ahead;  // steps whose W x + b are made at once
  N(Slice) * slices;
} N(Run);

// The next `bytes` at `*at`, which goes on.  From 0 on it counts what is needed.
static void* N(take)(uintptr_t* at, size_t bytes) {
  void* here = (void*)*at;
  *at += (bytes + 63) / 64 * 64;
  return here;
}

// Rows of U that are multiplied together: those of all gates, but of the GRUs those of r and z
// first, then those of n.
static idx N(rows_together)(const Pass* p, int part) {
  const int gru = p->cell == GRU || p->cell == GRU_BEFORE;
  if (p->cell == INPUT_GATED) return 0;
  return part == 0 ? (gru ? 2 : GATES[p->cell]) * p->H : gru ? p->H : 0;
}

// Lay out everything from `at` on for n threads; returns the end.
static uintptr_t N(lay_out)(N(Run) * run, int n, int back, uintptr_t at) {
  const Pass* p = run->p;
  const int counting = at == 0;
  const idx H = p->H, most = (p->B + n - 1) / n, width = N(blocks)(p) * H;
  N(Packed) w = {GATES[p->cell] * H, p->I, NULL, p->b}, u[2];
  if (!back) w.panels = N(take)(&at, sizeof(real) * N(panels_size)(w.n, w.k));
  for (int part = 0; part < 2; part++) {
    const idx rows = N(rows_together)(p, part);
    u[part] = (N(Packed)){back ? (rows ? H : 0) : rows, back ? rows : H, NULL, NULL};
    u[part].panels = N(take)(&at, sizeof(real) * N(panels_size)(u[part].n, u[part].k));
  }
  if (p->cell == GRU && !back) u[1].bias = p->v;
  run->ahead = AHEAD / (sizeof(real) * most * width);
  if (run->ahead * most < 2 * TALL) run->ahead = (2 * TALL + most - 1) / most;
  if (run->ahead > p->T) run->ahead = p->T;
  if (back) run->ahead = 1;
  const int needs_room = back ? p->cell == GRU_BEFORE : !p->gates && width != H;
  run->slices = N(take)(&at, sizeof(N(Slice)) * n);
  for (int i = 0; i < n; i++) {
    N(Slice) s = {.p = p, .w = w, .u = {u[0], u[1]}, .room_rows = run->ahead * most};
    s.b0 = share_start(p->B, 1, i, n);
    s.b1 = share_start(p->B, 1, i + 1, n);
    s.b = N(take)(&at, sizeof(idx) * most);
    s.x = N(take)(&at, sizeof(real*) * s.room_rows);
    s.y = N(take)(&at, sizeof(real*) * s.room_rows);
    if (needs_room) s.room = N(take)(&at, sizeof(real) * s.room_rows * width);
    if (!counting) run->slices[i] = s;
  }
  return at;
}

// Memory for n threads, or null.  To be freed.
static void* N(prepare)(N(Run) * run, int n, int back) {
  void* memory = room(N(lay_out)(run, n, back, 0));
  if (memory) N(lay_out)(run, n, back, (uintptr_t)memory);
  return memory;
}

// ---- Forward

// pre = W x + b for the run's steps from s->t0 to t1, of the sequences that have them.
static void N(affine)(N(Slice) * s, idx t1) {
  const Pass* p = s->p;
  idx rows = 0;
  for (idx t = s->t0; t < t1; t++)
    for (idx b = s->b0; b < s->b1; b++)
      if (t < N(steps)(p, b)) {
        s->x[rows] = (const real*)p->xs + N(at)(p, t, b, p->I);
        s->y[rows++] = N(pre_at)(s, t, b);
      }
  N(multiply)(&s->w, rows, s->x, s->y);
}

static void N(step_at)(N(Slice) * s, idx t) {
  N(meet)(s, t);
  switch (s->p->cell) {
    case GRU:
      N(gru_step)(s, t);
      break;
    case GRU_BEFORE:
      N(gru_before_step)(s, t);
      break;
    case LSTM:
    case INPUT_GATED:
      N(lstm_step)(s, t);
      break;
    default:
      N(rnn_step)(s, t);
  }
}

// The state after the last step of sequence b, and zeros behind its end.
static void N(end)(const Pass* p, idx b) {
  const size_t row = p->H * sizeof(real);
  const idx steps = N(steps)(p, b), last = p->reverse ? 0 : steps - 1, at = b * p->H;
  if (p->h_last && p->h_last != p->ys)  // of a step they are the same
    memcpy((real*)p->h_last + at, steps ? N(h_at)(p, last, b) : (const real*)p->h0 + at, row);
  if (p->cs)
    memcpy((real*)p->c_last + at, steps ? N(c_at)(p, last, b) : (const real*)p->c0 + at, row);
}

static void N(forward_share)(void* data, int i, int n) {
  N(Run)* run = data;
  N(Slice)* s = &run->slices[i];
  const Pass* p = s->p;
  if (p->c0 && !p->cs)
    memcpy((real*)p->c_last + s->b0 * p->H, (const real*)p->c0 + s->b0 * p->H,
           (s->b1 - s->b0) * p->H * sizeof(real));
  for (idx done = 0; done < p->T; done += run->ahead) {
    const idx to = done + run->ahead < p->T ? done + run->ahead : p->T;
    s->t0 = p->reverse ? p->T - to : done;
    N(affine)(s, s->t0 + to - done);
    for (idx j = done; j < to; j++) N(step_at)(s, p->reverse ? p->T - 1 - j : j);
  }
  for (idx b = s->b0; b < s->b1; b++) N(end)(p, b);
  N(clear_padding)(p, p->ys, p->H, s->b0, s->b1);
  // Behind the end no q was made, and dU will multiply it by 0.
  if (p->cell == GRU_BEFORE && p->gates) N(clear_padding)(p, p->gates, 4 * p->H, s->b0, s->b1);
  (void)n;
}

// One step of few rows, by the weights as they lie: the very sums of a whole sequence.
static int N(few)(const Pass* p) {
  const idx H = p->H, I = p->I, G = GATES[p->cell], blocks = N(blocks)(p);
  const real* U = p->U;
  real* own = NULL;
  if (blocks > 1 && !p->gates) {
    own = room(blocks * H * sizeof(real));
    if (!own) return -1;
  }
  for (idx b = 0; b < p->B; b++) {
    const real *x = (const real*)p->xs + b * I, *h_prev = (const real*)p->h0 + b * H;
    real* h = (real*)p->ys + b * H;
    real* a = blocks == 1 ? h : own ? own : (real*)p->gates + b * 4 * H;
    const int keep = p->gates != NULL;
    N(multiply_unpacked)(G * H, I, p->W, p->b, x, a);
    N(multiply_unpacked)(N(rows_together)(p, 0), H, U, a, h_prev, a);
    switch (p->cell) {
      case GRU:
        N(multiply_unpacked)(H, H, U + 2 * H * H, p->v, h_prev, a + 3 * H);
        N(gru_row)(H, a, keep, h_prev, h);
        break;
      case GRU_BEFORE:
        N(gru_before_row_q)(H, a, h_prev);
        N(multiply_unpacked)(H, H, U + 2 * H * H, a + 2 * H, a + 3 * H, a + 2 * H);
        N(gru_before_row)(H, a, h_prev, h);
        break;
      case LSTM:
      case INPUT_GATED:
        N(lstm_row)(H, a, keep, (const real*)p->c0 + b * H,
                    (real*)(p->cs ? p->cs : p->c_last) + b * H, h);
        break;
      default:
        N(rnn_row)(p->cell, H, h);
    }
    N(end)(p, b);
  }
  free(own);
  return 0;
}

static int N(forward)(const Pass* p) {
  if (p->B == 0) return 0;
  if (p->T == 1 && p->B <= FEW && !p->lengths) return N(few)(p);
  const double flops = 2.0 * p->T * p->B * GATES[p->cell] * p->H * (p->I + p->H);
  const int threads = worth(p->threads < p->B ? p->threads : (int)p->B, flops);
  const int n = threads < MAX_THREADS ? threads : MAX_THREADS;
  N(Run) run = {.p = p};
  void* memory = N(prepare)(&run, n, 0);
  if (!memory) return -1;
  const N(Slice)* s = run.slices;
  N(pack)(&s->w, p->W, p->I, 0, p->threads);
  N(pack)(&s->u[0], p->U, p->H, 0, p->threads);
  if (s->u[1].n) N(pack)(&s->u[1], (const real*)p->U + 2 * p->H * p->H, p->H, 0, p->threads);
  parallel(n, N(forward_share), &run);
  free(memory);
  return 0;
}

static int N(step)(const Pass* p) { return N(forward)(p); }

// ---- Back

static void N(step_back_at)(N(Slice) * s, idx t) {
  N(meet)(s, t);
  switch (s->p->cell) {
    case GRU:
      N(gru_step_back)(s, t);
      break;
    case GRU_BEFORE:
      N(gru_before_step_back)(s, t);
      break;
    case LSTM:
    case INPUT_GATED:
      N(lstm_step_back)(s, t);
      break;
    default:
      N(rnn_step_back)(s, t);
  }
}

static void N(backward_share)(void* data, int i, int n) {
  N(Run)* run = data;
  N(Slice)* s = &run->slices[i];
  const Pass* p = s->p;
  for (idx j = 0; j < p->T; j++) N(step_back_at)(s, p->reverse ? j : p->T - 1 - j);
  N(clear_padding)(p, p->das, N(blocks)(p) * p->H, s->b0, s->b1);
  (void)n;
}

static int N(backward)(const Pass* p) {
  if (p->T == 0 || p->B == 0) return N(nothing)(p);
  const double flops = 2.0 * p->T * p->B * GATES[p->cell] * p->H * p->H;
  const int threads = worth(p->threads < p->B ? p->threads : (int)p->B, flops);
  const int n = threads < MAX_THREADS ? threads : MAX_THREADS;
  N(Run) run = {.p = p};
  void* memory = N(prepare)(&run, n, 1);
  if (!memory) return -1;
  const N(Slice)* s = run.slices;
  N(pack)(&s->u[0], p->U, p->H, 1, p->threads);
  if (s->u[1].n) N(pack)(&s->u[1], (const real*)p->U + 2 * p->H * p->H, p->H, 1, p->threads);
  parallel(n, N(backward_share), &run);
  free(memory);
  return N(sums)(p);
}

#undef AHEAD
#undef FEW
