// The forward and the backward pass over whole sequences, and single steps, for every cell.  See
// Pass in native.h.
//
// The threads divide the sequences of a batch among them: each computes its own from beginning to
// end without waiting for the others.  If there are too few sequences, the threads divide the
// hidden units instead, and wait at every time step for the h of the others.
#include "slice.h"
#include "sums.h"
#include "noise.h"
#include "norm.h"
#include "projection.h"
#include "cells.h"
#include "storage.h"

// Pre-activations W x + b are computed for several time steps at once, so that W is read once for
// many rows.  They, or the rows of x if these are longer, take about as many bytes as W, but at
// least LEAST_AHEAD and at most MOST_AHEAD: they should still be in a cache when the steps use
// them.
#define LEAST_AHEAD (256 << 10)
#define MOST_AHEAD (2 << 20)

// For up to this many rows of x, the weights are not packed but used as they are stored (unless
// they are packed already), because packing would take longer than the products.
#define FEW 2

// How the threads divide a pass, and the memory of each.
typedef struct {
  const Pass* p;
  int is_backward;
  int n, by_units;  // the number of threads, and whether they divide the hidden units
  int by_panels;    // whether they divide these so that each reads whole panels of a given pack
  idx ahead;        // the number of time steps whose W x + b are computed at once
  N(Slice) * slices;
  Barrier barrier;
} N(Plan);

// Returns the address `*at`, and moves `*at` on by `bytes`, rounded up to a multiple of 64.
// Beginning with 0, this counts how much memory is needed.
static void* N(take)(uintptr_t* at, size_t bytes) {
  void* here = (void*)*at;
  *at += (bytes + 63) / 64 * 64;
  return here;
}

// The product of a vector of k values and the rows of w [·, k] that belong to these units, for
// `gates` gates from the gate `first` on.  The sums start with `bias`, if it is given.  `scales`
// are those of the rows of w, if these are bytes.  w may be null if panels are given.
static Packed N(rows_of)(Units own, const void* w, const float* scales, idx k, idx first, idx gates,
                         const void* bias) {
  if (gates == 0) return (Packed){0};
  const int whole = own.to - own.from == own.H;
  const idx row = first * own.H + own.from, n = whole ? gates * own.H : own.to - own.from;
  return (Packed){.w = w ? (const char*)w + row * k * (idx)(scales ? 1 : sizeof(real)) : NULL,
                  .scales = scales ? scales + row : NULL,
                  .ld = k,
                  .groups = whole ? 1 : gates,
                  .stride = own.H,
                  .n = n,
                  .k = k,
                  .apart = (n + L - 1) / L * L,
                  .bias = bias ? (const real*)bias + own.from : NULL};
}

// The product with the transpose of k rows of w, for the backward pass: from the outputs of these
// rows to the values `out` of what they multiply.
static Packed N(columns_of)(Units out, const real* w, idx k) {
  if (k == 0) return (Packed){0};
  const idx n = out.to - out.from;
  return (Packed){.w = w + out.from,
                  .ld = out.H,
                  .columns = 1,
                  .groups = 1,
                  .n = n,
                  .k = k,
                  .apart = (n + L - 1) / L * L};
}

// Sets the products of the slice, without memory for the packed weights.
static void N(set_products)(N(Slice) * s, int is_backward) {
  const Pass* p = s->p;
  const Cell* cell = p->cell;
  const idx first = cell->has_U ? cell->first_gates : 0;
  const idx others = cell->has_U ? cell->gates - first : 0;
  const real* projection = cell->projects ? p->extras[cell->projects - 1] : NULL;
  if (is_backward) {
    s->u[0] = N(columns_of)(s->out, p->U, first * p->H);
    s->u[1] = N(columns_of)(s->out, (const real*)p->U + first * p->H * p->P, others * p->H);
    s->u[2] = N(columns_of)(s->own, projection, projection ? p->P : 0);
  } else {
    const void* other_bias = cell->bias_of_others ? p->extras[0] : NULL;
    s->w = N(rows_of)(s->own, p->W, p->W_scales, p->I, 0, cell->gates, cell->norms ? NULL : p->b);
    s->w.wide = 1;
    s->u[0] = N(rows_of)(s->own, p->U, p->U_scales, p->P, 0, first, NULL);
    s->u[1] = N(rows_of)(s->own, p->U, p->U_scales, p->P, first, others, other_bias);
    s->u[2] = N(rows_of)(s->out, projection, p->P_scales, p->H, 0, cell->projects != 0, NULL);
  }
}

// Gives the slice these units.
static INLINE void N(set_units)(N(Slice) * s, idx from, idx to) {
  const Pass* p = s->p;
  s->own = (Units){from, to, p->H};
  s->out = p->cell->projects ? (Units){0, p->P, p->P} : s->own;
}

// The number of products, and the k-th of them.
#undef PRODUCTS
#define PRODUCTS 4
static INLINE Packed* N(product)(N(Slice) * s, int k) { return k ? &s->u[k - 1] : &s->w; }

// Takes the memory for the packed weights from `*at`.
static void N(take_panels)(N(Slice) * s, uintptr_t* at) {
  for (int k = 0; k < PRODUCTS; k++) {
    Packed* m = N(product)(s, k);
    if (m->groups) m->panels = N(take)(at, s->p->products->panels_size(m));
  }
}

// Gives the slice its units' part of the panels that `all`, a slice with all units, has.
static void N(share_panels)(N(Slice) * s, N(Slice) * all) {
  for (int k = 0; k < PRODUCTS; k++) {
    Packed* m = N(product)(s, k);
    if (!m->groups) continue;
    const Packed before = {.groups = 1, .apart = s->own.from, .k = m->k};
    m->panels = (char*)N(product)(all, k)->panels + s->p->products->panels_size(&before);
    m->apart = s->own.H;
  }
}

// The memory for the operands of a product of all inputs of `rows`, or of `most` rows of another.
static size_t N(largest_operands)(const N(Slice) * s, idx rows, idx most) {
  size_t size = 0;
  for (int k = 0; k < PRODUCTS; k++) {
    const size_t own = s->p->products->operands_size(k ? s->u[k - 1].k : s->w.k, k ? most : rows);
    if (own > size) size = own;
  }
  return size;
}

typedef struct {
  const Products* products;
  const Packed* m;
  Team* team;
} N(PackJob);

static void N(pack_share)(void* data, int i, int n) {
  const N(PackJob)* job = data;
  Watch w = watch_of(job->team, i);
  job->products->pack_part(job->m, i, n, &w);
}

// Packs the weights of all products that have memory for it, with several threads if there is
// enough to do.
static void N(pack_all)(N(Slice) * s, Team* team) {
  for (int k = 0; k < PRODUCTS; k++) {
    const Packed* m = N(product)(s, k);
    if (!m->panels) continue;
    const double cost = MOVE_COST * m->groups * m->n * m->k;
    parallel(team, worth(team, cost), N(pack_share), &(N(PackJob)){s->p->products, m, team});
  }
}

// The same in one of several threads that have a slice each.
static void N(pack_own)(N(Slice) * s) {
  for (int k = 0; k < PRODUCTS; k++) {
    const Packed* m = N(product)(s, k);
    if (m->panels) s->p->products->pack_part(m, 0, 1, &s->watch);
  }
}

// See Kernels in native.h.
static size_t N(prepack)(const Pass* p, void* memory) {
  uintptr_t at = (uintptr_t)memory;
  N(Slice) s = {.p = p};
  N(set_units)(&s, 0, p->H);
  N(set_products)(&s, 0);
  N(take_panels)(&s, &at);
  if (memory) N(pack_all)(&s, p->team);
  return at - (uintptr_t)memory;
}

// The number of values of scratch memory that a slice needs, if it has `most` sequences.
static idx N(scratch_size)(const N(Plan) * plan, idx most) {
  const Pass* p = plan->p;
  if (plan->is_backward) return most * p->cell->scratch * p->H;
  return p->gates ? 0 : plan->ahead * most * p->cell->saved * p->H;
}

// The number of time steps whose products with w are computed at once, each of `most` rows.
static idx N(steps_ahead)(const N(Plan) * plan, const Packed* w, idx most) {
  const Pass* p = plan->p;
  if (plan->is_backward) return 1;
  const idx of_w = (idx)p->products->panels_size(w);
  const idx bytes = of_w < LEAST_AHEAD ? LEAST_AHEAD : of_w > MOST_AHEAD ? MOST_AHEAD : of_w;
  const idx made = row_blocks(p->cell) * p->H, row = made > p->I ? made : p->I;
  idx steps = bytes / ((idx)sizeof(real) * most * row);
  if (steps * most < 2 * TALL) steps = (2 * TALL + most - 1) / most;
  return steps > p->T ? p->T : steps;
}

// Gives each slice its sequences, units and memory, which begins at `at`; returns where it ends.
// With `at` 0 it writes nothing, so that the result is the size of the memory.
static uintptr_t N(lay_out)(N(Plan) * plan, uintptr_t at) {
  const Pass* p = plan->p;
  const int counting = at == 0, n = plan->n, by_units = plan->by_units;
  const idx H = p->H, most = by_units ? p->B : (p->B + n - 1) / n;
  const int few = !plan->is_backward && p->T * p->B <= FEW && p->rounding != AS_BYTES;
  uintptr_t packed = by_units && !plan->by_panels ? 0 : (uintptr_t)p->panels;
  plan->slices = N(take)(&at, sizeof(N(Slice)) * n);
  N(Slice)
  s = {.p = p, .loops = N(cells)[p->code], .b1 = p->B, .peers = &plan->barrier};
  N(set_units)(&s, 0, H);
  N(set_products)(&s, plan->is_backward);
  plan->ahead = N(steps_ahead)(plan, &s.w, most);
  if (packed) N(take_panels)(&s, &packed);
  N(Slice) all = s;
  const idx rows = plan->ahead * most, scratch = N(scratch_size)(plan, most);
  const idx noise = NOISE_ROWS * most * noise_width(p);
  for (int i = 0; i < n; i++) {
    s.watch = watch_of(p->team, i);
    if (by_units) {
      const idx unit = plan->by_panels ? 4 * L : L;
      N(set_units)(&s, share_start(H, unit, i, n), share_start(H, unit, i + 1, n));
    } else {
      s.b0 = share_start(p->B, 1, i, n);
      s.b1 = share_start(p->B, 1, i + 1, n);
    }
    // Slices that differ in their sequences use the same packed weights, those of the first one.
    if (by_units) N(set_products)(&s, plan->is_backward);
    if (plan->by_panels)
      N(share_panels)(&s, &all);
    else if (!packed && !few && (by_units || i == 0))
      N(take_panels)(&s, &at);
    s.b = N(take)(&at, sizeof(idx) * most);
    s.x = N(take)(&at, sizeof(void*) * rows);
    s.y = N(take)(&at, sizeof(void*) * rows);
    const size_t operands = N(largest_operands)(&s, rows, most);
    s.operands = operands ? N(take)(&at, operands) : NULL;
    // Slices that differ in their units use the same scratch memory.
    if (noise && !(by_units && i)) s.noise = N(take)(&at, sizeof(real) * noise);
    if (scratch && !(by_units && i)) s.scratch = N(take)(&at, sizeof(real) * scratch);
    if (!counting) plan->slices[i] = s;
  }
  return at;
}

// Decides how many threads to use and what they divide.  They divide the hidden units if each would
// have too few sequences to justify that it reads all weights.
static void N(divide)(N(Plan) * plan) {
  const Pass* p = plan->p;
  const double flops = 2.0 * p->cell->gates * p->H * (p->I + p->H) * p->T * p->B;
  const int sequences = at_most(worth(p->team, flops), p->B);
  const double most = most_by_units(p), vectors = (p->H + L - 1) / L;
  const idx panels = p->panels && p->H % (4 * L) == 0 ? p->H / (4 * L) : 0;
  int units = p->team ? at_most(p->team->n, most < vectors ? most : vectors) : 1;
  if (!p->W) units = at_most(units, panels);  // nothing is there that could be packed anew
  // No share of panels may be empty: `forward_share` knows the first thread by its first unit. With
  // an eighth more panels in one share than on average, it takes less time to pack anew.
  const idx largest = (panels + units - 1) / units;
  const int whole = units <= panels && (!p->W || 8 * (largest * units - panels) <= panels);
  plan->by_units =
      units > 1 && units >= sequences && p->B < enough(p, sizeof(real)) * units && (whole || p->W);
  plan->by_panels = plan->by_units && whole;
  plan->n = plan->by_units ? units : sequences;
  plan->barrier.n = plan->by_units ? units : 1;
}

// Plans the pass and runs `share` for each slice on a thread of its own.
static int N(execute)(const Pass* p, int is_backward, void (*share)(void*, int, int)) {
  N(Plan) plan = {.p = p, .is_backward = is_backward};
  N(divide)(&plan);
  void* memory = aligned_memory(N(lay_out)(&plan, 0));
  if (!memory) return -1;
  N(lay_out)(&plan, (uintptr_t)memory);
  if (!plan.by_units && !p->panels) N(pack_all)(plan.slices, p->team);
  parallel(p->team, plan.n, share, &plan);
  free(memory);
  if (p->sharing) *p->sharing = plan.by_units ? -plan.n : plan.n;
  return 0;
}

// ---- Forward

// Computes the pre-activations W x + b of the time steps from s->t0 to t1, for the sequences that
// have them and the units of the slice.
static void N(input_projection)(N(Slice) * s, idx t1) {
  const Pass* p = s->p;
  idx rows = 0;
  for (idx t = s->t0; t < t1; t++)
    for (idx b = s->b0; b < s->b1; b++)
      if (t < N(steps)(p, b)) {
        if (p->cell->norms) memset(N(pre_at)(s, t, b), 0, p->cell->saved * p->H * sizeof(real));
        s->x[rows] = (const real*)p->xs + N(at)(p, t, b, p->I);
        s->y[rows++] = N(pre_at)(s, t, b) + s->own.from;
      }
  N(multiply_rows)(s, &s->w, rows);
}

// Copies the state after the last step of sequence b to h_last and c_last.
static void N(copy_last)(const Pass* p, idx b) {
  const idx steps = N(steps)(p, b), last = p->reverse ? 0 : steps - 1, H = p->H, P = p->P;
  if (p->h_last && p->h_last != p->ys)  // they are the same array in a single step
    memcpy((real*)p->h_last + b * P, steps ? N(h_at)(p, last, b) : (const real*)p->h0 + b * P,
           P * sizeof(real));
  if (p->cell->has_c && p->cs)
    memcpy((real*)p->c_last + b * H, steps ? N(c_at)(p, last, b) : (const real*)p->c0 + b * H,
           H * sizeof(real));
}

// The forward pass of the i-th slice.
static void N(forward_share)(void* data, int i, int n) {
  N(Plan)* plan = data;
  N(Slice)* s = &plan->slices[i];
  const Pass* p = s->p;
  const Cell* cell = p->cell;
  (void)n;
  if (plan->by_units && !plan->by_panels) N(pack_own)(s);
  if (cell->has_c && !p->cs)
    for (idx b = s->b0; b < s->b1; b++)
      memcpy((real*)p->c_last + b * p->H + s->own.from, (const real*)p->c0 + b * p->H + s->own.from,
             (s->own.to - s->own.from) * sizeof(real));
  for (idx done = 0; done < p->T; done += plan->ahead) {
    const idx to = done + plan->ahead < p->T ? done + plan->ahead : p->T;
    s->t0 = p->reverse ? p->T - to : done;
    if (!N(barrier)(s)) return;
    N(input_projection)(s, s->t0 + to - done);
    for (idx j = done; j < to; j++) {
      const idx t = p->reverse ? p->T - 1 - j : j;
      N(active_sequences)(s, t);
      if (N(stopped)(s)) return;
      s->loops->step(s, t);
      if (p->storage) N(round_outputs)(s, t);
    }
  }
  // The first thread of those that divide the units does the rest.
  if (!N(barrier)(s) || s->own.from > 0) return;
  for (idx b = s->b0; b < s->b1; b++) N(copy_last)(p, b);
  N(clear_padding)(p, p->ys, p->P, s->b0, s->b1, &s->watch);
  if (cell->sums_gates && p->gates)
    N(clear_padding)(p, p->gates, cell->saved * p->H, s->b0, s->b1, &s->watch);
  if (cell->sums_cs && p->cs) N(clear_padding)(p, p->cs, p->H, s->b0, s->b1, &s->watch);
}

// See Kernels in native.h.
static int N(forward)(const void* pass) {
  const Pass* p = pass;
  return p->B ? N(execute)(p, 0, N(forward_share)) : 0;
}

// ---- Backward

// The backward pass of the i-th slice, without the gradients of weights and inputs.
static void N(backward_share)(void* data, int i, int n) {
  N(Plan)* plan = data;
  N(Slice)* s = &plan->slices[i];
  const Pass* p = s->p;
  (void)n;
  if (plan->by_units && !plan->by_panels) N(pack_own)(s);
  for (idx j = 0; j < p->T; j++) {
    const idx t = p->reverse ? j : p->T - 1 - j;
    N(active_sequences)(s, t);
    if (N(stopped)(s)) return;
    s->loops->step_backward(s, t);
  }
  if (!N(barrier)(s) || s->own.from > 0) return;
  N(clear_padding)(p, p->das, row_blocks(p->cell) * p->H, s->b0, s->b1, &s->watch);
  if (p->dhs) N(clear_padding)(p, p->dhs, p->P, s->b0, s->b1, &s->watch);
}

// See Kernels in native.h.
static int N(backward)(const void* pass) {
  const Pass* p = pass;
  if (p->T == 0 || p->B == 0) return N(sums_of_nothing)(p);
  const int status = N(execute)(p, 1, N(backward_share));
  return status ? status : (p->dropout ? N(sums_of_dropped) : N(sums))(p, N(cells)[p->code]);
}

#undef LEAST_AHEAD
#undef MOST_AHEAD
#undef FEW
