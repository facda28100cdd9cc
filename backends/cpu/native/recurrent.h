// Whole sequences, forward and back, and single steps, of every cell.  See Pass in native.h.
//
// Threads share the sequences of a batch: each runs its own from end to end, and none waits.  Of
// too few sequences they share the units of a row, and at every step wait for the others' h.
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

// Up to so many rows of x and h are multiplied by weights as they lie; for more they are packed,
// unless they have been.
#define FEW 2

// The shares of all threads of a pass, and their memory.
typedef struct {
  const Pass* p;
  int n, back, by_units;
  idx ahead;  // steps whose W x + b are made at once
  N(Slice) * slices;
  Barrier barrier;
} N(Run);

// The next `bytes` at `*at`, which goes on.  From 0 on it counts what is needed.
static void* N(take)(uintptr_t* at, size_t bytes) {
  void* here = (void*)*at;
  *at += (bytes + 63) / 64 * 64;
  return here;
}

// Gates whose U h is made at once: all, but of the GRUs r and z first, then n.
static idx N(gates_together)(const Pass* p, int part) {
  const int gru = p->cell == GRU || p->cell == GRU_BEFORE;
  if (!has_U(p->cell)) return 0;
  return part == 0 ? (gru ? 2 : GATES[p->cell]) : gru;
}

// The slice's units of `gates` gates from the first-th on: rows of w [·, k]; sums start with bias.
static N(Packed)
    N(rows_of)(Units own, const void* w, idx k, idx first, idx gates, const void* bias) {
  if (gates == 0) return (N(Packed)){0};
  const int whole = own.to - own.from == own.H;
  return (N(Packed)){.w = (const real*)w + (first * own.H + own.from) * k,
                     .ld = k,
                     .groups = whole ? 1 : gates,
                     .stride = own.H,
                     .n = whole ? gates * own.H : own.to - own.from,
                     .k = k,
                     .bias = bias ? (const real*)bias + own.from : NULL};
}

// And back: what those gates of all units send to the slice's, columns of U.
static N(Packed) N(columns_of)(Units own, const void* U, idx first, idx gates) {
  if (gates == 0) return (N(Packed)){0};
  return (N(Packed)){.w = (const real*)U + first * own.H * own.H + own.from,
                     .ld = own.H,
                     .columns = 1,
                     .groups = 1,
                     .n = own.to - own.from,
                     .k = gates * own.H};
}

// The slice's products, without panels as yet.
static void N(products)(N(Slice) * s, int back) {
  const Pass* p = s->p;
  const idx some = N(gates_together)(p, 0), rest = N(gates_together)(p, 1);
  if (back) {
    s->u[0] = N(columns_of)(s->own, p->U, 0, some);
    s->u[1] = N(columns_of)(s->own, p->U, some, rest);
  } else {
    s->w = N(rows_of)(s->own, p->W, p->I, 0, GATES[p->cell], p->b);
    s->u[0] = N(rows_of)(s->own, p->U, p->H, 0, some, NULL);
    s->u[1] = N(rows_of)(s->own, p->U, p->H, some, rest, p->cell == GRU ? p->v : NULL);
  }
}

// And their panels, at `*at`.
static void N(take_panels)(N(Slice) * s, uintptr_t* at) {
  N(Packed)* const all[] = {&s->w, &s->u[0], &s->u[1]};
  for (int i = 0; i < 3; i++)
    if (all[i]->groups) all[i]->panels = N(take)(at, sizeof(real) * N(panels_size)(all[i]));
}

static void N(pack_all)(N(Slice) * s, Team* team) {
  N(pack)(&s->w, team);
  N(pack)(&s->u[0], team);
  N(pack)(&s->u[1], team);
}

static size_t N(prepack)(const Pass* p, void* memory) {
  uintptr_t at = (uintptr_t)memory;
  N(Slice) s = {.p = p, .own = {0, p->H, p->H}};
  N(products)(&s, 0);
  N(take_panels)(&s, &at);
  if (memory) N(pack_all)(&s, NULL);
  return at - (uintptr_t)memory;
}

// Lay out everything from `at` on; returns the end.
static uintptr_t N(lay_out)(N(Run) * run, uintptr_t at) {
  const Pass* p = run->p;
  const int counting = at == 0, n = run->n, back = run->back, by_units = run->by_units;
  const idx H = p->H, most = by_units ? p->B : (p->B + n - 1) / n, width = SAVED[p->cell] * H;
  run->ahead = AHEAD / (sizeof(real) * most * width);
  if (run->ahead * most < 2 * TALL) run->ahead = (2 * TALL + most - 1) / most;
  if (run->ahead > p->T) run->ahead = p->T;
  if (back) run->ahead = 1;
  const int few = !back && p->T * p->B <= FEW;
  uintptr_t packed = by_units ? 0 : (uintptr_t)p->panels;
  const int needs_room = back ? p->cell == GRU_BEFORE : !p->gates && width != H;
  run->slices = N(take)(&at, sizeof(N(Slice)) * n);
  N(Slice) s = {.p = p, .b1 = p->B, .own = {0, H, H}, .others = &run->barrier};
  const idx rows = run->ahead * most;
  for (int i = 0; i < n; i++) {
    if (by_units) {
      s.own.from = share_start(H, L, i, n);
      s.own.to = share_start(H, L, i + 1, n);
    } else {
      s.b0 = share_start(p->B, 1, i, n);
      s.b1 = share_start(p->B, 1, i + 1, n);
    }
    if (by_units || i == 0) {
      N(products)(&s, back);
      if (packed || !few) N(take_panels)(&s, packed ? &packed : &at);
    }
    s.b = N(take)(&at, sizeof(idx) * most);
    s.x = N(take)(&at, sizeof(real*) * rows);
    s.y = N(take)(&at, sizeof(real*) * rows);
    if (needs_room && !(by_units && i)) s.room = N(take)(&at, sizeof(real) * rows * width);
    if (!counting) run->slices[i] = s;
  }
  return at;
}

// How many of the team share what.  Units, where too few rows a thread would pay for reading all
// weights.
static void N(share_out)(N(Run) * run) {
  const Pass* p = run->p;
  const double flops = 2.0 * GATES[p->cell] * p->H * (p->I + p->H) * p->T * p->B;
  const int sequences = at_most(worth(p->team, flops), p->B);
  const double most = most_by_units(p), vectors = (p->H + L - 1) / L;
  const int units = p->team ? at_most(p->team->n, most < vectors ? most : vectors) : 1;
  run->by_units = units > 1 && units >= sequences && p->B < 2 * TALL * units;
  run->n = run->by_units ? units : sequences;
  run->barrier.n = run->by_units ? units : 1;
}

// All of it, both ways.
static int N(run)(const Pass* p, int back, void (*share)(void*, int, int)) {
  N(Run) run = {.p = p, .back = back};
  N(share_out)(&run);
  void* memory = room(N(lay_out)(&run, 0));
  if (!memory) return -1;
  N(lay_out)(&run, (uintptr_t)memory);
  if (!run.by_units && !p->panels) N(pack_all)(run.slices, p->team);
  parallel(p->team, run.n, share, &run);
  free(memory);
  if (p->sharing) *p->sharing = run.by_units ? -run.n : run.n;
  return 0;
}

// ---- Forward

// pre = W x + b for the run's steps from s->t0 to t1, of the sequences that have them, own units.
static void N(affine)(N(Slice) * s, idx t1) {
  const Pass* p = s->p;
  idx rows = 0;
  for (idx t = s->t0; t < t1; t++)
    for (idx b = s->b0; b < s->b1; b++)
      if (t < N(steps)(p, b)) {
        s->x[rows] = (const real*)p->xs + N(at)(p, t, b, p->I);
        s->y[rows++] = N(pre_at)(s, t, b) + s->own.from;
      }
  N(multiply)(&s->w, rows, s->x, s->y);
}

static void N(step_at)(N(Slice) * s, idx t) {
  N(meet)(s, t);
  if (s->u[0].groups) {
    N(together)(s);
    N(recur)(s, &s->u[0], t, 0);
  }
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
  if (has_c(p->cell) && p->cs)
    memcpy((real*)p->c_last + at, steps ? N(c_at)(p, last, b) : (const real*)p->c0 + at, row);
}

static void N(forward_share)(void* data, int i, int n) {
  N(Run)* run = data;
  N(Slice)* s = &run->slices[i];
  const Pass* p = s->p;
  (void)n;
  if (run->by_units) N(pack_all)(s, NULL);
  if (has_c(p->cell) && !p->cs)
    for (idx b = s->b0; b < s->b1; b++)
      memcpy((real*)p->c_last + b * p->H + s->own.from, (const real*)p->c0 + b * p->H + s->own.from,
             (s->own.to - s->own.from) * sizeof(real));
  for (idx done = 0; done < p->T; done += run->ahead) {
    const idx to = done + run->ahead < p->T ? done + run->ahead : p->T;
    s->t0 = p->reverse ? p->T - to : done;
    N(together)(s);
    N(affine)(s, s->t0 + to - done);
    for (idx j = done; j < to; j++) N(step_at)(s, p->reverse ? p->T - 1 - j : j);
  }
  N(together)(s);
  if (s->own.from > 0) return;
  for (idx b = s->b0; b < s->b1; b++) N(end)(p, b);
  N(clear_padding)(p, p->ys, p->H, s->b0, s->b1);
  // Behind the end no q was made, and dU will multiply it by 0.
  if (p->cell == GRU_BEFORE && p->gates) N(clear_padding)(p, p->gates, 4 * p->H, s->b0, s->b1);
}

static int N(forward)(const void* pass) {
  const Pass* p = pass;
  return p->B ? N(run)(p, 0, N(forward_share)) : 0;
}

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
  if (!s->u[0].groups) return;
  N(together)(s);
  N(recur_back)(s, &s->u[0], t, 0);
  if (s->p->cell == GRU) N(recur_back)(s, &s->u[1], t, 3 * s->p->H);
}

static void N(backward_share)(void* data, int i, int n) {
  N(Run)* run = data;
  N(Slice)* s = &run->slices[i];
  const Pass* p = s->p;
  (void)n;
  if (run->by_units) N(pack_all)(s, NULL);
  for (idx j = 0; j < p->T; j++) N(step_back_at)(s, p->reverse ? j : p->T - 1 - j);
  N(together)(s);
  if (s->own.from == 0) N(clear_padding)(p, p->das, SAVED[p->cell] * p->H, s->b0, s->b1);
}

static int N(backward)(const void* pass) {
  const Pass* p = pass;
  if (p->T == 0 || p->B == 0) return N(nothing)(p);
  return N(run)(p, 1, N(backward_share)) ? -1 : N(sums)(p);
}

#undef AHEAD
#undef FEW
