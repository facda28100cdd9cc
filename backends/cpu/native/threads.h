// A team of threads that exists for one call, or for one of two passes of a call (pairs.h).
//
// A call starts its threads, gives them one job after the other, and joins them before it returns.
// No threads exist between calls, so a fork cannot lose any, and simultaneous callers do not share
// any.  To start and join a thread takes about 50 µs, to give it another job less than 1 µs.
// `worth_making` and `worth` decide how much arithmetic justifies this.
#ifndef XRNN_THREADS_H
#define XRNN_THREADS_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "denormals.h"
#include "stop.h"

#define MAX_THREADS 256

typedef ptrdiff_t idx;

typedef struct Team Team;

typedef struct {
  Team* team;
  int i;
  pthread_t thread;
} Member;

// Member 0 is the calling thread.
struct Team {
  int n;
  void (*job)(void* data, int i, int n);  // null: the threads end
  void* data;
  int shares;
  atomic_uint jobs;  // the number of jobs given so far
  atomic_int busy;   // the number of members that have not finished the last job
  Stop stop;
  Member members[MAX_THREADS];
};

// The operations that a thread could do while it waits briefly.
#define WAITING 1e3

// Waits briefly.  i is how often the caller has waited in a row; after many times, other threads
// may use the core.
static inline void wait_a_little(int i) {
  if (i > 2000) {
    sched_yield();
    return;
  }
#if defined __x86_64__
  __builtin_ia32_pause();
#elif defined __aarch64__
  __asm__ volatile("yield");
#endif
}

// The function that the thread of a member runs.
static inline void* work(void* member) {
  const Member* me = member;
  Team* team = me->team;
  flush_denormals();
  for (unsigned done = 0;; done++) {
    for (int i = 0; atomic_load_explicit(&team->jobs, memory_order_acquire) == done; i++)
      wait_a_little(i);
    if (!team->job) return NULL;
    if (me->i < team->shares) team->job(team->data, me->i, team->shares);
    atomic_fetch_sub_explicit(&team->busy, 1, memory_order_release);
  }
}

// Lets n threads started with `attributes` run on any core that the calling thread may use, except
// the one it is on, which it keeps busy itself.  Otherwise a scheduler that puts new threads on the
// core of their creator would make them wait.  If there are fewer than n other cores, nothing is
// changed.
static inline void keep_off_this_core(int n, pthread_attr_t* attributes) {
#ifdef __GLIBC__
  cpu_set_t cores;
  const int here = sched_getcpu();
  if (here < 0 || sched_getaffinity(0, sizeof cores, &cores) != 0) return;
  CPU_CLR(here, &cores);
  if (CPU_COUNT(&cores) >= n) pthread_attr_setaffinity_np(attributes, sizeof cores, &cores);
#else
  (void)n, (void)attributes;
#endif
}

// Starts a team of n threads, or of fewer if the system allows no more.  `join` ends it.  `ask`
// tells from time to time whether to stop; see stop.h.
static inline void make_team(Team* team, int n, int (*ask)(void* data), void* data) {
  team->n = 1;
  team->stop.ask = ask;
  team->stop.data = data;
  team->stop.asked = ask ? nanoseconds() : 0;
  atomic_init(&team->stop.is_set, 0);
  if (n <= 1) return;
  atomic_init(&team->jobs, 0);
  pthread_attr_t attributes;
  const int with_attributes = pthread_attr_init(&attributes) == 0;
  if (with_attributes) keep_off_this_core(n - 1, &attributes);
  for (; team->n < n && team->n < MAX_THREADS; team->n++) {
    Member* m = &team->members[team->n];
    m->team = team;
    m->i = team->n;
    if (pthread_create(&m->thread, with_attributes ? &attributes : NULL, work, m)) break;
  }
  if (with_attributes) pthread_attr_destroy(&attributes);
}

// What the i-th member of a team, or of no team, watches while it does a job.
static inline Watch watch_of(Team* team, int i) {
  return (Watch){.stop = team ? &team->stop : NULL, .asks = i == 0};
}

// Calls job(data, i, n) for i = 0 … n-1, each on a thread of its own, and waits until all have
// returned.  The calling thread runs i = 0.  n is at most team->n.
static inline void parallel(Team* team, int n, void (*job)(void* data, int i, int n), void* data) {
  if (n > 1) {
    team->job = job;
    team->data = data;
    team->shares = n;
    atomic_store_explicit(&team->busy, team->n - 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&team->jobs, 1, memory_order_release);
  }
  job(data, 0, n > 1 ? n : 1);
  Watch w = watch_of(team, 0);
  for (int i = 0; n > 1 && atomic_load_explicit(&team->busy, memory_order_acquire); i++) {
    stopped(&w, WAITING);  // so that the others hear of it
    wait_a_little(i);
  }
}

// Ends the threads of a team.
static inline void join(Team* team) {
  if (team->n == 1) return;
  team->job = NULL;
  atomic_fetch_add_explicit(&team->jobs, 1, memory_order_release);
  for (int i = 1; i < team->n; i++) pthread_join(team->members[i].thread, NULL);
}

// A barrier, where n members of a team wait in the middle of a job until all have arrived.
typedef struct {
  int n;
  atomic_int arrived;
  atomic_uint round;
} Barrier;

// Returns whether all have arrived.  Otherwise the call is stopped: this member must do nothing
// more that the others could see, because they may not wait for it.
static inline int barrier_wait(Barrier* b, Watch* w) {
  if (b->n < 2) return 1;
  if (is_stopped(w->stop)) return 0;
  const unsigned round = atomic_load_explicit(&b->round, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) == b->n - 1) {
    atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&b->round, round + 1, memory_order_release);
    return 1;
  }
  for (int i = 0; atomic_load_explicit(&b->round, memory_order_acquire) == round; i++) {
    if (stopped(w, WAITING)) return 0;
    wait_a_little(i);
  }
  return 1;
}

// Where the i-th of n shares of `total` begins.  It is a multiple of `unit`, or `total`.
static inline idx share_start(idx total, idx unit, int i, int n) {
  const idx units = (total + unit - 1) / unit, start = (units * i / n) * unit;
  return start < total ? start : total;
}

// The smaller of threads and n, and of MAX_THREADS, but at least 1.
static inline int at_most(int threads, double n) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  return threads < n ? threads : n > 1 ? (int)n : 1;
}

// The number of threads, at most `threads`, to start for a call of so many operations.  20 million
// of them take a little longer than to start and join a thread.
static inline int worth_making(int threads, double flops) { return at_most(threads, flops / 20e6); }

// The number of threads of a team to use for one job of so many operations; 1 if there is no team.
static inline int worth(const Team* team, double flops) {
  return team ? at_most(team->n, 1 + flops / 1e6) : 1;
}

// Returns n bytes aligned to 64 bytes, or null; to be released by free.
static inline void* aligned_memory(size_t n) {
  void* p = NULL;
  return posix_memalign(&p, 64, n ? n : 64) ? NULL : p;
}

#endif
