// The arguments of a call from Python as a pass, and what it costs.
#ifndef XRNN_PASSES_H
#define XRNN_PASSES_H

#include "arguments.h"
#include "native.h"
#include "packs.h"
#include "sets.h"
#include "tables.h"

// The number of operations of the products of a forward pass.  Each weight that is read counts as
// at least 5 operations, because reading it takes as long even if there are few rows to multiply.
static double products(const Pass* p) {
  const double weights = (double)p->cell->gates * p->H * (p->I + p->H);
  return weights * p->T * (p->B < 3 ? 5 : 2 * p->B);
}

// The same, with those of the activations.
static double operations(const Pass* p) {
  return products(p) + 100.0 * p->cell->gates * p->H * p->T * p->B;
}

// The number of threads to start for a pass, at most `threads`.
static int team_size(const Pass* p, int threads, int is_backward) {
  const double shares = p->B > most_by_units(p) ? p->B : most_by_units(p);
  return worth_making(at_most(threads, shares), products(p) * (is_backward ? 2 : 1));
}

// The number of items in the arrays of one call.
typedef struct {
  Py_ssize_t bh, bp, tbi, tbh, tbp, pre, gh, ghi, ghp;
} Sizes;

static Sizes sizes(Arguments* a, const Pass* p) {
  const Py_ssize_t tb = times(a, p->T, p->B), tbh = times(a, tb, p->H);
  const Py_ssize_t gh = times(a, p->cell->gates, p->H);
  return (Sizes){.bh = times(a, p->B, p->H),
                 .bp = times(a, p->B, p->P),
                 .tbi = times(a, tb, p->I),
                 .tbh = tbh,
                 .tbp = times(a, tb, p->P),
                 .pre = times(a, row_blocks(p->cell), tbh),
                 .gh = gh,
                 .ghi = times(a, gh, p->I),
                 .ghp = times(a, gh, p->P)};
}

// Reads what a cell with options draws.
static void read_noise(Arguments* a, Pass* p, const Sizes* s) {
  if (!p->cell->functions) return;
  p->dropout = reals(a, "dropout_h", IN | OPTIONAL, s->bp, p->P);
  p->zoneout[0] = reals(a, "zoneout_h", IN | OPTIONAL, s->tbp, p->P);
  p->zoneout[1] = reals(a, "zoneout_c", IN | OPTIONAL, s->tbh, p->H);
}

#define LARGEST (PY_SSIZE_T_MAX / 8)

// Reads the number of a cell, the rounding of its products (at most `most`), and its options if it
// has any.
static void read_cell(Arguments* a, Pass* p, const Set* set, int most) {
  p->code = (int)number(a, "cell", 0, set->kernels->n_cells - 1);
  p->cell = set->kernels->cell(p->code);
  p->rounding = (int)number(a, "rounding", 0, most);
  if (p->cell->functions) read_options(a, p->cell->functions, &p->options);
}

static void read_widths(Arguments* a, Pass* p) {
  p->I = number(a, "I", 0, LARGEST);
  p->H = number(a, "H", 1, LARGEST);
  p->P = p->cell->projects ? p->options.proj_size : p->H;
}

// Reads the cell and the sizes.
static void read_shape(Arguments* a, Pass* p, const Set* set, int has_T, int most) {
  read_cell(a, p, set, most);
  p->T = has_T ? number(a, "T", 0, LARGEST) : 1;
  p->B = number(a, "B", 0, LARGEST);
  read_widths(a, p);
}

static const int64_t* lengths(Arguments* a, const Pass* p) {
  // The format of int64 is l, or q if long has fewer bits.
  const int64_t* given = items(a, "lengths", IN | OPTIONAL, p->B, p->B, sizeof(int64_t), "lq");
  for (idx i = 0; given && i < p->B; i++) {
    if (given[i] >= 0 && given[i] <= p->T) continue;
    PyErr_Format(PyExc_ValueError, "lengths[%zd] is %lld; it must lie in 0 to T = %zd",
                 (Py_ssize_t)i, (long long)given[i], (Py_ssize_t)p->T);
    a->failed = 1;
    return NULL;
  }
  return given;
}

// Reads the arguments of `forward`, see there; returns the number of threads.
static int read_forward(Arguments* a, Pass* p, const Set* set) {
  read_shape(a, p, set, 1, AS_BYTES);
  const Sizes s = sizes(a, p);
  p->xs = reals(a, "xs", IN, s.tbi, p->I);
  p->products = products_of(set, a, p->rounding);
  read_weights(a, p);
  p->lengths = lengths(a, p);
  p->reverse = (int)number(a, "reverse", 0, 1);
  p->h0 = reals(a, "h0", IN, s.bp, p->P);
  p->c0 = reals(a, "c0", IN | OPTIONAL, s.bh, p->H);
  p->ys = reals(a, "ys", OUT, s.tbp, p->P);
  p->h_last = reals(a, "h_last", OUT, s.bp, p->P);
  p->c_last = reals(a, "c_last", OUT | OPTIONAL, s.bh, p->H);
  p->gates = reals(a, "gates", OUT | OPTIONAL, s.pre, row_blocks(p->cell) * p->H);
  p->cs = reals(a, "cs", OUT | OPTIONAL, s.tbh, p->H);
  read_noise(a, p, &s);
  p->storage = (int)number(a, "storage", 0, a->real == sizeof(float) ? BFLOAT16 : AS_THEY_ARE);
  const int threads = (int)number(a, "threads", 1, 1 << 20);
  required(a, "c0", p->c0, p->cell->has_c);
  required(a, "c_last", p->c_last, p->cell->has_c);
  required(a, "cs", p->cs, p->cell->has_c && p->gates);
  complete(a);
  return threads;
}

// The same of `backward`.
static int read_backward(Arguments* a, Pass* p, const Set* set) {
  read_shape(a, p, set, 1, AS_BFLOAT16);
  const Sizes s = sizes(a, p);
  p->W = reals(a, "W", IN, s.ghi, p->I);
  p->products = products_of(set, a, p->rounding);
  p->U = reals(a, "U", IN | OPTIONAL, s.ghp, p->P);
  if (p->cell->norms) p->b = reals(a, "b", IN, s.gh, s.gh);
  read_extras(a, p);
  p->gates = reals(a, "gates", IN | OPTIONAL, s.pre, row_blocks(p->cell) * p->H);
  p->cs = reals(a, "cs", IN | OPTIONAL, s.tbh, p->H);
  p->ys = reals(a, "ys", IN, s.tbp, p->P);
  p->h0 = reals(a, "h0", IN, s.bp, p->P);
  p->c0 = reals(a, "c0", IN | OPTIONAL, s.bh, p->H);
  p->dys = reals(a, "dys", IN | OPTIONAL, s.tbp, p->P);
  read_noise(a, p, &s);
  p->lengths = lengths(a, p);
  p->reverse = (int)number(a, "reverse", 0, 1);
  p->dh = reals(a, "dh", OUT, s.bp, p->P);
  p->dc = reals(a, "dc", OUT | OPTIONAL, s.bh, p->H);
  p->das = reals(a, "das", OUT, s.pre, row_blocks(p->cell) * p->H);
  if (p->cell->projects) p->dhs = reals(a, "dhs", OUT, s.tbp, p->P);
  p->dxs = reals(a, "dxs", OUT | OPTIONAL, s.tbi, p->I);
  p->dW = reals(a, "dW", OUT, s.ghi, p->I);
  p->dU = reals(a, "dU", OUT | OPTIONAL, s.ghp, p->P);
  p->db = reals(a, "db", OUT, s.gh, s.gh);
  for (int k = 0; k < MAX_EXTRAS && p->cell->extras[k].name; k++)
    p->dextras[k] = read_extra(a, p, &p->cell->extras[k], OUT, "d");
  const Py_ssize_t summed = times(a, p->cell->norm_sums, p->H);
  if (summed) p->rows = reals(a, "rows", OUT, times(a, p->B, summed), summed);
  p->adds = (int)number(a, "adds", 0, 1);
  p->xs = reals(a, "xs", IN, s.tbi, p->I);
  const int threads = (int)number(a, "threads", 1, 1 << 20);
  required(a, "U", p->U, p->cell->has_U);
  required(a, "dU", p->dU, p->cell->has_U);
  required(a, "gates", p->gates, p->cell->saved > 0);
  required(a, "cs", p->cs, p->cell->has_c);
  required(a, "c0", p->c0, p->cell->has_c);
  required(a, "dc", p->dc, p->cell->has_c);
  complete(a);
  return threads;
}

#endif
