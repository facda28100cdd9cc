// Runs one pass that Python asks for, or two at once.
#ifndef XRNN_PAIRS_H
#define XRNN_PAIRS_H

#include "calls.h"
#include "passes.h"

#include <unistd.h>

// A pass as Python asks for it.
typedef struct {
  Arguments arguments;
  Pass pass;
  int (*run)(const void* pass);
  int is_backward, threads, sharing, status;
} Call;

static void read_call(Call* c, PyObject* const* args, Py_ssize_t n, const Set* set,
                      int is_backward) {
  *c = (Call){.arguments = {.args = args, .n = n}, .is_backward = is_backward, .sharing = 1};
  c->pass.sharing = &c->sharing;
  c->threads = (is_backward ? read_backward : read_forward)(&c->arguments, &c->pass, set);
  const Kernels* kernels = of_type(set, &c->arguments);
  c->run = is_backward ? kernels->backward : kernels->forward;
}

static double cost(const Call* c) { return operations(&c->pass) * (c->is_backward ? 2 : 1); }

static PyObject* run_one(PyObject* const* args, Py_ssize_t n, int is_backward) {
  Call c;
  Team team;
  read_call(&c, args, n, chosen, is_backward);
  c.pass.team = &team;
  const int size = team_size(&c.pass, c.threads, is_backward);
  if (perform(&c.arguments, &team, size, cost(&c), c.run, &c.pass)) return NULL;
  return PyLong_FromLong(c.sharing);
}

// Two passes, and the team of at most two threads that run them.  Each pass has a team of its own.
typedef struct {
  Call calls[2];
  Team team;
} Pair;

// How the team of a pass is asked to stop: in the thread of the call, which asks for both; and in
// the other one.
static int ask_for_both(void* data) {
  Stop* stop = data;
  if (!is_stopped(stop) && stop->ask(stop->data))
    atomic_store_explicit(&stop->is_set, 1, memory_order_relaxed);
  return is_stopped(stop);
}

static int ask_the_first(void* data) { return is_stopped(data); }

// The i-th of n threads runs both passes, or one of them.
static void run_some(void* data, int i, int n) {
  Pair* pair = data;
  Stop* stop = &pair->team.stop;
  int (*const ask)(void*) = i ? ask_the_first : ask_for_both;
  for (int k = i; k < 2 && !is_stopped(stop); k += n) {
    Call* c = &pair->calls[k];
    const int own = (c->threads + n - 1 - i) / n;
    Team team;
    c->pass.team = &team;
    make_team(&team, team_size(&c->pass, own, c->is_backward), stop->ask ? ask : NULL, stop);
    c->status = c->run(&c->pass);
    join(&team);
  }
}

static int run_pair(const void* what) {
  Pair* pair = (Pair*)what;
  parallel(&pair->team, pair->team.n, run_some, pair);
  return pair->calls[0].status || pair->calls[1].status ? -1 : 0;
}

// The size of a second cache in bytes; 0 where the system does not tell it.  It is taken as if each
// thread had a core, and each core a second cache, of its own.
static double second_cache;

static void find_second_cache(void) {
#if defined _SC_LEVEL2_CACHE_SIZE
  const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  second_cache = size > 0 ? (double)size : 0;
#endif
}

// Whether two passes are to be run at once, on half of the threads each.
//
// They are not if the threads of one pass divide the hidden units, and the recurrent weights stay
// in the second caches of all of them, but not in those of half of them.  An odd number of threads
// is better used by one pass after the other, if there are sequences for all of them.
static int worth_halving(const Call* c) {
  const Pass* p = &c->pass;
  const int n = c->threads;
  const int all = team_size(p, n, c->is_backward);
  const int half = team_size(p, n > 1 ? n / 2 : 1, c->is_backward);
  const double bytes = step_bytes(p, c->arguments.real);
  if (p->B < enough(p, c->arguments.real) * all && most_by_units(p) >= all &&
      bytes <= second_cache * all && bytes > second_cache * half)
    return 0;
  return n % 2 == 0 || p->B < n;
}

static PyObject* run_two(PyObject* const* args, Py_ssize_t n, int is_backward) {
  const Set* set = chosen;
  const Py_ssize_t first = n ? PyLong_AsSsize_t(args[0]) : 0;
  if (first < 1 || first >= n) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "these are not two passes");
    return NULL;
  }
  Pair pair;
  Call *one = &pair.calls[0], *other = &pair.calls[1];
  other->arguments = (Arguments){.failed = 1};
  read_call(one, args + 1, first, set, is_backward);
  if (!one->arguments.failed) read_call(other, args + 1 + first, n - 1 - first, set, is_backward);
  int status = -1;
  if (!other->arguments.failed) {
    const double flops = (products(&one->pass) + products(&other->pass)) * (is_backward ? 2 : 1);
    const int halves = worth_halving(one) ? 2 : 1;
    const int size = worth_making(at_most(one->threads, halves), flops);
    status = compute(&pair.team, size, cost(one) + cost(other), run_pair, &pair);
  }
  release(&one->arguments);
  release(&other->arguments);
  if (status) return NULL;
  Py_RETURN_NONE;
}

#endif
